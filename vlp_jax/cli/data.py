"""`data index | check | stats | bench | convert | wordpieces | prepare | cache`: looks after data
sets.

The file exists so that a set is indexed, proven sound, measured and converted without writing code.
Every sub-command takes --json: one JSON object on the last line of stdout.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from vlp_jax.api.config import split_overrides
from vlp_jax.cli.output import add_json, folder_or_file, print_json
from vlp_jax.core.errors import UserError
from vlp_jax.parallel.hosts import process_id

PATH_HELP = (
    "tar pattern (x-{0000..0012}.tar), folder (captions:DIR, classes:DIR or pictures:DIR says what "
    "it is), .csv/.tsv/.jsonl, a caption or question set's .json[:SPLIT], *.array_record, "
    "tfds:NAME[:SPLIT] or builtin:emoji/noto-train"
)


def parser() -> argparse.ArgumentParser:
    """The command line with its sub-commands."""
    cli = argparse.ArgumentParser(prog="python -m vlp_jax data", description=__doc__.split("\n")[0])
    commands = cli.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, path: str | None = "PATH") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if path:
            sub.add_argument("path", metavar=path, help=PATH_HELP)
        add_json(sub)
        return sub

    sub = add("index", "write SHARD.index beside each tar")
    sub.add_argument("--rebuild", action="store_true", help="walk the tars even where indices fit")
    sub = add("check", "read and decode everything; names shard, key and reason of all damage")
    sub.add_argument("--budget", type=float, default=1e-3, help="share allowed (default 1e-3)")
    sub.add_argument("--limit", type=int, help="decode only the first N samples")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    sub = add("stats", "captions and their tokens, lengths, picture sizes, metadata keys")
    sub.add_argument("--limit", type=int, default=1000, help="samples to look at (default 1000)")
    sub.add_argument("--tokenizer", default="clip", help="as data.tokenizer (default clip)")
    sub = add("bench", "images per second of the training pipeline")
    sub.add_argument("--batch-size", type=int, default=64)
    sub.add_argument("--image-size", type=int, default=224)
    sub.add_argument("--tokenizer", default="bytes", help="as data.tokenizer (default bytes)")
    sub.add_argument("--workers", type=int, default=0, help="processes; 0 reads in threads")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    sub.add_argument("--seconds", type=float, default=10.0)
    sub = add("convert", "any source to tar shards with indices, or to ArrayRecord", "IN")
    sub.add_argument("out", metavar="OUT", help="an empty or new folder")
    sub.add_argument("--to", choices=("tar", "array_record"), default="tar")
    sub.add_argument("--per-shard", type=int, default=10_000, help="samples (default 10000)")
    sub = add("wordpieces", "a word-piece tokenizer.json of the captions, as BERT's")
    sub.add_argument("out", metavar="FILE.json", help="for data.tokenizer")
    sub.add_argument("--size", type=int, default=100_000, help="pieces (default 100000, ALIGN's)")
    sub = add("prepare", "build a known data set", None)
    sub.add_argument("name", choices=("emoji", "fashion_mnist", "emoji_scenes"))
    sub.add_argument("--out", metavar="DIR", help="default for emoji: the package's own folder")
    text = (
        "fashion_mnist: folder of its four *-ubyte.gz files (default: Debian's package "
        "dataset-fashion-mnist, downloaded by apt-get and only unpacked)"
    )
    sub.add_argument("--source", metavar="DIR", default="", help=text)
    _add_scenes(sub)
    _add_cache(
        add("cache", "outputs of a model's functions, to train on instead of pictures", None)
    )
    return cli


def _add_scenes(sub: argparse.ArgumentParser) -> None:
    """A flag for each of data/scenes/options.py, absent where it is not given; the numbers here are
    its defaults."""
    group = sub.add_argument_group("emoji_scenes", "composed scenes of the embedded emoji")
    for flag, default, text in (
        ("objects", "small", "24 emoji of one word each, or all"),
        ("kinds", 0, "so many first of these; 0: all"),
        ("most", 3, "objects in a scene at most, 1 to 4"),
        ("tints", 0.0, "share of a scene's kinds that are drawn and told in one colour"),
        ("styles", "apart", "apart: test is in the other style; both: any scene is in either"),
        ("scale", 1.0, "of the objects' sizes, 0.5 to 1.4"),
        ("train", 6000, "scenes"),
        ("val", 250, "scenes"),
        ("test", 500, "scenes in the other style"),
        ("noisy", 6000, "scenes, of which a share has another's captions"),
        ("vqa-train", 9000, "questions, three to a scene"),
        ("vqa-test", 1500, "questions in the other style"),
        ("wrong", 0.4, "that share"),
        ("changes", 0.0, "share of the objects to learn from that look each a little different"),
        ("per-shard", 1000, "samples of a tar"),
        ("seed", 0, "another one, other scenes"),
        ("processes", os.cpu_count() or 1, "that draw"),
    ):
        said = f"{text} (default {default})"
        group.add_argument(f"--{flag}", type=type(default), default=argparse.SUPPRESS, help=said)


def _add_cache(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=folder_or_file, required=True, metavar="DIR", help="new folder")
    text = "a recipe (--config.KEY=VALUE changes keys): the first weights and the data of its run"
    sub.add_argument("--config", metavar="FILE.py[:ARGS]", default="", help=text)
    text = "or a converted checkpoint or a workdir, with --path"
    sub.add_argument("--checkpoint", type=folder_or_file, metavar="DIR", default="", help=text)
    sub.add_argument("--path", metavar="DATA", default="", help=f"with --checkpoint: {PATH_HELP}")
    text = "with commas between (default: all whose outputs the method takes in training)"
    sub.add_argument("--functions", metavar="NAMES", default="", help=text)
    sub.add_argument("--batch-size", type=int, default=64)
    sub.add_argument("--part-rows", type=int, default=1024, help="samples of a part (default 1024)")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1)


def _cache(flags: dict[str, Any], overrides: dict[str, str]) -> dict[str, Any]:
    """`data cache`: the one that computes, on all devices of a job."""
    from vlp_jax.api.cache import Request, cache
    from vlp_jax.api.config import load_config
    from vlp_jax.parallel.startup import start_jax

    names = tuple(name for name in flags.pop("functions").split(",") if name)
    spec = flags.pop("config")
    config = load_config(spec, overrides) if spec else None
    request = Request(config=config, functions=names, **flags)
    start_jax()
    return cache(request)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns its exit code. Raises UserError and RunError.

    But for `cache` it uses no device, so in a job of several processes the first one does it alone.
    """
    rest, overrides = split_overrides(list(sys.argv[2:] if argv is None else argv))
    flags = vars(parser().parse_args(rest))
    command, as_json = flags.pop("command"), flags.pop("json")
    if overrides and not flags.get("config"):
        raise UserError(
            f"--config.{next(iter(overrides))}: only `data cache --config=FILE` has keys"
        )
    if process_id(os.environ) and command != "cache":
        return 0
    from vlp_jax.api.data import COMMANDS, shortened
    from vlp_jax.report.data_sets import print_report

    report = _cache(flags, overrides) if command == "cache" else COMMANDS[command](**flags)
    if not report:
        return 0
    if as_json:
        print_json({"command": f"data {command}", **shortened(report)})
    else:
        print_report(command, report, flags)
    return int(not report.get("passed", True))
