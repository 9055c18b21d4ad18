"""P4: a whole CLIP training step (forward, backward, AdamW), examples/s of ours over open_clip's.

python experiments/benchmarks/p4_clip_step.py --peer-python=PYTHON [--arch=ViT-B-32] [--batch=32]
[--json]

Same weights (converted), same random pictures and full-length captions; the losses must agree to
1e-4 before anything is timed. Both sides run with glibc's huge pages, as our commands do. The peer
runs eager or compiled, whichever its --peer-mode says (report the faster).
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import alternate, flags, handed, serve, show, sides, timed


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = flags(__doc__, "torch and open_clip", ("eager", "compile"))
    p.add_argument("--arch", default="ViT-B-32")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--tokens", type=int, default=0, help="length of all captions (0: full)")
    p.add_argument("--dtype", default="float32", help="bfloat16 on a GPU")
    return p


def inputs(batch: int, size: int, length: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 pictures and captions of `tokens` ids (0: all), the last the end, then zeros."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    ids = rng.integers(1, 49405, (batch, length), np.int64)
    tokens = tokens or length
    ids[:, 0], ids[:, tokens - 1], ids[:, tokens:] = 49406, 49407, 0
    return images, ids


def ours(args: argparse.Namespace) -> None:
    """Our side: the trainer's own step on converted weights."""
    import jax

    from configs import common
    from vlp_jax.api.model import load_model
    from vlp_jax.data.lengths import check_buckets
    from vlp_jax.optim.optimizer import lr_factors, make_optimizer
    from vlp_jax.optim.schedules import make_schedule
    from vlp_jax.train.state import Recipe, init_state
    from vlp_jax.train.step import make_step

    model = load_model(f"{args.folder}/ours")
    method = dataclasses.replace(
        model.method, unroll=jax.default_backend() == "cpu", dtype=args.dtype
    )
    optim = dict(name="adamw", lr=1e-5, weight_decay=0.2, b2=0.98, eps=1e-6, clip_norm=0.0)
    tx, recipe = make_optimizer(optim), Recipe(seed=0, batch_size=args.batch)
    state, frozen = jax.jit(lambda: init_state(method, tx, recipe))()
    state["params"] = jax.tree.map(jax.numpy.array, model.params)
    factors = lr_factors(optim, state["params"])
    step = jax.jit(
        make_step(method, tx, make_schedule("constant", 1e-5, 10, 0), factors, recipe),
        donate_argnums=0,
    )
    length = method.text_tower.context_length
    images, ids = inputs(args.batch, model.image_size, length, args.tokens)
    buckets = check_buckets(common.data().buckets, length)
    bucket = next(b for b in buckets if b >= (args.tokens or length))
    ids = ids[:, :bucket]
    batch = jax.device_put({"image": images, "text": ids.astype(np.int32)})
    box = [state]

    def run() -> float:
        box[0], metrics = step(box[0], frozen, batch)
        jax.block_until_ready(box[0])
        return float(metrics["loss"])

    serve(
        {
            "loss": lambda: {"loss": run(), "flops": 3 * method.flops(bucket) * args.batch},
            "step": timed(run),
        }
    )


def peer(args: argparse.Namespace) -> None:
    """open_clip's side: its model, ClipLoss and torch's fused AdamW."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "peers"))
    from conftest import declare_torchvision_operators as declare

    library = declare()  # must stay alive
    import open_clip
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = open_clip.create_model(args.arch)
    model.load_state_dict(torch.load(f"{args.folder}/peer.pt"))
    model = model.to(device).train()
    loss_fn = open_clip.ClipLoss()
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, fused=True)
    size = model.visual.image_size[0]
    images, ids = inputs(args.batch, size, model.context_length, args.tokens)
    mean, std = (
        torch.tensor(x).view(1, 3, 1, 1).to(device)
        for x in (model.visual.image_mean, model.visual.image_std)
    )
    pixels, ids = (
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device),
        torch.from_numpy(ids).to(device),
    )
    half = torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16")

    def forward() -> torch.Tensor:
        with half:
            image, text, scale = model((pixels.float() / 255 - mean) / std, ids)
            return loss_fn(image, text, scale)

    compiled = torch.compile(forward) if args.peer_mode == "compile" else forward

    def run() -> float:
        opt.zero_grad(set_to_none=True)
        loss = compiled()
        loss.backward()
        opt.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        return loss.item()

    serve({"loss": lambda: {"loss": run(), "library": str(library)}, "step": timed(run)})


def make_weights(args: argparse.Namespace, folder: str) -> None:
    """Random open_clip weights, and their conversion."""
    import subprocess

    code = f"""
import sys; sys.path.insert(0, 'tests/peers')
from conftest import declare_torchvision_operators
library = declare_torchvision_operators()
import torch, open_clip
torch.manual_seed(0)
torch.save(open_clip.create_model('{args.arch}').state_dict(), '{folder}/peer.pt')
"""
    subprocess.run([args.peer_python, "-c", code], check=True)
    convert = [
        "-m",
        "vlp_jax",
        "convert",
        f"{folder}/peer.pt",
        f"{folder}/ours",
        f"--arch={args.arch}",
    ]
    subprocess.run([args.python, *convert], check=True, stdout=sys.stderr)


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        {"ours": ours, "peer": peer}[args.worker](args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make_weights(args, folder)
        shared = handed(args, "arch", "batch", "tokens", "dtype", "peer-mode")
        a, b = sides(args, __file__, [f"--folder={folder}", *shared])
        first, theirs = a.ask("loss"), b.ask("loss")
        if abs(first["loss"] - theirs["loss"]) > 1e-4 and args.dtype == "float32":
            raise SystemExit(
                f"losses differ: ours {first['loss']:.6f}, open_clip {theirs['loss']:.6f}"
            )
        report = {
            "row": "P4",
            "arch": args.arch,
            "batch": args.batch,
            "tokens": args.tokens or "full",
            "dtype": args.dtype,
            "peer": args.peer_mode,
        }
        report |= {"loss_ours": first["loss"], "loss_peer": theirs["loss"]}
        timing = alternate(a, b, args.pairs)
        report["gflops_per_s_ours"] = first["flops"] / timing["seconds_ours"] / 1e9
        report |= timing
    show(report, args.json)
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
