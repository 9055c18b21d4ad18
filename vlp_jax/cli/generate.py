"""`generate --checkpoint=C --images=DIR --out=F.jsonl`: a caption for every picture, or the answer
to a question about it; without --images what a language model writes after each of --prompts.

F.jsonl has one line per picture, in the order of their sorted paths: {"image": its path below DIR,
"prompt", "text", "score": log-probability per token, "ids": the new tokens without prompt and stop
id}. Greedy, unless --beams, --temperature, --top-p or --top-k say otherwise. The file exists so
that what a model says can be read and scored by anything.
"""

import argparse
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, print_json, purpose


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax generate",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, path = cli.add_argument, {"type": folder_or_file, "metavar": "PATH"}
    add("--checkpoint", required=True, **path, help="a converted checkpoint or a workdir")
    add("--images", nargs="+", **path,
        help="a folder of pictures, or pictures; none for a language model alone")  # fmt: skip
    add("--prompt", default="", help="how every text begins, or the question about every picture")
    add("--prompts", default="", **path, help="a file with one prompt per line and picture instead")
    add("--out", required=True, **path, help="the .jsonl to write")
    add("--beams", type=int, default=1, help="of beam search; default 1")
    add("--max-new", type=int, default=20, help="tokens after the prompt at most; default 20")
    add("--min-new", type=int, default=0, help="tokens after the prompt at least; default 0")
    add("--temperature", type=float, help="draw, from logits divided by this")
    add("--top-p", type=float, help="draw, from the fewest tokens that hold this probability")
    add("--top-k", type=int, default=0, help="draw, from so many likeliest tokens")
    add("--repetition-penalty", type=float, help="above 1: against what was said already")
    add("--length-penalty", type=float, default=1.0, help="above 1: for longer texts; default 1")
    add("--stop", action="append", default=[], metavar="WORD",
        help="a word that ends a text, beside the model's own end; may be repeated")  # fmt: skip
    add("--seed", type=int, default=0, help="of what is drawn")
    add("--batch-size", type=int, default=32, help="pictures at once; default 32")
    add("--skip-damaged", action="store_true",
        help="leave unreadable pictures out instead of stopping")  # fmt: skip
    add_sharding(cli)
    add_json(cli)
    return cli


HOW = ("max_new", "min_new", "beams", "temperature", "top_p", "top_k")
HOW += ("repetition_penalty", "length_penalty")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as api/generate.py write."""
    cli = parser()
    flags = vars(cli.parse_args(argv))
    as_json = flags.pop("json")
    from vlp_jax.api.generate import Request, write
    from vlp_jax.core.errors import UserError, count_of

    if flags["prompt"] and flags["prompts"]:
        raise UserError("--prompt and --prompts: give one of them")
    how = {key: flags.pop(key) for key in HOW}
    report = write(Request(how=how, **flags))
    if report:
        skipped = f", skipped: {report['skipped']}" if report["skipped"] else ""
        what = "picture" if flags["images"] else "prompt"
        print(f"{count_of(report['images'], what)} -> {report['out']}{skipped}")
    if as_json:
        print_json(report)
    return 0
