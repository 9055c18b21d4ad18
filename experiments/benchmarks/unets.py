"""U-Nets of one size on both sides of a row, ours and diffusers' UNet2DConditionModel, with the
same random weights: each side draws every tensor by the name that diffusers gives it.

The file exists so that rows about diffusion share sizes, weights and the peer, and nothing as large
as a U-Net is written to a disk.
"""

import zlib
from typing import Any

import numpy as np

from experiments.benchmarks.duel import transformers_modules

TOKENS = 77
# name -> (fields of models/unet.py beside those of sd1, columns of the context)
SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "sd1": ({}, 768),
    # A quarter of the channels; heads as wide as in sd1.
    "quarter": (dict(widths=(80, 160, 320, 320), heads=(2, 2, 2, 2), groups=16), 768),
    "tiny": (
        dict(widths=(32, 64), depths=(1, 0), middle_depth=1, heads=(2, 2), groups=8, res_blocks=1),
        32,
    ),
}
MODES = ("eager", "channels_last", "compile")


def config(size: str) -> dict[str, Any]:
    """Our network's section of a config."""
    from vlp_jax.models.archs.unet import unet

    return unet("sd1", **SIZES[size][0])


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor by its name in diffusers: norms about 1, biases about 0, maps that keep the size of
    what they are given."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if len(shape) > 1:
        return draw * np.float32(0.7 / np.prod(shape[1:]) ** 0.5)
    return 0.02 * draw + np.float32(name.endswith("weight"))


def our_net(size: str) -> Any:
    """Our network, as a CPU or a GPU runs it best."""
    import jax

    from vlp_jax.models.towers import make_tower

    return make_tower(config(size), "unet", unroll=jax.default_backend() == "cpu")


def our_weights(size: str) -> dict[str, Any]:
    """The tree of its parameters, of NumPy arrays."""
    import jax

    from vlp_jax.core.pytree import flatten, unflatten
    from vlp_jax.interop.diffusers_unet import CROSS, TABLES
    from vlp_jax.interop.rules import their_shapes, to_ours
    from vlp_jax.interop.tensors import from_arrays
    from vlp_jax.models import unet

    net, width = our_net(size), SIZES[size][1]
    abstract = jax.eval_shape(net.init, jax.random.key(0), *unet.reads(net, width))["params"]
    shapes = {path: leaf.shape for path, leaf in flatten({"unet": abstract}).items()}
    theirs = their_shapes(TABLES[CROSS], shapes)
    arrays = {name: drawn(name, shape) for name, shape in theirs.items()}
    return unflatten(to_ours(TABLES[CROSS], from_arrays(arrays), shapes, "unet"))["unet"]


def peer_config(size: str) -> dict[str, Any]:
    """What diffusers builds the same network of."""
    import dataclasses

    from vlp_jax.interop.diffusers_unet_config import write_unet

    net = our_net(size)
    said = {f.name: getattr(net, f.name) for f in dataclasses.fields(net)}
    return write_unet(said | {"name": "unet"}, SIZES[size][1])


def peer(said: dict[str, Any], mode: str) -> tuple[Any, Any, Any]:
    """torch, diffusers' U-Net with the weights, in a mode of MODES, and how it is called. said: see
    `peer_config`."""
    torch, _, library = transformers_modules()
    import diffusers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        net = diffusers.UNet2DConditionModel.from_config(said)
    tensors = {n: torch.from_numpy(drawn(n, tuple(t.shape))) for n, t in net.state_dict().items()}
    net.load_state_dict(tensors, assign=True)
    net = net.to(device).train().requires_grad_(True)
    net.kept = library  # must stay alive
    if mode == "channels_last":
        net = net.to(memory_format=torch.channels_last)
    return torch, net, torch.compile(net) if mode == "compile" else net


def inputs(size: str, side: int, batch: int) -> dict[str, np.ndarray]:
    """Random moments of latents, float32[B, h, w, 8], and states of texts."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    moments = np.concatenate([draw(batch, side, side, 4), draw(batch, side, side, 4) - 3], -1)
    return {"latents": moments, "context": draw(batch, TOKENS, SIZES[size][1])}
