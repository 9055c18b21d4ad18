"""P6: a MAE step (forward, backward, AdamW) with 75 % masked: what leaving the mask tokens out of
the encoder gains over what its FLOPs promise, and examples/s over transformers' ViTMAE.

python experiments/benchmarks/p6_mae_step.py [--arch=ViT-S-16] [--batch=16] [--json]
    [--peer-python=PYTHON]

The first part holds both variants in one process and runs them in turn; the goal is 0.95 of the
ideal. The second part needs an interpreter with torch and transformers: same weights (converted),
same noise; the losses must agree to 1e-4 before anything is timed. Both draw their masks anew in
every timed step. The goal is 1.2.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import alternate, flags, handed, serve, show, sides, timed

ROOT = Path(__file__).resolve().parents[2]
OPTIM = dict(name="adamw", lr=1e-5, weight_decay=0.05, b2=0.95, eps=1e-8, clip_norm=0.0)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = flags(__doc__, "torch and transformers", ("eager", "compile"))
    p.set_defaults(peer_python="")  # without one, the first part alone
    p.add_argument("--arch", default="ViT-S-16", help="or a released size of models/archs/mae.py")
    p.add_argument("--decoder-layers", type=int, default=8)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--dtype", default="float32", help="bfloat16 on a GPU")
    p.add_argument("--remat", default="none")
    return p


def arch_of(args: argparse.Namespace) -> dict[str, Any]:
    """{image, decoder}; ViT-S-16 is no released size."""
    from vlp_jax.models.archs.mae import mae_arch, mae_tower

    arch = mae_arch("ViT-B-16" if args.arch == "ViT-S-16" else args.arch)
    if args.arch == "ViT-S-16":
        arch["image"] = mae_tower(224, 16, 12, 384, 64)
    arch["decoder"]["num_layers"] = args.decoder_layers
    return arch


def inputs(batch: int, size: int, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 pictures and noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    return images, rng.random((batch, patches), np.float32)


class Run:
    """The trainer's step on a method, with its own state."""

    def __init__(self, method: Any, batch: int, params: Any = None):
        import jax

        from vlp_jax.optim.optimizer import lr_factors, make_optimizer
        from vlp_jax.optim.schedules import make_schedule
        from vlp_jax.train.state import Recipe, init_state
        from vlp_jax.train.step import make_step

        tx, recipe = make_optimizer(OPTIM), Recipe(seed=0, batch_size=batch)
        self.state, self.frozen = jax.jit(lambda: init_state(method, tx, recipe))()
        if params is not None:
            self.state["params"] = jax.tree.map(jax.numpy.array, params)
        how = make_schedule("constant", 1e-5, 10, 0), lr_factors(OPTIM, self.state["params"])
        self.step = jax.jit(make_step(method, tx, *how, recipe), donate_argnums=0)
        tower = method.image_tower
        images, _ = inputs(batch, tower.image_size, tower.grid**2)
        self.batch = jax.device_put({"image": images})

    def __call__(self) -> float:
        import jax

        self.state, metrics = self.step(self.state, self.frozen, self.batch)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])


def ideal(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both variants, measured in turn, beside the ratio of their FLOPs."""
    import jax

    from vlp_jax.methods.base import make_method

    how = dict(dtype=args.dtype, remat=args.remat, unroll=jax.default_backend() == "cpu")
    methods = {
        inside: make_method(
            {"name": "mae", **arch_of(args), **how, "mask_token_in_encoder": inside}
        )
        for inside in (True, False)
    }
    runs = {inside: timed(Run(method, args.batch)) for inside, method in methods.items()}
    turn = lambda run: (run(), run())[1]["seconds"]  # noqa: E731  the second, as in duel.py
    for run in runs.values():
        turn(run)
    rows = [{k: turn(run) for k, run in runs.items()} for _ in range(args.pairs)]
    flops = {inside: method.flops() for inside, method in methods.items()}
    ratios = sorted(row[True] / row[False] for row in rows)
    seconds = statistics.median(row[False] for row in rows)
    promised = flops[True] / flops[False]
    return {
        "speedup": statistics.median(ratios),
        "ideal": promised,
        "of_ideal": statistics.median(ratios) / promised,
        "of_ideal_spread": [ratios[1] / promised, ratios[-2] / promised],
        "seconds_masked": seconds,
        "seconds_mask_tokens": statistics.median(row[True] for row in rows),
        "gflops_per_s": 3 * flops[False] * args.batch / seconds / 1e9,
    }


def ours(args: argparse.Namespace) -> None:
    """Our side: the trainer's own step on converted weights."""
    import dataclasses

    import jax

    from vlp_jax.api.model import load_model
    from vlp_jax.core.inputs import Inputs, Vars

    model = load_model(f"{args.folder}/ours")
    how = dict(dtype=args.dtype, remat=args.remat, unroll=jax.default_backend() == "cpu")
    method = dataclasses.replace(model.method, **how)
    tower = method.image_tower
    images, noise = inputs(args.batch, tower.image_size, tower.grid**2)
    x = Inputs.of({"image": images, "noise": noise})
    loss = jax.jit(lambda p: method.loss(Vars(p, {}), x)[0])
    first = float(loss(model.params))
    run = Run(method, args.batch, model.params)
    serve({"loss": lambda: {"loss": first}, "step": timed(run)})


def peer(args: argparse.Namespace) -> None:
    """transformers' side: ViTMAEForPreTraining and torch's fused AdamW."""
    torch, transformers, library = peer_modules()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.ViTMAEForPreTraining.from_pretrained(f"{args.folder}/peer")
    model = model.to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    decay, rest = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.95), eps=1e-8, fused=True)
    size = model.config.image_size
    images, noise = inputs(args.batch, size, (size // model.config.patch_size) ** 2)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    noise = torch.from_numpy(noise).to(device)
    mean, std = (
        torch.tensor(x).view(1, 3, 1, 1).to(device)
        for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    half = torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16")

    def forward(noise: Any = None) -> Any:
        with half:
            return model((pixels.float() / 255 - mean) / std, noise=noise).loss

    compiled = torch.compile(forward) if args.peer_mode == "compile" else forward
    with torch.no_grad():
        first = forward(noise).item()

    def run() -> float:
        opt.zero_grad(set_to_none=True)
        loss = compiled()
        loss.backward()
        opt.step()
        return loss.item()

    serve({"loss": lambda: {"loss": first, "library": str(library)}, "step": timed(run)})


def peer_modules() -> tuple[Any, Any, Any]:
    """torch, transformers and what must stay alive for them."""
    sys.path.insert(0, str(ROOT / "tests" / "peers"))
    from conftest import declare_torchvision_operators

    library = declare_torchvision_operators()
    import torch
    import transformers

    return torch, transformers, library


def duel(args: argparse.Namespace) -> dict[str, Any]:
    """Our random weights as transformers reads them, then both sides in turn."""
    with tempfile.TemporaryDirectory() as folder:
        write_weights(args, folder)
        start = handed(args, "arch", "batch", "dtype", "remat", "peer-mode")
        a, b = sides(args, __file__, [*start, f"--folder={folder}"])
        found, theirs = a.ask("loss")["loss"], b.ask("loss")["loss"]
        if abs(found - theirs) > 1e-4 and args.dtype == "float32":
            raise SystemExit(f"losses differ: ours {found:.6f}, transformers {theirs:.6f}")
        timing = alternate(a, b, args.pairs)
    return {"peer": args.peer_mode, "loss_ours": found, "loss_peer": theirs, **timing}


def write_weights(args: argparse.Namespace, folder: str) -> None:
    """Fresh weights of ours in `folder`/peer, and their conversion in `folder`/ours."""
    code = f"""
import jax
from vlp_jax.api import export
from vlp_jax.core.pytree import flatten
from vlp_jax.methods.base import make_method
config = {{'name': 'mae', **{arch_of(args)!r}}}
method = make_method(config)
params = jax.jit(method.init)(jax.random.key(0))[0]
arrays = {{path: jax.device_get(leaf) for path, leaf in flatten(params).items()}}
how = dict(mean=method.image_mean, std=method.image_std, resample='bicubic', crop='center')
export.write('{folder}/peer', 'hf', arrays, {{'method': config, 'preprocessing': how}})
"""
    subprocess.run([args.python, "-c", code], check=True, cwd=ROOT)
    convert = ["-m", "vlp_jax", "convert", f"{folder}/peer", f"{folder}/ours"]
    subprocess.run([args.python, *convert], check=True, stdout=sys.stderr, cwd=ROOT)


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        {"ours": ours, "peer": peer}[args.worker](args)
        return 0
    report = {"row": "P6", "arch": args.arch, "batch": args.batch, "dtype": args.dtype}
    report |= {"decoder_layers": args.decoder_layers, **ideal(args)}
    if args.peer_python:
        report |= duel(args)
    show(report, args.json)
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
