"""P10: a training step of a U-Net on cached latents and text states (noise, forward, backward,
update), pictures/s of ours over diffusers' UNet2DConditionModel.

python experiments/benchmarks/p10_unet_step.py --peer-python=PYTHON [--size=sd1] [--side=32]
    [--batch=1] [--optimiser=sgd] [--peer-mode=eager] [--json]

Our side is the trainer's own step with its guards; the peer's its network, a mean squared error and
torch's fused optimiser. Same weights and same noised latents; the first loss must agree to 1e-4
before anything is timed. sd1 with SGD without momentum is what two sides of 860 M parameters leave
room for in 24 GB; a quarter of the channels runs with AdamW. The peer runs eager, in channels-last
layout or compiled, whichever --peer-mode says (report the fastest).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks import unets
from experiments.benchmarks.duel import (
    alternate,
    flags,
    handed,
    serve,
    show,
    sides,
    timed,
    weights_of,
)

RATE, DECAY = 1e-5, 1e-2
OPTIMISERS = ("sgd", "adamw")
PASSED = ("size", "side", "batch", "optimiser", "peer-mode")  # to the workers


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = flags(__doc__, "torch and diffusers", unets.MODES, ("ours", "peer", "weights"))
    p.add_argument("--size", default="quarter", choices=unets.SIZES)
    p.add_argument("--side", type=int, default=32, help="of the latents")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--optimiser", default="", choices=("", *OPTIMISERS), help="default: by size")
    return p


def method_of(args: argparse.Namespace) -> Any:
    """The method, whose frozen encoders are as small as can be: a cache stands for them."""
    import jax

    from vlp_jax.methods.base import make_method

    width = unets.SIZES[args.size][1]
    coder = dict(name="autoencoder", widths=(4, 8), res_blocks=1, groups=4, middle_attention=False)
    text = dict(name="text", vocab_size=8, context_length=unets.TOKENS, width=width, num_layers=1)
    how = dict(latent_scale=1.0, null="zeros", drop=0.0, image_size=2 * args.side)
    how |= dict(unet=unets.config(args.size), unroll=jax.default_backend() == "cpu")
    return make_method({"name": "latent_diffusion", "autoencoder": coder, "text": text, **how})


def weights(args: argparse.Namespace) -> None:
    """The peer's config, and what our first step draws: noised latents, their times and targets."""
    import jax

    from vlp_jax.core.inputs import Inputs, Vars
    from vlp_jax.core.rng import example_keys, step_key

    method = method_of(args)
    batch = jax.device_put(unets.inputs(args.size, args.side, args.batch))
    x = Inputs.of(batch, example_keys(step_key(0, 0), args.batch), train=True)
    given = method.noised(x, method.drawn(Vars({}, {}), x, batch["latents"]))
    np.savez(f"{args.folder}/given.npz", x=given.x, time=given.time, target=given.target)
    Path(args.folder, "peer.json").write_text(json.dumps(unets.peer_config(args.size)))


def ours(args: argparse.Namespace) -> None:
    """Our side: the trainer's own step."""
    import jax

    from vlp_jax.optim.optimizer import lr_factors, make_optimizer
    from vlp_jax.optim.schedules import make_schedule
    from vlp_jax.train.state import Recipe, init_state
    from vlp_jax.train.step import make_step

    method, recipe = method_of(args), Recipe(seed=0, batch_size=args.batch)
    optim = dict(name=args.optimiser, lr=RATE, weight_decay=DECAY, eps=1e-8, clip_norm=0.0)
    optim |= dict(no_decay=(), momentum=0.0)
    tx = make_optimizer(optim)
    state, frozen = jax.jit(lambda: init_state(method, tx, recipe))()
    del state["params"]["unet"]  # makes room for
    state["params"]["unet"] = jax.device_put(unets.our_weights(args.size))
    batch = jax.device_put(unets.inputs(args.size, args.side, args.batch))
    factors = lr_factors(optim, state["params"])
    how = make_schedule("constant", RATE, 10, 0), factors, recipe
    step = jax.jit(make_step(method, tx, *how), donate_argnums=0)
    box = [state]
    del state

    def run() -> dict[str, Any]:
        box[0], metrics = step(box[0], frozen, batch)
        jax.block_until_ready(box[0])
        return {"loss": float(metrics["loss"])}

    flops = 3 * method.flops() * args.batch
    serve({"loss": lambda: {**run(), "flops": flops}, "step": timed(run)})


def peer(args: argparse.Namespace) -> None:
    """diffusers' side."""
    given = dict(np.load(f"{args.folder}/given.npz"))
    said = json.loads(Path(args.folder, "peer.json").read_text())
    torch, net, call = unets.peer(said, args.peer_mode)
    device = next(net.parameters()).device
    image = lambda a: torch.from_numpy(a).permute(0, 3, 1, 2).contiguous().to(device)  # noqa: E731
    x, target = image(given["x"]), image(given["target"])
    if args.peer_mode == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    time = torch.from_numpy(given["time"]).long().to(device)
    states = unets.inputs(args.size, args.side, args.batch)["context"]
    states = torch.from_numpy(states).to(device)
    if args.optimiser == "sgd":
        opt = torch.optim.SGD(net.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    else:
        opt = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY, fused=True)

    def run() -> dict[str, float]:
        opt.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(call(x, time, states).sample, target)
        loss.backward()
        opt.step()
        return {"loss": loss.item()}

    serve({"loss": run, "step": timed(run)})


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    args.optimiser = args.optimiser or ("sgd" if args.size == "sd1" else "adamw")
    if args.worker:
        {"ours": ours, "peer": peer, "weights": weights}[args.worker](args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        start = [*handed(args, *PASSED), f"--folder={folder}"]
        weights_of(args.python, __file__, start)
        a, b = sides(args, __file__, start)
        first, theirs = a.ask("loss"), b.ask("loss")
        if abs(first["loss"] - theirs["loss"]) > 1e-4:
            said = f"ours {first['loss']:.6f}, diffusers {theirs['loss']:.6f}"
            raise SystemExit(f"losses differ: {said}")
        report = {"row": "P10", **{key: getattr(args, key.replace("-", "_")) for key in PASSED}}
        report |= {"loss_ours": first["loss"], "loss_peer": theirs["loss"]}
        timing = alternate(a, b, args.pairs)
    report["gflops_per_s_ours"] = first["flops"] / timing["seconds_ours"] / 1e9
    show(report | timing, args.json)
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
