"""Pictures per second of `index` over those of its bare encoder: what all the rest costs.

python experiments/benchmarks/index_rate.py --checkpoint=C [--data=builtin:emoji/noto-val] [--json]

The arithmetic of clip-retrieval's inference: a machine embeds no faster than its encoder runs on
pixels that are there already. The rest is reading, decoding, framing, captions, thumbnails,
metadata and writing; the encoder is timed alone on random batches of the same size, compiled
before. A build counts from the first picture on, without loading and compiling the model.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def bare_rate(model: Any, batch: int, batches: int) -> float:
    """Pictures per second of the encoder alone."""
    shape = (batch, model.image_size, model.image_size, 3)
    pixels = {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    run = model.run("image")
    run(pixels)
    start = time.perf_counter()
    for _ in range(batches):
        run(pixels)
    return batch * batches / (time.perf_counter() - start)


def main() -> int:
    """Measures both."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--data", default="builtin:emoji/noto-val")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    from vlp_jax.api.embed import Batching
    from vlp_jax.api.model import load_model
    from vlp_jax.data.open import open_source
    from vlp_jax.serve.part import Embedding, embed_part, write_part

    model, source = load_model(args.checkpoint), open_source(args.data)
    rows = range(len(source))
    how = Batching(args.batch)
    report: dict[str, Any] = {"pictures": len(rows), "batch": args.batch}
    report["bare_per_second"] = bare_rate(model, args.batch, max(2, len(rows) // args.batch))
    for captions in (False, True):
        what = Embedding(model, source, 256, captions and "text" in model.embedders(), how)
        embed_part(what, rows[: args.batch])  # compiles
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            write_part(embed_part(what, rows), folder, "0000")
        name = "with_captions" if captions else "pictures_only"
        report[f"{name}_per_second"] = len(rows) / (time.perf_counter() - start)
    report["ratio"] = report["pictures_only_per_second"] / report["bare_per_second"]
    for key, value in report.items():
        print(f"{key:>26}  {value:.4g}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
