"""`search --index=DIR --text="cute cat"`: pictures of an index that fit words, a picture
(`--image=F`) or a vector (`--vector=F.npy`), best first with their cosines.

Several are added up, each with a weight where NUMBER* stands before it:
`--image=x.jpg --text="at night" --text="-1*people"`. The model is the one that made the index.
--where compares by = != < <= > >= or ~ (contains). Times are like 2020-01-31 (the whole day) or
2020-01-31T18:30, in the column's own zone, UTC where it has none, unless +02:00 or Z stands behind;
durations are in seconds; odd names of columns stand in quotes: "'a=b'>3".
--json prints {"results": [{"id", "key", "caption", "score"}]}: id is the row in the order of the
data, key the picture's path without suffix. The file exists so that a search takes one line.
"""

import argparse
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, print_json, purpose
from vlp_jax.core.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax search",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say = cli.add_argument
    more = dict(action="append", default=[])
    say("--index", type=folder_or_file, required=True, metavar="DIR",
        help="a folder that `index` wrote, or one of clip-retrieval")  # fmt: skip
    say("--text", **more, metavar="[W*]WORDS", help="words to search for; may be repeated")
    say("--image", **more, type=folder_or_file, metavar="[W*]FILE", help="a picture; as --text")
    say("--vector", **more, type=folder_or_file, metavar="[W*]FILE.npy", help="float[E]; as --text")
    say("--k", type=int, default=20, metavar="N", help="rows to look for (default 20)")
    say("--checkpoint", type=folder_or_file, default="", metavar="DIR",
        help="default: the checkpoint that the index remembers")  # fmt: skip
    say("--where", **more, metavar="CONDITION",
        help="only rows like style=noto, width>=64 or caption~cat; may be repeated")  # fmt: skip
    say("--modality", choices=("image", "text"), default="image",
        help="search the pictures' own vectors (default) or those of their captions")  # fmt: skip
    say("--deduplicate", action="store_true", help="leave out near duplicates of what is found")
    say("--threshold", type=float, default=0.94, metavar="C",
        help="cosine above which two are near duplicates (default 0.94)")  # fmt: skip
    say("--safe", action="store_true", help="leave out what a classifier on vectors calls unsafe")
    say("--exact", action="store_true", help="not by the faiss index, where there is one")
    say("--out", type=folder_or_file, default="", metavar="DIR", help="draw DIR/found.png")
    add_sharding(cli)
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as serve/query.py search."""
    flags = vars(parser().parse_args(argv))
    as_json = flags.pop("json")
    from vlp_jax.serve.query import Query, search
    from vlp_jax.serve.search import Options

    chosen = {name: flags.pop(name) for name in ("modality", "deduplicate", "safe")}
    if flags["threshold"] != 0.94 and not chosen["deduplicate"]:
        raise UserError(
            f"--threshold={flags['threshold']}: is of --deduplicate, which is not given"
        )
    chosen |= {"where": tuple(flags.pop("where")), "alike": flags.pop("threshold")}
    options = Options(**chosen)
    report = search(Query(**flags, options=options))
    if as_json:
        print_json(report)
    elif report:
        from vlp_jax.report.console import show

        rows = [
            (r["id"], f"{r['score']:.4f}", r["key"], r["caption"] or "") for r in report["results"]
        ]
        show(f"{len(rows)} found", ("id", "score", "key", "caption"), rows)
        if "out" in report:
            print(f"-> {report['out']}")
    return 0
