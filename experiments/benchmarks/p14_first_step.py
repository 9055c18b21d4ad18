"""P14: time to the first step: size of the scanned program, and what the compilation cache saves.

python experiments/benchmarks/p14_first_step.py [--arch=ViT-L-14] [--batch=8] [--json]

HLO operations of the lowered step, scanned against unrolled (goal <= 1/5), and seconds from nothing
to a compiled step with a warm persistent cache against a cold one, each in a process of its own
(goal <= 0.2). Full-size weights are never made: both need shapes only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--arch", default="ViT-L-14")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--worker", choices=("count", "time"), help=argparse.SUPPRESS)
    p.add_argument("--json", action="store_true")
    return p


def lowered(args: argparse.Namespace, unroll: bool) -> object:
    """The lowered training step of a released size."""
    import jax

    from vlp_jax.api.config import load_config
    from vlp_jax.plan.program import PlannedTrainer

    keys = {"batch_size": str(args.batch), "method.unroll": str(unroll)}
    config = load_config(str(ROOT / f"configs/clip/openai.py:{args.arch}"), keys)
    trainer = PlannedTrainer(config, jax.devices())
    with jax.set_mesh(trainer.mesh):
        return trainer.jit_step.lower(*trainer.abstract, trainer.method.batch_spec(args.batch))


def work(args: argparse.Namespace) -> dict:
    """A child's answer."""
    start = time.perf_counter()
    from vlp_jax.parallel.startup import start_jax

    start_jax()
    if args.worker == "time":
        lowered(args, False).compile()
        return {"seconds": time.perf_counter() - start}
    count = lambda unroll: lowered(args, unroll).as_text().count(" = ")  # noqa: E731
    return {"scanned": count(False), "unrolled": count(True)}


def ask(args: argparse.Namespace, worker: str, cache: str) -> dict:
    """Runs a child with its own cache folder."""
    words = [f"--worker={worker}", f"--arch={args.arch}", f"--batch={args.batch}"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    command = [sys.executable, __file__, *words]
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return 0
    report = {"row": "P14", "arch": args.arch, "batch": args.batch}
    with tempfile.TemporaryDirectory() as cache:
        report |= ask(args, "count", cache)
    with tempfile.TemporaryDirectory() as cache:
        report["cold_seconds"] = ask(args, "time", cache)["seconds"]
        warm = sorted(ask(args, "time", cache)["seconds"] for _ in range(3))
        report["warm_seconds"] = warm[1]
    report["operations_ratio"] = report["scanned"] / report["unrolled"]
    report["ratio"] = report["warm_seconds"] / report["cold_seconds"]
    for key, value in report.items():
        print(f"{key:>18}  {value}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
