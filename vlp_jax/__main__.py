"""`python -m vlp_jax COMMAND`: finds the command's file, calls it, turns errors into one line and
an exit code.

Exit codes: 0 done, 1 failure, 2 a mistake in the command or its input, 69 another process of the
job died or the run hung, 75 stopped by a signal with the state saved, 130 by Ctrl-C before
there was any. The file exists so that `--help` is instant: nothing heavy is imported before a
command asks for it.
"""

import importlib
import logging
import sys

from vlp_jax.core.ending import program
from vlp_jax.core.memory import use_huge_pages

EXIT_PREEMPTED = 75  # of train/preemption.py, which is heavy to import
COMMANDS = {
    "train": "train or resume a run from a config",
    "plan": "does the training step fit a pod: memory, collectives, FLOPs, asked of its compiler",
    "replay": "rerun logged steps from their checkpoint and compare every bit",
    "eval": "evaluate a run's folder or a converted checkpoint",
    "data": "index, check, stats, bench, convert, wordpieces, prepare, cache",
    "convert": "open_clip / Hugging Face checkpoints <-> vlp_jax",
    "repro": "repeat a table of a paper: its number, ours, pass or fail",
    "embed": "embed a folder of pictures and a file of texts",
    "index": "embed a data set into a folder to search",
    "search": "find pictures of an index by text, picture or vector",
    "serve": "the search page and its JSON service over an index",
    "similarity": "own pictures x own prompts: table, heat map, map of the shared space",
    "capfilt": "write texts for pictures, drop those that do not match, keep the rest as data",
    "generate": "captions of pictures, or answers to questions about them",
    "sample": "pictures from prompts, pictures, masks and control maps",
    "forward": "any function of a checkpoint on arrays of an .npz",
    "doctor": "versions, devices, data visibility",
}
USAGE = "usage: python -m vlp_jax COMMAND [--help] [--json] [--debug] ...\n\ncommands:\n"
HOSTS = """

one process per host, each with (Slurm and TPU pods need none of these):
  --coordinator=HOST:PORT --num-processes=N --process-id=I"""


def usage() -> str:
    """The list of commands."""
    return USAGE + "\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items()) + HOSTS


def main(argv: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if hasattr(sys.stdout, "reconfigure"):  # not a notebook's: a name no terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    # before a library that a command imports gives lines a form of its own
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    command, rest = argv[0], argv[1:]
    debug = "--debug" in rest
    rest = [word for word in rest if word != "--debug"]
    from vlp_jax.core.errors import RunError, UserError, nearest

    if command not in COMMANDS:
        print(f"error: unknown command {command!r}{nearest(command, COMMANDS)}", file=sys.stderr)
        return 2
    try:
        from vlp_jax.cli.output import check_flags, take_host_flags, take_switches

        module = importlib.import_module(f"vlp_jax.cli.{command}")
        parser, rest = module.parser(), take_host_flags(rest)
        check_flags(rest, parser)
        code = module.main(take_switches(rest, parser)) or 0
        _leave()
        return code
    except Exception as error:
        if debug:
            raise
        code = 2 if isinstance(error, UserError) else getattr(error, "exit_code", 1)
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
        text = "; ".join(lines) or type(error).__name__
        if "RESOURCE_EXHAUSTED" in text:
            text += "; a smaller batch_size, accumulate=N or method.remat=full needs less memory"
        known = isinstance(error, (UserError, RunError)) or hasattr(error, "exit_code")
        note = "" if known else f"{type(error).__name__} (a traceback with --debug): "
        print(f"{'' if code == EXIT_PREEMPTED else 'error: '}{note}{text}", file=sys.stderr)
        _leave(text, code, known and error.__cause__ is None)  # what it wraps may be an echo
        return code


def _leave(text: str = "", code: int = 0, known: bool = True) -> None:
    """Tells the other processes of the job, where there are any, how this one ends."""
    pulse = sys.modules.get("vlp_jax.parallel.pulse")
    if pulse is not None and code in (0, EXIT_PREEMPTED):  # all processes stop alike
        pulse.leave()
    elif pulse is not None:
        pulse.fail(text, code, known)


if __name__ == "__main__":
    use_huge_pages()
    program(main, sys.argv[1:])
