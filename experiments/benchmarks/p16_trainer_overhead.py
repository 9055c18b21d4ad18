"""P16: steps/s of the whole trainer (data, guards, metrics, logging, checkpoints) over a bare loop.

python experiments/benchmarks/p16_trainer_overhead.py [--steps=1000] [--pairs=3] [--json]

A small CLIP on the embedded emoji. The bare loop calls the same compiled step on the same stream of
batches and waits once at the end; both are timed in one process, in turn. The goal is 0.97.
Decoding shares the cores with the step here, so the ratio to one fixed batch is told as well.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def bare(trainer: Any, batches: Iterator[Any], steps: int) -> float:
    """Seconds of the compiled step alone on the batches that come."""
    import jax

    batch = next(batches)

    state, frozen = trainer.first()
    state, _ = trainer.step(state, frozen, batch)
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(steps):
        state, _ = trainer.step(state, frozen, next(batches))
    jax.block_until_ready(state)
    return time.perf_counter() - start


def whole(trainer: Any, steps: int) -> float:
    """Seconds of Loop.run, from the first batch to the last metric and checkpoint."""
    from vlp_jax.train.checkpoint import Checkpoints
    from vlp_jax.train.loop import Loop

    folder = Path(tempfile.mkdtemp())
    loop = Loop(trainer, folder, trainer.first(), Checkpoints(folder / "checkpoints"))
    start = time.perf_counter()
    loop.run()
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    import jax

    from vlp_jax.api.config import load_config
    from vlp_jax.data.device import DeviceFeed
    from vlp_jax.parallel.mesh import batch_sharding
    from vlp_jax.parallel.startup import start_jax
    from vlp_jax.train.trainer import Trainer

    start_jax()
    small = {"method.image.num_layers": "2", "method.text.num_layers": "2", "log_every": "50"}
    sizes = {
        "batch_size": str(args.batch),
        "steps": str(args.steps),
        "checkpoint_every": "500",
    }
    config = load_config(str(ROOT / "configs/clip/quickstart.py"), {**small, **sizes})
    config.unlock()
    config.evals = {}
    trainer = Trainer(config)
    spec, sharding = trainer.method.batch_spec(1), batch_sharding(trainer.mesh)

    def feed() -> Iterator[Any]:
        return DeviceFeed(trainer.pipeline.batches(0), sharding, spec)

    fixed = next(feed())
    with jax.set_mesh(trainer.mesh):
        runs = [
            (bare(trainer, feed(), n), whole(trainer, n), bare(trainer, itertools.repeat(fixed), n))
            for n in [args.steps] * args.pairs
        ]
    report = {"row": "P16", "steps": args.steps, "pairs": args.pairs, "batch": args.batch}
    for place, name in enumerate(("bare", "trainer", "fixed_batch")):
        report[f"{name}_steps_per_s"] = args.steps / statistics.median(run[place] for run in runs)
    report["ratio_to_fixed_batch"] = statistics.median(c / b for _, b, c in runs)
    report["ratio"] = statistics.median(a / b for a, b, _ in runs)
    for key, value in report.items():
        print(f"{key:>22}  {value}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
