"""P22: programs that `Model.sample` compiles per sampler and size, guided or not, over prompts of
different lengths, with and without a negative, other seeds, guidance and strengths: 1.

python experiments/benchmarks/p22_sampling_programs.py [--samplers=ddim,euler] [--sizes=16x16,16x24]
    [--prompts=20] [--json]

The model is as small as can be, since its size changes no count. A picture that is begun with is
another input, and its programs are counted apart. There is no other side.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import show

EVENT = "/jax/core/compile/backend_compile_duration"
LENGTH = 16


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--samplers", default="ddim,ddpm,dpm_solver,euler,euler_ancestral,heun,lcm,pndm")
    p.add_argument("--sizes", default="16x16,16x24", help="HxW, multiples of 4")
    p.add_argument("--prompts", type=int, default=20)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--json", action="store_true")
    return p


def model() -> Any:
    """A latent diffusion model of random weights that reads bytes."""
    import jax

    from vlp_jax.api.model import Model
    from vlp_jax.methods.base import make_method

    text = dict(name="text", vocab_size=259, context_length=LENGTH, width=16)
    text |= dict(num_layers=1, num_heads=2)
    unet = dict(name="unet", widths=(8, 16), depths=(1, 0), groups=4, middle_depth=0, heads=(2, 2))
    coder = dict(name="autoencoder", widths=(4, 8), res_blocks=1, groups=2, middle_attention=False)
    config = dict(name="latent_diffusion", image_size=16, text=text, unet=unet | {"res_blocks": 1})
    config |= dict(autoencoder=coder, empty=(257, 258, 0), frozen_dtype="float32", unroll=True)
    method = make_method(config)
    draw = np.random.default_rng(0).normal
    shapes, extra = jax.eval_shape(method.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: draw(size=leaf.shape, scale=0.2).astype("f"), shapes)
    extra = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), extra)
    spec = {"name": "bytes", "context_length": LENGTH}
    return Model("tiny", method, params, extra, {}, spec, {"method": config})


def ways(args: argparse.Namespace) -> list[tuple[str, tuple[int, int], bool, bool]]:
    """(sampler, size, guided, begun with a picture) of every program that there shall be."""
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes.split(",")]
    return [
        (sampler, size, guided, begun)
        for sampler in args.samplers.split(",")
        for size in sizes
        for guided in (True, False)
        for begun in (False, True)
    ]


def asked(way: tuple, number: int, steps: int) -> dict[str, Any]:
    """What the picture of a number is made from, beside its prompt."""
    sampler, size, guided, begun = way
    how = dict(sampler=sampler, size=size, steps=steps, seed=number)
    how["guidance"] = 1.5 + number if guided else 1.0
    if guided and number % 2:
        how["negative"] = "blurred " * (number % 3)
    if begun:
        rng = np.random.default_rng(number)
        how["image"] = rng.integers(0, 256, (*size, 3), np.uint8)
        how["strength"] = (number % 5) / 4
    return how


def main() -> int:
    """Runs the row."""
    import jax

    args, count = parser().parse_args(), [0]

    def heard(event: str, seconds: float, **_: Any) -> None:
        count[0] += event == EVENT

    painter = model()
    jax.monitoring.register_event_duration_secs_listener(heard)
    found = {}
    for way in ways(args):
        count[0] = 0
        for number in range(args.prompts):
            prompt = "cat "[: number % 5] * (number % 4)
            painter.sample([prompt], **asked(way, number, args.steps))
        found[way] = count[0]
        print(*way, count[0], flush=True)
    report = {"row": "P22", "ways": len(found), "prompts": args.prompts}
    report |= {"fewest": min(found.values()), "most": max(found.values())}
    show(report, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
