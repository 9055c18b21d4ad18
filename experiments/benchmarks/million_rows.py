"""An index of a million rows made of a small one: memory, time to open and time to answer.

python experiments/benchmarks/million_rows.py --index=DIR [--rows=1000000] [--out=DIR] [--json]

The rows are those of an index in turn, each moved by noise of a tenth of its length, with their
metadata and no thumbnails; OUT is kept where it is given, for the page. Measured: seconds until an
index is open and until the first answer, milliseconds of later answers to one vector (20 results
with key and caption; 50 %, 95 %), with near duplicates removed, with a condition, and the memory of
the process that belongs to no file.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
PART, ASKED = 1 << 16, 40


def make(index: Any, out: str, rows: int) -> None:
    """Writes the folder, manifest last, as `index` does."""
    import pyarrow as pa

    from vlp_jax.core.strict_json import dumps
    from vlp_jax.data.staging import file_facts
    from vlp_jax.serve.index import FOLDERS, METADATA
    from vlp_jax.serve.metadata import GROUP

    rng, few = np.random.default_rng(0), index.vectors(range(index.rows))
    said, files = index.metadata(range(index.rows)), {}
    for folder in (FOLDERS["image"], METADATA):
        os.makedirs(os.path.join(out, folder))
    for number, at in enumerate(range(0, rows, PART)):
        ids = np.arange(at, min(at + PART, rows)) % index.rows
        noise = rng.standard_normal((len(ids), index.width), dtype=np.float32)
        some = few[ids] + 0.1 / np.sqrt(index.width) * noise
        some /= np.linalg.norm(some, axis=1, keepdims=True)
        names = f"img_emb/img_emb_{number:04d}.npy", f"metadata/metadata_{number:04d}.parquet"
        np.save(os.path.join(out, names[0]), some.astype(np.float16))
        columns = {name: [said[i].get(name) for i in ids.tolist()] for name in said[0]}
        columns["row"] = list(range(at, at + len(ids)))
        table = pa.table(columns)
        pa.parquet.write_table(table, os.path.join(out, names[1]), row_group_size=GROUP)
        files |= {name: file_facts(os.path.join(out, name)) for name in names}
    manifest = {**index.manifest, "rows": rows, "files": files, "ann": ""}
    Path(out, "manifest.json").write_text(dumps(manifest, indent=1))


def measure(folder: str) -> dict[str, Any]:
    """Opens and asks."""
    from p17_exact_search import memory

    from vlp_jax.serve.index import Index
    from vlp_jax.serve.search import Options, Searcher

    before, start = memory(), time.perf_counter()
    searcher = Searcher(Index.open(folder))
    report = {"seconds_open": time.perf_counter() - start}
    rng = np.random.default_rng(1)
    asked = searcher.index.vectors(rng.integers(0, searcher.index.rows, ASKED))
    start = time.perf_counter()
    searcher.results(searcher.find(asked[0], 20))
    report["seconds_first"] = time.perf_counter() - start
    ways = {"plain": Options(), "deduplicate": Options(deduplicate=True)}
    ways["condition"] = Options(where=("row<500000",))
    for name, options in ways.items():
        searcher.find(asked[0], 20, options)
        times = []
        for query in asked:
            start = time.perf_counter()
            searcher.results(searcher.find(query, 20, options))
            times.append(1e3 * (time.perf_counter() - start))
        report[f"ms_{name}"] = statistics.median(times)
        report[f"ms_{name}_p95"] = sorted(times)[int(0.95 * len(times))]
    report["mb"] = (memory() - before) / 2**20
    return report


def main() -> int:
    """Makes the index where there is none and measures it."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--index", required=True)
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("--out")
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    from vlp_jax.serve.index import Index

    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or os.path.join(temporary, "index")
        if not os.path.exists(os.path.join(out, "manifest.json")):
            os.makedirs(out, exist_ok=True)
            make(Index.open(args.index), out, args.rows)
        report = {"rows": args.rows, **measure(out)}
    for key, value in report.items():
        print(f"{key:>22}  {value:.4g}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
