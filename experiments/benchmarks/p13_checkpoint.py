"""P13: saving and restoring a state of 1.8 GB (ViT-B/32 with AdamW) against raw disk speed.

python experiments/benchmarks/p13_checkpoint.py [--folder=DIR] [--pairs=3] [--json]

Blocking save is the time `save` keeps the loop waiting; raw write is one file of as many bytes,
fsynced. Restore includes the check of every file's digest; raw read drops the page cache where it
may.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def drop_cache(folder: Path) -> bool:
    """Asks the kernel to forget the pages of every file below; True where it can."""
    os.sync()
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def raw_write(path: Path, block: bytes, count: int) -> None:
    """Writes count blocks and waits for the disk."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(count):
            file.write(block)
        os.fsync(file.fileno())


def raw_read(folder: Path) -> None:
    """Reads every file below a folder, 4 MiB at a time."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass


def make_state() -> tuple[Any, Any]:
    """(state of ViT-B/32 with AdamW, its shapes and shardings), random numbers in every leaf."""
    import jax

    from vlp_jax.core.pytree import map_with_path
    from vlp_jax.methods.base import make_method
    from vlp_jax.models.archs.clip import clip_arch
    from vlp_jax.optim.optimizer import make_optimizer
    from vlp_jax.train.state import Recipe, init_state

    method = make_method({"name": "clip", **clip_arch("ViT-B-32")})
    tx, recipe = make_optimizer({"name": "adamw"}), Recipe(seed=0, batch_size=1)
    state = jax.jit(lambda: init_state(method, tx, recipe).state)()
    keys = iter(jax.random.split(jax.random.key(0), 500))
    fill = lambda _, x: jax.random.normal(next(keys), x.shape) if x.ndim else x  # noqa: E731
    state = map_with_path(fill, state)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    return jax.block_until_ready(state), shapes


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--folder", help="where to write (default: a temporary folder)")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    from vlp_jax.core.pytree import nbytes
    from vlp_jax.train.checkpoint import Checkpoints

    folder = Path(tempfile.mkdtemp(dir=args.folder))
    state, shapes = make_state()
    size = nbytes(state)
    block = os.urandom(1 << 24)
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    rows = []
    for step in range(1, args.pairs + 1):
        row = {"raw_write": seconds(lambda: raw_write(folder / "raw", block, size // len(block)))}
        row["save_blocking"] = seconds(lambda step=step: checkpoints.save(step, state))
        row["save_rest"] = seconds(checkpoints.wait)
        saved = folder / "checkpoints" / str(step)
        row["cold"] = drop_cache(saved)
        row["raw_read"] = seconds(lambda saved=saved: raw_read(saved))
        drop_cache(saved)
        row["restore"] = seconds(lambda: checkpoints.restore(shapes))
        rows.append(row)
    shutil.rmtree(folder)
    report = {"row": "P13", "bytes": size, "pairs": args.pairs, "cold_reads": rows[0]["cold"]}
    for name in ("raw_write", "save_blocking", "save_rest", "raw_read", "restore"):
        report[f"{name}_s"] = statistics.median(row[name] for row in rows)
    report["restore_share_of_raw_speed"] = statistics.median(
        row["raw_read"] / row["restore"] for row in rows
    )
    report["ratio"] = statistics.median(row["save_blocking"] / row["raw_write"] for row in rows)
    for key, value in report.items():
        print(f"{key:>28}  {value}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
