"""`serve --index=DIR [--port=8000]`: the search page and its JSON service over an index.

Prints the URL when it listens; Ctrl-C ends it. It answers this machine alone unless --host says
otherwise; there is no password. clip-retrieval's client can ask it. The file exists as the
command's parser.
"""

import argparse
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, folder_or_file, print_json, purpose


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax serve",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    path = {"type": folder_or_file, "default": ""}
    index = {"type": folder_or_file, "required": True, "metavar": "DIR"}
    cli.add_argument("--index", **index, help="a folder that `index` wrote, or clip-retrieval's")
    cli.add_argument(
        "--checkpoint", **path, metavar="DIR", help="the model; default: the index remembers"
    )
    cli.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0: a free")
    cli.add_argument(
        "--host", default="127.0.0.1", metavar="NAME", help="default: this machine alone"
    )
    cli.add_argument("--words", **path, metavar="FILE", help="what the model is asked about")
    cli.add_argument(
        "--fetch-urls",
        action="store_true",
        help="let clients search by a picture's URL, from public addresses",
    )
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as serve/start.py."""
    flags = vars(parser().parse_args(argv))
    as_json = flags.pop("json")
    from vlp_jax.serve.start import Request, start

    def listening(found) -> None:
        print("{rows:,} rows of {name}: {url} (Ctrl-C ends it)".format_map(found), flush=True)
        if as_json:
            print_json(found)

    start(Request(**flags), listening)
    return 0
