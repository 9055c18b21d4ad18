"""P1, P2, P3: memory and time of the contrastive loss, forward and backward, against open_clip.

python experiments/benchmarks/p1_contrastive_loss.py --peer-python=PYTHON [--loss=softmax|sigmoid]
[--batch=4096,8192,16384,32768] [--pairs=10] [--json]

Same unit vectors on both sides; losses must agree to 1e-5 before anything is timed. Memory is what
the process grew by at its peak (resident), and on our side the compiler's figure for temporaries
too; every batch size has processes of its own. At 32,768 the peer needs about 17 GB.
"""

import argparse
import json
import resource
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import Worker, alternate, serve, timed

SCALE, BIAS = np.log(20.0), -10.0


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--loss", choices=("softmax", "sigmoid"), default="softmax")
    p.add_argument("--batch", default="4096,8192,16384,32768")
    p.add_argument("--width", type=int, default=512)
    p.add_argument("--pairs", type=int, default=10)
    p.add_argument("--python", default=sys.executable, help="interpreter of our side")
    p.add_argument(
        "--peer-python", default=sys.executable, help="interpreter with torch and open_clip"
    )
    p.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    p.add_argument("--json", action="store_true")
    return p


def inputs(batch: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, row i of the second near row i of the first."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, width), np.float32)
    y = x + 2 * rng.standard_normal((batch, width), np.float32)
    return tuple(a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))


def resident() -> int:
    """Peak resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(args: argparse.Namespace) -> None:
    """Our side."""
    import jax
    import jax.numpy as jnp

    from vlp_jax.losses.contrastive import sigmoid_contrastive, softmax_contrastive

    x, y = (jax.device_put(a) for a in inputs(int(args.batch), args.width))
    scalars = (jnp.float32(SCALE), jnp.float32(BIAS))
    if args.loss == "softmax":
        loss = lambda x, y, s, b: softmax_contrastive(x, y, s)[0] + 0 * b  # noqa: E731
    else:
        loss = lambda x, y, s, b: sigmoid_contrastive(x, y, s, b)[0]  # noqa: E731
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    compiled = run.lower(x, y, *scalars).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    before = resident()

    def step() -> float:
        return float(jax.block_until_ready(compiled(x, y, *scalars))[0])

    def first() -> dict:
        return {"loss": step(), "grown": resident() - before, "temporaries": temporaries}

    serve({"loss": first, "step": timed(step)})


def peer(args: argparse.Namespace) -> None:
    """open_clip's losses, as its training loop calls them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "peers"))
    from conftest import declare_torchvision_operators as declare

    library = declare()  # must stay alive
    import open_clip
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = inputs(int(args.batch), args.width)
    x, y, scale, bias = (
        torch.tensor(a, dtype=torch.float32, device=device, requires_grad=True)
        for a in (x, y, SCALE, BIAS)
    )
    loss_fn = open_clip.ClipLoss() if args.loss == "softmax" else open_clip.loss.SigLipLoss()
    more = () if args.loss == "softmax" else (bias,)
    before = resident()

    def step() -> float:
        for leaf in (x, y, scale, bias):
            leaf.grad = None
        loss = loss_fn(x, y, scale.exp(), *more)
        loss.backward()
        return loss.item()

    def first() -> dict:
        return {"loss": step(), "grown": resident() - before, "library": str(library)}

    serve({"loss": first, "step": timed(step)})


def row(args: argparse.Namespace, batch: int) -> dict:
    """Both sides at one batch size."""
    start = [f"--batch={batch}", f"--width={args.width}", f"--loss={args.loss}"]
    a = Worker(args.python, __file__, ["--worker=ours", *start])
    b = Worker(args.peer_python, __file__, ["--worker=peer", *start])
    first, theirs = a.ask("loss"), b.ask("loss")
    if abs(first["loss"] - theirs["loss"]) > 1e-5 * abs(theirs["loss"]):
        raise SystemExit(f"losses differ: ours {first['loss']}, open_clip {theirs['loss']}")
    timing = alternate(a, b, args.pairs, warmup=1)
    a.close(), b.close()
    return {
        "batch": batch,
        "temporaries": first["temporaries"],
        "grown": first["grown"],
        "peer_grown": theirs["grown"],
        "memory_ratio": first["temporaries"] / theirs["grown"],
        "seconds": timing["seconds_ours"],
        "peer_seconds": timing["seconds_peer"],
        "time_p10": 1 / timing["ratio_p90"],
        "time_p90": 1 / timing["ratio_p10"],
        "time_ratio": 1 / timing["ratio"],
    }


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        {"ours": ours, "peer": peer}[args.worker](args)
        return 0
    names = f"{'batch':>7} {'ours MB':>9} {'peer MB':>9} {'memory':>8} {'time':>6}  p10-p90"
    print(f"{args.loss}: {names}")
    rows = []
    for batch in map(int, args.batch.split(",")):
        rows.append(found := row(args, batch))
        sizes = (found["temporaries"] / 1e6, found["peer_grown"] / 1e6)
        spread = f"{found['time_p10']:.2f}-{found['time_p90']:.2f}"
        print(
            f"{args.loss}: {batch:>7} {sizes[0]:>9.0f} {sizes[1]:>9.0f} "
            f"{1 / found['memory_ratio']:>7.0f}x {found['time_ratio']:>6.2f}  {spread}",
            flush=True,
        )
    if args.json:
        report = {"row": "P1-P3", "loss": args.loss, "width": args.width, "pairs": args.pairs}
        print(json.dumps({**report, "rows": rows, "ratio": rows[-1]["time_ratio"]}))
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
