"""P11: DDIM with guidance, from noise to latents in one program, s/picture of diffusers' loop over
ours.

python experiments/benchmarks/p11_ddim.py --peer-python=PYTHON [--size=quarter] [--side=64]
    [--steps=50] [--batch=1] [--peer-mode=eager] [--json]

Same weights, noise, states of texts and of nothing; the latents must agree to 1e-3 before anything
is timed. The peer runs what its pipeline runs: both conditions in one batch, DDIMScheduler, the
network eager, in channels-last layout or compiled, whichever --peer-mode says (report the fastest).
The decoder is left out on both sides.
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

GUIDANCE = 7.5
PASSED = ("size", "side", "steps", "batch", "peer-mode")  # to the workers


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = flags(__doc__, "torch and diffusers", unets.MODES, ("ours", "peer", "weights"))
    p.add_argument("--size", default="quarter", choices=unets.SIZES)
    p.add_argument("--side", type=int, default=64, help="of the latents")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch", type=int, default=1)
    return p


def weights(args: argparse.Namespace) -> None:
    """The peer's config, noise, and states: of nothing, then of the texts."""
    Path(args.folder, "peer.json").write_text(json.dumps(unets.peer_config(args.size)))
    found = unets.inputs(args.size, args.side, 2 * args.batch)
    noise = found["latents"][: args.batch, ..., :4]
    np.savez(f"{args.folder}/given.npz", noise=noise, states=found["context"])


def ours(args: argparse.Namespace) -> None:
    """Our side: the scan of `Model.sample`."""
    import jax

    from vlp_jax.core.rng import row_keys
    from vlp_jax.diffusion.guidance import pairs
    from vlp_jax.diffusion.how import Drawing
    from vlp_jax.diffusion.sample import Given, sample
    from vlp_jax.diffusion.schedules import Schedule
    from vlp_jax.models.unet import Condition

    net, count = unets.our_net(args.size), args.batch
    v = {"params": jax.device_put(unets.our_weights(args.size))}
    given = jax.device_put(dict(np.load(f"{args.folder}/given.npz")))
    keys = row_keys(jax.random.key(0), np.arange(count))
    how = Drawing(steps=args.steps, guidance=GUIDANCE)

    @jax.jit
    def draw(v: Any, given: dict[str, Any], keys: Any) -> Any:
        told = Condition(context=pairs(given["states"][:count], given["states"][count:]))
        model = lambda x, time: net.apply(v, x, time, told)  # noqa: E731
        start = given["noise"]
        return sample(model, Schedule(), how, keys, start.shape[1:], Given(start=start))

    run = lambda: jax.block_until_ready(draw(v, given, keys))  # noqa: E731
    serve({"latents": saved(args, "ours", run), "step": timed(run)})


def saved(args: argparse.Namespace, name: str, run: Any) -> Any:
    """An answer that leaves the latents in the folder."""

    def answer() -> dict[str, Any]:
        np.save(f"{args.folder}/{name}.npy", np.asarray(run()))
        return {}

    return answer


def peer(args: argparse.Namespace) -> None:
    """diffusers' side: the loop of StableDiffusionPipeline."""
    said = json.loads(Path(args.folder, "peer.json").read_text())
    torch, net, call = unets.peer(said, args.peer_mode)
    import diffusers

    net.eval().requires_grad_(False)
    device = next(net.parameters()).device
    given = dict(np.load(f"{args.folder}/given.npz"))
    noise = torch.from_numpy(given["noise"]).permute(0, 3, 1, 2).contiguous().to(device)
    states = torch.from_numpy(given["states"]).to(device)
    how = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    scheduler = diffusers.DDIMScheduler(**how, clip_sample=False, set_alpha_to_one=False)
    layout = torch.channels_last if args.peer_mode == "channels_last" else torch.contiguous_format

    def run() -> Any:
        scheduler.set_timesteps(args.steps)
        x = noise
        with torch.inference_mode():
            for time in scheduler.timesteps:
                both = torch.cat([x, x]).to(memory_format=layout)
                out = call(both, time, states).sample
                nothing, text = out.chunk(2)
                mixed = nothing + GUIDANCE * (text - nothing)
                x = scheduler.step(mixed, time, x).prev_sample
        return x.permute(0, 2, 3, 1)

    serve({"latents": saved(args, "peer", run), "step": timed(run)})


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        {"ours": ours, "peer": peer, "weights": weights}[args.worker](args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        start = [*handed(args, *PASSED), f"--folder={folder}"]
        weights_of(args.python, __file__, start)
        a, b = sides(args, __file__, start)
        a.ask("latents"), b.ask("latents")
        mine, theirs = (np.load(f"{folder}/{name}.npy") for name in ("ours", "peer"))
        apart = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
        if not apart <= 1e-3:
            raise SystemExit(f"latents differ by {apart:.1e} of the largest number")
        report = {"row": "P11", **{key: getattr(args, key.replace("-", "_")) for key in PASSED}}
        report["apart"] = apart
        timing = alternate(a, b, args.pairs, warmup=0)
    for side in ("ours", "peer"):
        report[f"s_per_picture_{side}"] = timing[f"seconds_{side}"] / args.batch
    show(report | timing, args.json)
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
