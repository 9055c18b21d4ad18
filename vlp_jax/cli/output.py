"""What every command prints: one JSON object on the last line of stdout with --json; and the flags
that all share.

The file exists so that scripts can rely on one rule.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any


def purpose(doc: str) -> str:
    """A command's module docstring as its help: without why the file exists."""
    return doc.partition(" The file exists")[0].partition("\nThe file exists")[0].strip()


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on the last line of stdout"
    )


def add_sharding(parser: argparse.ArgumentParser) -> None:
    """Adds --sharding."""
    parser.add_argument(
        "--sharding",
        default="",
        metavar="PRESET",
        help="weights and rows over all devices: replicated, fsdp or fsdp_tensor; default: weights"
        " whole",
    )


def told(text: str) -> None:
    """Prints a text; the first process of a job does."""
    from vlp_jax.parallel.startup import first_process

    if first_process():
        print(text)


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object on one line, flushed last; the first process of a job does. Numbers
    that are not finite are null.
    """
    from vlp_jax.core.strict_json import dumps
    from vlp_jax.parallel.startup import first_process

    if not first_process():
        return

    sys.stdout.flush()
    print(dumps(value), flush=True)


def take_host_flags(argv: list[str]) -> list[str]:
    """Turns --coordinator, --num-processes and --process-id into the variables that
    parallel/hosts.py reads. Returns the other words.
    """
    from vlp_jax.core.errors import UserError
    from vlp_jax.parallel.hosts import FLAGS

    rest, words = [], iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in FLAGS:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value:
            raise UserError(f"{flag}: needs a value, as in {flag}=VALUE")
        os.environ[FLAGS[flag]] = value
    return rest


def folder_or_file(text: str) -> str:
    """The type of flags that name one: a shell leaves the ~ of `--flag=~/x` as it is."""
    return os.path.expanduser(text)


def check_flags(argv: list[str], parser: argparse.ArgumentParser) -> None:
    """Raises UserError, with the nearest one, for a `--flag` that neither the parser nor its
    sub-command has; `--config.KEY`, of which some commands have any, is left to them."""
    from vlp_jax.core.errors import UserError, nearest

    parsers = [parser]
    for action in parser._actions:
        if isinstance(action.choices, dict):
            parsers += [action.choices[word] for word in argv if word in action.choices]
    known = {flag for one in parsers for flag in one._option_string_actions}
    for word in argv[: argv.index("--") if "--" in argv else None]:
        flag = word.partition("=")[0]
        if not flag.startswith("--") or flag.startswith("--config."):
            continue
        if not any(name.startswith(flag) for name in known):  # argparse knows beginnings
            raise UserError(f"{flag}: unknown flag{nearest(flag, known)}")


def take_switches(argv: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The words with `--json=true` as `--json` and without `--json=false`, for all flags of the
    parser and its sub-commands that take no value.

    Raises:
      UserError: such a flag with a value that is neither.
    """
    from vlp_jax.api.config import switch

    switches, rest = set(_switches(parser)), []
    for word in argv:
        flag, equals, value = word.partition("=")
        if not (equals and flag in switches):
            rest.append(word)
        elif switch(flag, value):
            rest.append(flag)
    return rest


def _switches(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.nargs == 0:
            yield from action.option_strings
        elif isinstance(action.choices, dict):  # sub-commands
            for sub in action.choices.values():
                yield from _switches(sub)
