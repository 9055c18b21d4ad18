"""P5: speed-up of a CLIP step by patch dropout (FLIP) over the speed-up that its FLOPs promise.

python experiments/benchmarks/p5_token_dropping.py [--arch=ViT-B-16] [--batch=16] [--json]

One process holds the training step (forward, backward, AdamW) at rates 0, 0.5 and 0.75 and runs
them in turn. The ideal speed-up is the ratio of model FLOPs of both towers (models/flops.py); texts
are cut to --tokens, as trimming does. The goal is 0.95; the headline is the worse of the two rates.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
RATES = (0.0, 0.5, 0.75)


class Run:
    """A training step at one rate, with its own state."""

    def __init__(self, args: argparse.Namespace, rate: float):
        import jax

        from vlp_jax.methods.base import make_method
        from vlp_jax.models.archs.clip import clip_arch
        from vlp_jax.optim.optimizer import lr_factors, make_optimizer
        from vlp_jax.optim.schedules import make_schedule
        from vlp_jax.train.state import Recipe, init_state
        from vlp_jax.train.step import make_step

        arch = clip_arch(args.arch)
        image = {**arch["image"], "patch_dropout": rate}
        how = dict(dtype=args.dtype, unroll=jax.default_backend() == "cpu", remat=args.remat)
        self.method = make_method({"name": "clip", **arch, "image": image, **how})
        optim = dict(name="adamw", lr=1e-5, weight_decay=0.2, b2=0.98, eps=1e-6, clip_norm=0.0)
        tx, recipe = make_optimizer(optim), Recipe(seed=0, batch_size=args.batch)
        self.state, self.frozen = jax.jit(lambda: init_state(self.method, tx, recipe))()
        factors = lr_factors(optim, self.state["params"])
        schedule = make_schedule("constant", 1e-5, 10, 0)
        self.step = jax.jit(make_step(self.method, tx, schedule, factors, recipe), donate_argnums=0)
        rng, spec = np.random.default_rng(0), self.method.batch_spec(args.batch)
        text = rng.integers(1, 49405, (args.batch, args.tokens), np.int32)
        text[:, -1] = 49407
        self.batch = jax.device_put(
            {"image": rng.integers(0, 256, spec["image"].shape, np.uint8), "text": text}
        )

    def seconds(self) -> float:
        """Time of one step."""
        import jax

        start = time.perf_counter()
        self.state, metrics = self.step(self.state, self.frozen, self.batch)
        jax.block_until_ready(self.state)
        if not np.isfinite(float(metrics["loss"])):
            raise SystemExit("the loss is not finite")
        return time.perf_counter() - start


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--arch", default="ViT-B-16")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--tokens", type=int, default=77)
    p.add_argument("--dtype", default="float32", help="bfloat16 on a GPU")
    p.add_argument("--remat", default="none")
    p.add_argument("--rounds", type=int, default=10)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    runs = {rate: Run(args, rate) for rate in RATES}
    for run in runs.values():
        run.seconds(), run.seconds()
    rows = [{rate: run.seconds() for rate, run in runs.items()} for _ in range(args.rounds)]
    flops = {rate: run.method.flops(args.tokens) for rate, run in runs.items()}
    report: dict[str, Any] = {"row": "P5", "arch": args.arch, "batch": args.batch}
    report["tokens"] = args.tokens
    for rate in RATES[1:]:
        ratios = sorted(row[0.0] / row[rate] for row in rows)
        ideal = flops[0.0] / flops[rate]
        report[f"speedup_{rate}"] = statistics.median(ratios)
        report[f"ideal_{rate}"] = ideal
        report[f"spread_{rate}"] = [ratios[1] / ideal, ratios[-2] / ideal]
    for rate in RATES:
        report[f"seconds_{rate}"] = statistics.median(row[rate] for row in rows)
        report[f"gflops_per_s_{rate}"] = (
            3 * flops[rate] * args.batch / report[f"seconds_{rate}"] / 1e9
        )
    report["ratio"] = min(report[f"speedup_{r}"] / report[f"ideal_{r}"] for r in RATES[1:])
    for key, value in report.items():
        print(f"{key:>22}  {value}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
