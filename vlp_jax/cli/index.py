"""`index --checkpoint=C --data=PATH --out=DIR [--ann=hnsw]`: any data set as a folder to search.

DIR gets vectors (float16, in parts, `img_emb/*.npy`; of captions `text_emb/*.npy` where the model
has a text tower), metadata (`metadata/*.parquet`), thumbnails (`thumbnails/*.tar`) and
manifest.json. Row i of each is the i-th picture of the data that can be read; of a folder in the
order of its paths. Damaged pictures are skipped and counted. The same command goes on after a kill,
and finds a finished index finished. The file exists so that one's own pictures can be searched.
"""

import argparse
import os
import shlex
from collections import Counter
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, print_json, purpose


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax index",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say = cli.add_argument
    say("--checkpoint", type=folder_or_file, required=True, metavar="DIR",
        help="a converted checkpoint or a training workdir")  # fmt: skip
    say("--data", type=folder_or_file, required=True, metavar="PATH",
        help="as `train` takes it: a folder, tars, a table, tfds:NAME, builtin:NAME")  # fmt: skip
    say("--out", type=folder_or_file, required=True, metavar="DIR", help="folder to write")
    say("--ann", default="", metavar="KIND",
        help="a faiss index beside the vectors: flat, hnsw or ivfpq (extra `search`)")  # fmt: skip
    say("--batch-size", type=int, default=32, metavar="N", help="rows per call (default 32)")
    say("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="picture decoders")
    say("--thumbnails", type=int, default=256, metavar="PIXELS",
        help="longer side of the thumbnails (default 256; 0: none)")  # fmt: skip
    say("--part", type=int, default=16384, metavar="N",
        help="examples of one part; a killed run loses at most one (default 16384)")  # fmt: skip
    add_sharding(cli)
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as serve/build.py build_index."""
    flags = vars(parser().parse_args(argv))
    as_json = flags.pop("json")
    from vlp_jax.data.walk import told
    from vlp_jax.serve.build import Request, build_index

    report = build_index(Request(**flags))
    if report:
        left = told(Counter(report["skipped"]))
        counts = f"{report['rows']} pictures and {report['captions']} captions"
        print(f"{counts}, {report['dim']} numbers each -> {report['out']}")
        if left:
            print(f"skipped: {left}")
        where = shlex.quote(report["out"])
        print(f"next: search --index={where} --text=WORDS, or serve --index={where}")
    if as_json:
        print_json(report)
    return 0
