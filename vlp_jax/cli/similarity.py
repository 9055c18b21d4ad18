"""`similarity --checkpoint=C --images=DIR --texts="a cat,a dog" --out=R`: which of the texts does
each picture choose?

R gets table.csv (a line per picture, a column per text: the softmax over the texts), table.png (the
same in colour beside the pictures), space.png (both in one plane, by PCA) and report.json. No
captions are needed. The file exists so that a model is tried on pictures and prompts of one's own
in one line.
"""

import argparse
from collections.abc import Sequence

from vlp_jax.cli.embed import add_inputs
from vlp_jax.cli.output import add_json, folder_or_file, print_json, purpose


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax similarity",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_inputs(cli, required=True)
    cli.add_argument(
        "--scale",
        type=float,
        help="factor of the cosines, e.g. 100 as in CLIP; default: the model's own logit scale",
    )
    cli.add_argument(
        "--out", type=folder_or_file, required=True, metavar="DIR", help="folder to write"
    )
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as api/embeddings.py similarity."""
    flags = vars(parser().parse_args(argv))
    as_json, scale = flags.pop("json"), flags.pop("scale")
    from vlp_jax.api.embeddings import Request, similarity
    from vlp_jax.core.errors import count_of

    report = similarity(Request(**flags), scale)
    if report:
        pictures, texts = count_of(report["images"], "picture"), count_of(report["texts"], "text")
        print(f"{pictures} x {texts}, scale {report['scale']:.4g} -> {report['out']}")
    if as_json:
        print_json(report)
    return 0
