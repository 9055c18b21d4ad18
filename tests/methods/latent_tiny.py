"""The smallest latent diffusion methods, with weights that are all different from 0.

The file exists so that tests of training and of drawing share their sizes and their programs.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.inputs import Inputs
from vlp_jax.core.rng import example_keys
from vlp_jax.methods.base import Method, make_method

SIDE, LENGTH, FACTOR = 16, 6, 2
START, END = 257, 258
CODER = dict(
    name="autoencoder", latent_channels=4, widths=(4, 8), res_blocks=1, groups=4,
    middle_attention=False,
)  # fmt: skip
UNET = dict(name="unet", widths=(8,), depths=(1,), heads=(2,), res_blocks=1, groups=4)
TEXT = dict(
    name="text", vocab_size=259, context_length=LENGTH, width=8, num_layers=2, num_heads=2,
)  # fmt: skip
EMPTY = (START, END, 0)
PLAIN = dict(
    name="latent_diffusion", autoencoder=CODER, unet=UNET, text=TEXT, empty=EMPTY, image_size=SIDE,
)  # fmt: skip
BARE = PLAIN | dict(unet=UNET | dict(depths=(0,), cross=False), text={}, drop=0.0)
XL = PLAIN | dict(
    unet=UNET | dict(pooled_width=12, time_ids=6, id_width=4, in_channels=9),
    text_2=TEXT | dict(embed_dim=12), empty_2=EMPTY, states="penultimate", null="zeros",
    joins="mask",
)  # fmt: skip
CONTROL = PLAIN | dict(controls=1, control={"hint_widths": (4, 8)})


def made(config: dict = PLAIN, **changes) -> Method:
    """A method."""
    return make_method(config | changes)


def weights(method: Method, seed: int = 0, spread: float = 0.2):
    """Vars of random numbers, without a program that draws them; the latents' factor is 0.5."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(method.fresh, jax.random.key(0))
    params = jax.tree.map(
        lambda s: jnp.asarray(spread * rng.standard_normal(s.shape), s.dtype), shapes.params
    )
    extra = jax.tree.map(lambda s: jnp.full(s.shape, 0.5, s.dtype), shapes.extra)
    return shapes._replace(params=params, extra=extra)


def batch(method: Method, count: int = 4, seed: int = 0) -> dict[str, jax.Array]:
    """Whatever its fields are."""
    rng = np.random.default_rng(seed)

    def filled(spec):
        if spec.dtype == jnp.int32 and len(spec.shape) > 1:  # texts
            return rng.integers(1, 257, spec.shape)
        if spec.dtype == jnp.uint8:
            return rng.integers(0, 256, spec.shape)
        return rng.integers(0, 2, spec.shape) + (0 if spec.dtype == jnp.int32 else 17)

    found = method.batch_spec(count)
    return {name: jnp.asarray(filled(spec), spec.dtype) for name, spec in found.items()}


def inputs(method: Method, rows: dict, seed: int = 1, **how) -> Inputs:
    """A training batch."""
    count = len(next(iter(rows.values())))
    x = Inputs.of(rows, example_keys(jax.random.key(seed), count), train=True, **how)
    return x.replace(totals=method.totals(x))
