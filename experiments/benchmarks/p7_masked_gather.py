"""P7: dropping 147 of 196 tokens, the best of three plain forms over ours, on one device and on 8.

python experiments/benchmarks/p7_masked_gather.py [--batch=64] [--width=768] [--json]

Every form draws its own random subset and gives the kept tokens and the gradient of the whole: sort
order with take_along_axis, a product with a one-hot matrix, and a sort that carries the tokens'
places (torch-like top-k). On eight simulated devices with the batch sharded, the bytes that the
compiled programs exchange are counted as well; ours must exchange none. The goal is 0.97. A round
times all forms in turn, the second call of each as in duel.py; ratios are those of single rounds,
reported by their median and their 10 % and 90 % quantiles.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
COUNT, KEEP, DEVICES = 196, 49, 8
COLLECTIVE = re.compile(
    r"= .*?(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
)


def forms() -> dict[str, Any]:
    """(key[B], tokens [B, N, D]) -> kept tokens [B, N', D] in rising order, by name."""
    import jax
    import jax.numpy as jnp

    from vlp_jax.nn.masks import random_subset, take_tokens

    def noise(keys: Any) -> Any:
        return jax.vmap(lambda key: jax.random.uniform(key, (COUNT,)))(keys)

    def ordered(keys: Any) -> Any:
        return jnp.sort(jnp.argsort(noise(keys), axis=1)[:, :KEEP], axis=1)

    def top(keys: Any) -> Any:
        return jnp.sort(jax.lax.top_k(noise(keys), KEEP)[1], axis=1)

    def one_hot(keys: Any, x: Any) -> Any:
        rows = jax.nn.one_hot(ordered(keys), COUNT, dtype=x.dtype)
        return jnp.einsum("bkn,bnd->bkd", rows, x, precision="highest")

    return {
        "ours": lambda keys, x: take_tokens(x, random_subset(keys, COUNT, KEEP)),
        "take_along_axis": lambda keys, x: jnp.take_along_axis(x, ordered(keys)[:, :, None], 1),
        "one_hot": one_hot,
        "sort": lambda keys, x: jax.vmap(lambda a, places: a[places])(x, top(keys)),
    }


def compile_all(batch: int, width: int, devices: int) -> tuple[dict[str, Any], tuple]:
    """Every form's value and gradient, compiled for a batch split over `devices`; their inputs."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    split = NamedSharding(mesh, PartitionSpec("data"))
    keys = jax.device_put(jax.random.split(jax.random.key(0), batch), split)
    x = jax.device_put(jax.random.normal(jax.random.key(1), (batch, COUNT, width)), split)
    g = jax.device_put(jax.random.normal(jax.random.key(2), (batch, KEEP, width)), split)

    def both(form: Any) -> Any:
        def run(keys: Any, x: Any, g: Any) -> tuple:
            kept, pull = jax.vjp(lambda x: form(keys, x), x)
            return kept, pull(g)[0]

        return jax.jit(run, out_shardings=(split, split)).lower(keys, x, g).compile()

    return {name: both(form) for name, form in forms().items()}, (keys, x, g)


def check(programs: dict[str, Any], inputs: tuple) -> None:
    """Every form keeps KEEP different tokens in order and returns their gradient to their place."""
    import numpy as np

    x, g = map(np.asarray, inputs[1:])
    for name, run in programs.items():
        kept, gradient = map(np.asarray, run(*inputs))
        places = np.abs(gradient).sum(-1) > 0
        assert (places.sum(1) == KEEP).all(), name
        chosen = places[:, :, None].repeat(x.shape[2], 2)
        np.testing.assert_allclose(kept.reshape(-1), x[chosen], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(gradient[chosen], g.reshape(-1), atol=1e-5, err_msg=name)


def measure(programs: dict[str, Any], inputs: tuple, rounds: int) -> dict[str, list[float]]:
    """Seconds of every form in every round, all of them in turn."""
    import jax

    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            jax.block_until_ready(run(*inputs))
            start = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The plain form with the lowest median, and its time over ours, round by round: 10 % and 90 %
    quantiles and median.
    """
    plain = {name: values for name, values in seconds.items() if name != "ours"}
    best = min(plain, key=lambda name: statistics.median(plain[name]))
    ratios = sorted(a / b for a, b in zip(plain[best], seconds["ours"], strict=True))
    low, high = (ratios[round(share * (len(ratios) - 1))] for share in (0.1, 0.9))
    return {"best": best, "p10": low, "p90": high, "ratio": statistics.median(ratios)}


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--width", type=int, default=768)
    p.add_argument("--rounds", type=int, default=60)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    import jax

    report: dict[str, Any] = {"row": "P7", "batch": args.batch, "width": args.width}
    for devices in sorted({1, len(jax.devices())}, reverse=True):
        programs, inputs = compile_all(args.batch, args.width, devices)
        check(programs, inputs)
        seconds = measure(programs, inputs, args.rounds)
        for name, values in seconds.items():
            report[f"ms_{name}_{devices}"] = round(1e3 * statistics.median(values), 3)
        text = programs["ours"].as_text()
        report[f"collectives_{devices}"] = len(COLLECTIVE.findall(text))
        found = compared(seconds)
        report |= {f"{key}_{devices}": found[key] for key in ("best", "p10", "p90")}
        report["ratio" if devices == 1 else f"ratio_{devices}"] = found["ratio"]
    for key, value in report.items():
        print(f"{key:>22}  {value}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
