"""`data index | check | stats | bench | convert | wordpieces | prepare`: looks after data sets.

The file exists so that a set is indexed, proven sound, measured and converted without writing code.
Every sub-command takes --json: one JSON object on the last line of stdout.
"""

import argparse
import os
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, print_json
from vlp_jax.parallel.hosts import process_id

PATH_HELP = (
    "tar pattern (x-{0000..0012}.tar), folder (captions:DIR, classes:DIR or pictures:DIR says what "
    "it is), .csv/.tsv/.jsonl, *.array_record, tfds:NAME[:SPLIT] or builtin:emoji/noto-train"
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
    sub.add_argument("name", choices=("emoji", "fashion_mnist"))
    sub.add_argument("--out", metavar="DIR", help="default for emoji: the package's own folder")
    text = (
        "fashion_mnist: folder of its four *-ubyte.gz files (default: Debian's package "
        "dataset-fashion-mnist, downloaded by apt-get and only unpacked)"
    )
    sub.add_argument("--source", metavar="DIR", default="", help=text)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns its exit code. Raises UserError and RunError.

    It uses no device, so in a job of several processes the first one does it alone.
    """
    flags = vars(parser().parse_args(argv))
    if process_id(os.environ):
        return 0
    command, as_json = flags.pop("command"), flags.pop("json")
    from vlp_jax.api.data import COMMANDS, shortened
    from vlp_jax.report.data_sets import print_report

    report = COMMANDS[command](**flags)
    if as_json:
        print_json({"command": f"data {command}", **shortened(report)})
    else:
        print_report(command, report, flags)
    return int(not report.get("passed", True))
