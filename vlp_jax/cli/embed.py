"""`embed --checkpoint=OUT --images=DIR --texts=FILE --out=E.npz`: pictures and lines of text to
unit vectors; also of pictures by name (`--images=x.jpg`) and of texts themselves (`--texts='a cat,a
dog'`).

E.npz holds image float32[N, E] and image_paths [N] (relative to DIR, sorted) and, where the model
has a text tower, text float32[M, E], texts [M] (one per line of FILE) and logit_scale (the factor
of the dot product, exponential taken). A model without a joint space (MAE, SimCLR, a classifier, a
pretext task) gives its features, each row divided by its norm. The file exists so that anything
outside this package can use a model's space.
"""

import argparse
import os
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, print_json, purpose


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax embed",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_inputs(cli)
    cli.add_argument(
        "--out", type=folder_or_file, required=True, metavar="FILE.npz", help="file to write"
    )
    add_json(cli)
    return cli


def add_inputs(cli: argparse.ArgumentParser, required: bool = False) -> None:
    """Adds the flags that `similarity` has too."""
    cli.add_argument(
        "--checkpoint",
        type=folder_or_file,
        required=True,
        metavar="DIR",
        help="a converted checkpoint or a training workdir",
    )
    cli.add_argument(
        "--images",
        type=folder_or_file,
        nargs="+",
        default=(),
        required=required,
        metavar="PATH",
        help="a folder of pictures, searched recursively, or pictures, also with commas between",
    )
    cli.add_argument(
        "--texts",
        type=folder_or_file,
        required=required,
        metavar="FILE",
        help="UTF-8 file, one text per line, or texts with commas between (text towers only)",
    )
    cli.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows per call (default 32)"
    )
    cli.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="picture decoders"
    )
    cli.add_argument(
        "--skip-damaged",
        action="store_true",
        help="leave unreadable pictures out instead of stopping",
    )
    add_sharding(cli)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as api/embeddings.py embed."""
    flags = vars(parser().parse_args(argv))
    as_json = flags.pop("json")
    from vlp_jax.api.embeddings import Request, embed
    from vlp_jax.core.errors import count_of

    report = embed(Request(**flags))
    if report:
        pictures, texts = count_of(report["images"], "picture"), count_of(report["texts"], "text")
        print(f"{pictures} and {texts}, {report['dim']} numbers each -> {report['out']}")
    if as_json:
        print_json(report)
    return 0
