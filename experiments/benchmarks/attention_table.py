"""Attention by XLA against cuDNN, forward and backward: the numbers behind nn/attention.py's table.

python experiments/benchmarks/attention_table.py [--batch=256] [--json]

For N tokens in (50, 197, 257, 577) and head widths 64 and 80 in bfloat16, plain and causal; outputs
must agree to 2e-2 before anything is timed. `cudnn_from` is the length from which cuDNN is the
faster at every row measured: the value for CUDNN_FROM of this device kind.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
TOKENS, WIDTHS, HEADS = (50, 197, 257, 577), (64, 80), 12
NAMES = ("xla", "cudnn")


def row(batch: int, tokens: int, width: int, causal: bool, rounds: int) -> dict[str, float]:
    """Median milliseconds of both implementations, run in turn."""
    import jax
    import jax.numpy as jnp

    from vlp_jax.nn.attention import attend

    shape = (batch, HEADS, tokens, width)
    arrays = [jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(4)]

    def program(name: str) -> Any:
        def run(q: Any, k: Any, v: Any, g: Any) -> tuple:
            out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, None, causal, name), q, k, v)
            return out, *pull(g)

        return jax.jit(run)

    programs = {name: program(name) for name in NAMES}
    first = {name: jax.block_until_ready(run(*arrays)) for name, run in programs.items()}
    apart = jnp.abs(first["xla"][0].astype(float) - first["cudnn"][0].astype(float)).max()
    if apart > 2e-2:
        raise SystemExit(f"outputs differ by {float(apart):.3g} at {tokens} tokens")
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(rounds):
        for name, run in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arrays))
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Runs the table."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    import jax

    if jax.default_backend() != "gpu":
        print("no GPU")
        return 0
    rows, lost = [], 0
    for tokens in TOKENS:
        for width in WIDTHS:
            for causal in (False, True):
                ms = row(args.batch, tokens, width, causal, args.rounds)
                ratio = ms["xla"] / ms["cudnn"]
                lost = tokens if ratio <= 1 else lost
                rows.append({"tokens": tokens, "width": width, "causal": causal, **ms})
                rows[-1]["ratio"] = ratio
                print(f"N {tokens:>4}  K {width}  causal {causal!s:>5}  xla {ms['xla']:.3f} ms  "
                      f"cudnn {ms['cudnn']:.3f} ms  xla / cudnn {ratio:.2f}")  # fmt: skip
    start = next((n for n in TOKENS if n > lost), None)
    kind = jax.devices()[0].device_kind
    print(f"CUDNN_FROM[{kind!r}] = {start}")
    if args.json:
        print(json.dumps({"row": "attention", "kind": kind, "rows": rows, "cudnn_from": start}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
