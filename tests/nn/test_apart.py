"""Stacks of blocks as layers: the same numbers, in the same order."""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.nn.layers import Layers, apart, blocks_apart, together


def test_layers_are_the_rows_of_a_stack_and_back():
    rng = np.random.default_rng(0)
    blocks = {"fc": jnp.asarray(rng.random((3, 4, 5))), "norm": {"bias": jnp.arange(3.0)}}
    params = {"blocks": blocks, "head": jnp.ones(2)}
    found = blocks_apart(params)
    assert found["head"] is params["head"] and isinstance(found["blocks"], Layers)
    for i, layer in enumerate(found["blocks"].trees):
        jax.tree.map(np.testing.assert_array_equal, layer, jax.tree.map(lambda a: a[i], blocks))
    for layers in (found["blocks"], apart(blocks)):
        jax.tree.map(np.testing.assert_array_equal, together(layers), blocks)


def test_a_loop_over_layers_copies_none_of_them():
    """Stack and slices cancel out under XLA: what Layers are for."""

    def step(x, layers):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, together(layers), unroll=3)[0]

    def loop(x, layers):
        return jax.lax.fori_loop(0, 4, lambda _, x: step(x, layers), x)

    x, weights = jnp.ones((1, 8)), jnp.ones((3, 8, 8))
    text = jax.jit(loop).lower(x, apart(weights)).compile().as_text()
    assert "concatenate" not in text and "slice" not in text
