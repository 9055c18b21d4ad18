"""Latent diffusion under faults: R13, a batch with a NaN moves nothing; R27, what is frozen stays
to the last bit, the latents' factor too, and drops nothing; R24, a NaN stays in its own row.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latent_tiny import BARE, CODER, made, weights

from vlp_jax.core.inputs import Inputs
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys
from vlp_jax.methods.kits.diffusion import Painting
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

COUNTERS = ("step", "skipped", "skipped_in_row")


def bits(state):
    return {
        path: np.asarray(leaf).tobytes()
        for path, leaf in flatten({k: v for k, v in state.items() if k not in COUNTERS}).items()
    }


@pytest.fixture(scope="module")
def run():
    """(method, first state, f(state, batch) -> state); its autoencoder would drop in training."""
    method = made(BARE, autoencoder=CODER | {"dropout": 0.5})
    optim, recipe = {"name": "adamw", "lr": 1e-2}, Recipe(0, 4)
    tx = make_optimizer(optim)
    first, frozen = jax.jit(lambda: init_state(method, tx, recipe))()
    factors = lr_factors(optim, first["params"])
    step = jax.jit(make_step(method, tx, lambda k: jnp.float32(1e-2), factors, recipe))
    return method, first, lambda state, rows: step(state, frozen, rows)


def test_a_nan_moves_nothing_and_what_is_frozen_never_moves(run):
    method, first, step = run
    shape = 4, *method.latent_shape[:2], method.moments
    rows = {"latents": jax.random.normal(jax.random.key(0), shape)}  # of a cache
    good, told = step(first, rows)
    spoilt = rows | {"latents": rows["latents"].at[1, 0, 0, 0].set(jnp.nan)}
    bad, _ = step(good, spoilt)
    assert bits(bad) == bits(good) and int(bad["skipped"]) == 1 and np.isfinite(told["loss"])
    last = step(bad, rows)[0]
    moved = {path for path, leaf in bits(last).items() if leaf != bits(first)[path]}
    tops = {path.split("/")[1] for path in moved if path.startswith("params/")}
    assert tops == {"unet"} and "extra/batch_stats/latent_scale/scale" not in moved
    assert set(method.parts()) - tops == {"autoencoder", "latent_scale"}


def test_a_frozen_autoencoder_drops_nothing(run):
    method = run[0]
    v, pixels = weights(method), np.linspace(-1, 1, 16 * 16 * 3, dtype=np.float32)
    pixels = jnp.asarray(pixels).reshape(1, 16, 16, 3)
    keys = example_keys(jax.random.key(1), 1)
    rows = {"image": jnp.zeros((1, 16, 16, 3), jnp.uint8)}
    found = [method.posterior(v, Inputs.of(rows, keys, train=train), pixels) for train in (0, 1)]
    np.testing.assert_array_equal(*found)


def test_a_nan_stays_in_its_own_row(run):
    method = run[0]
    v, start = weights(method), jnp.zeros((2, *method.latent_shape))
    how = Painting(steps=2, guided=False)

    def drawn(start):
        rows = {"start": start}
        x = Inputs.of(rows, example_keys(jax.random.key(0), 2))
        return method.functions()["generate_image"].run(v, x, how)["image"]

    clean, spoilt = (jax.jit(drawn)(s) for s in (start, start.at[0, 1, 1, 1].set(jnp.nan)))
    np.testing.assert_array_equal(spoilt[1], clean[1])
    assert not np.isfinite(spoilt[0]).all()
