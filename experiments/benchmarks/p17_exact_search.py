"""P17: exact search, 1M x 512 float16, top 100: ours over faiss' IndexFlatIP and over NumPy.

python experiments/benchmarks/p17_exact_search.py [--rows=1000000] [--pairs=5] [--json]

Every side is a process of its own and they take turns (duel.py), with 1 query and with 64. Ours
searches the memory-mapped float16 file; NumPy the same, in blocks that it turns into float32, with
argpartition; faiss holds float32, twice the bytes. The ids must be the same: of the stored vectors,
divided by their norms in float32. The goal is 0.9 of faiss and twice NumPy. Needs `faiss` (extra
`search`) for --against=faiss. It also tells the memory that each side needs beside the file.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
BLOCK, QUERIES = 1 << 14, (1, 64)


def make_file(folder: str, rows: int, width: int) -> None:
    """Unit vectors of normal numbers as float16, a part of 65,536 at a time in one file."""
    rng = np.random.default_rng(0)
    path = os.path.join(folder, "img_emb_0.npy")
    out = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for at in range(0, rows, 1 << 16):
        some = rng.standard_normal((min(1 << 16, rows - at), width), dtype=np.float32)
        out[at : at + len(some)] = some / np.linalg.norm(some, axis=1, keepdims=True)
    out.flush()


def queries(folder: str, count: int) -> np.ndarray:
    """float32[count, E]: vectors of the file, moved by a third of their length."""
    found = np.load(os.path.join(folder, "img_emb_0.npy"), mmap_mode="r")
    rng = np.random.default_rng(1)
    some = found[rng.integers(0, len(found), count)].astype(np.float32)
    some += rng.standard_normal(some.shape, dtype=np.float32) / 3 / np.sqrt(some.shape[1])
    return some / np.linalg.norm(some, axis=1, keepdims=True)


def ours(folder: str) -> Callable[[np.ndarray, int], np.ndarray]:
    """f(queries, k) -> ids by serve/nearest.py."""
    from vlp_jax.serve.nearest import Nearest
    from vlp_jax.serve.vectors import Vectors

    found = Nearest(Vectors.open(folder))
    return lambda asked, k: found.search(asked, k)[0]


def faiss(folder: str) -> Callable[[np.ndarray, int], np.ndarray]:
    """f(queries, k) -> ids by IndexFlatIP."""
    import faiss as library

    from vlp_jax.serve.vectors import Vectors

    vectors = Vectors.open(folder)
    index = library.IndexFlatIP(vectors.width)
    for at in range(0, vectors.rows, BLOCK):
        index.add(vectors.take(np.arange(at, min(at + BLOCK, vectors.rows))))
    return lambda asked, k: index.search(asked, k)[1]


def numpy(folder: str) -> Callable[[np.ndarray, int], np.ndarray]:
    """f(queries, k) -> ids by products of blocks and argpartition."""
    from vlp_jax.serve.vectors import Vectors

    vectors = Vectors.open(folder)
    (rows,) = vectors.parts
    norms = np.concatenate(
        [np.linalg.norm(rows[at : at + BLOCK].astype(np.float32), axis=1)
         for at in range(0, len(rows), BLOCK)]
    )  # fmt: skip

    def search(asked: np.ndarray, k: int) -> np.ndarray:
        scores = np.empty((len(asked), len(rows)), np.float32)
        for at in range(0, len(rows), BLOCK):
            scores[:, at : at + BLOCK] = asked @ rows[at : at + BLOCK].astype(np.float32).T
        scores /= norms
        ids = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1, kind="stable")
        return np.take_along_axis(ids, order, axis=1)

    return search


def work(side: str, folder: str, count: int, k: int) -> None:
    """The worker's side."""
    from duel import serve, timed

    anonymous = memory()
    search, asked = globals()[side](folder), queries(folder, count)
    search(asked, k)
    used = memory() - anonymous
    serve(
        {
            "step": timed(lambda: search(asked, k)),
            "ids": lambda: {"ids": search(asked, k).tolist()},
            "memory": lambda: {"mb": used / 2**20},
        }
    )


def memory() -> int:
    """Bytes of this process that belong to no file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("RssAnon")).split()[1])
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def duel_of(against: str, folder: str, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """One pair of sides with one number of queries."""
    from duel import Worker, alternate

    base = [f"--folder={folder}", f"--queries={count}", f"--k={args.k}"]
    sides = [Worker(sys.executable, __file__, [f"--worker={s}", *base]) for s in ("ours", against)]
    mine, theirs = (np.array(side.ask("ids")["ids"]) for side in sides)
    found = alternate(*sides, args.pairs)
    found |= {"same_ids": float((mine == theirs).mean())}
    found |= {
        f"mb_{name}": round(side.ask("memory")["mb"])
        for name, side in zip(("ours", "peer"), sides, strict=True)
    }
    for side in sides:
        side.close()
    return found


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("--width", type=int, default=512)
    p.add_argument("--k", type=int, default=100)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--against", nargs="+", default=["faiss", "numpy"], choices=["faiss", "numpy"])
    p.add_argument("--json", action="store_true")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    p.add_argument("--folder", help="where the vectors are, or are written (default: temporary)")
    p.add_argument("--queries", type=int, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        work(args.worker, args.folder, args.queries, args.k)
        return 0
    report: dict[str, Any] = {"row": "P17", "rows": args.rows, "width": args.width, "k": args.k}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or temporary
        if not os.path.exists(os.path.join(folder, "img_emb_0.npy")):
            make_file(folder, args.rows, args.width)
        for against in args.against:
            for count in QUERIES:
                found = duel_of(against, folder, count, args)
                report |= {f"{against}_{count}_{key}": value for key, value in found.items()}
    report["ratio"] = min(v for key, v in report.items() if key.endswith("_ratio"))
    for key, value in report.items():
        print(f"{key:>28}  {value}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
