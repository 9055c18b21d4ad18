"""`capfilt --captioner=A --filter=B --data=PATH --out=DIR`: writes a text for every picture of a
data set, drops the texts that do not match theirs, and keeps the rest as a data set.

DIR gets tars with indices: the samples that have a text left, which train as any other data; their
JSON holds every text with its score under `capfilt`. texts/*.jsonl has the decisions on all
pictures, report/kept_and_dropped.png shows some, manifest.json counts. A without B keeps all, B
without A filters the data's own texts. Texts are drawn from the nucleus of --top-p, or written with
--beams. Damaged pictures are skipped and counted. The same command goes on after a kill, and finds
a finished result finished. The file exists as the command's parser.
"""

import argparse
import os
from collections import Counter
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, print_json, purpose


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax capfilt",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say, path = cli.add_argument, {"type": folder_or_file, "metavar": "PATH"}
    say("--captioner", default="", **path, help="a converted checkpoint or a workdir that writes")
    say("--filter", default="", **path, help="one that matches pictures and texts; may be the same")
    say("--data", required=True, **path,
        help="as `train` takes it: a folder, tars, a table, tfds:NAME, builtin:NAME")  # fmt: skip
    say("--out", required=True, **path, help="folder to write")
    say("--prompt", default="", help="how every text begins, itself left out: 'a picture of'")
    say("--top-p", type=float, help="the nucleus that is drawn from; default 0.9")
    say("--beams", type=int, default=1, help="of beam search, in place of drawing")
    say("--max-new", type=int, default=16, help="tokens after the prompt at most; default 16")
    say("--min-new", type=int, default=1, help="tokens after the prompt at least; default 1")
    say("--repetition-penalty", type=float, help="above 1: against what was said already")
    say("--seed", type=int, default=0, help="of what is drawn")
    say("--threshold", type=float, default=0.5, help="probability of what is kept; default 0.5")
    say("--keep-human", action="store_true", help="keep the data's own texts unseen")
    say("--texts", type=int, default=0, dest="most", metavar="N",
        help="of a picture's own texts the first N; default all")  # fmt: skip
    say("--truth", default="", metavar="KEY",
        help="JSON key that says whether the data's texts are right (true, 1, yes; false, 0, no), "
        "for counts")  # fmt: skip
    say("--batch-size", type=int, default=32, help="pictures of each device at once; default 32")
    say("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="picture decoders")
    say("--shard-size", type=int, default=1000, metavar="N",
        help="pictures of one tar; a killed run loses at most as many (default 1000)")  # fmt: skip
    add_sharding(cli)
    add_json(cli)
    return cli


HOW = ("max_new", "min_new", "beams", "top_p", "repetition_penalty")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as api/capfilt.py capfilt."""
    flags = vars(parser().parse_args(argv))
    as_json = flags.pop("json")
    from vlp_jax.api.capfilt import HOW as USUAL
    from vlp_jax.api.capfilt import Request, capfilt
    from vlp_jax.api.generate import by_flag
    from vlp_jax.decoding.how import Writing

    how = {key: flags.pop(key) for key in HOW}
    if how["top_p"] is None and how["beams"] == 1:
        how["top_p"] = USUAL.top_p
    with by_flag():
        report = capfilt(Request(how=Writing(**how), **flags))
    if report:
        print_counts(report)
    if as_json:
        print_json(report)
    return 0


def print_counts(report: dict) -> None:
    """A table of what was kept and dropped."""
    from vlp_jax.core.errors import count_of
    from vlp_jax.data.walk import told
    from vlp_jax.report.console import show

    counts, rows = report["counts"], []
    names = {"web": "web texts", "right": "- right ones", "wrong": "- wrong ones"}
    names |= {"unclear": "- unclear ones", "human": "human texts"}
    names |= {"synthetic": "synthetic texts", "pictures": "pictures"}
    for key, name in names.items():
        kept, dropped = (counts.get(f"{key} {word}", 0) for word in ("kept", "dropped"))
        if kept + dropped:
            rows.append((name, f"{kept:,}", f"{dropped:,}", f"{dropped / (kept + dropped):.1%}"))
    show("", ("", "kept", "dropped", "share dropped"), rows)
    left = told(Counter(report["skipped"]))
    print(f"{count_of(counts['pictures kept'], 'picture')} with texts -> {report['out']}")
    if left:
        print(f"skipped: {left}")
