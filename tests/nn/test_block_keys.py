"""Every layer and both branches of a block draw masks of their own, from the example's own key."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.core.rng import example_keys
from vlp_jax.nn.transformer import StackConfig, run_blocks

B, T, D = 4, 8, 16
KEYS = example_keys(jax.random.key(0), B)


class Body(nn.Module):
    config: StackConfig

    @nn.compact
    def __call__(self, x, rng=None):
        return run_blocks(self.config, x, None, rng)


def added(layers, biases, unroll):
    """What a stack adds to zeros when the named output biases are one and every kernel is zero."""
    body = Body(StackConfig(D, layers, 2, D, dropout=0.5, unroll=unroll))
    x = jnp.zeros((B, T, D))
    shapes = flatten(jax.eval_shape(body.init, jax.random.key(0), x)["params"])
    ones = {f"blocks/{name}/bias" for name in biases}
    assert ones <= shapes.keys()
    params = unflatten(
        {path: jnp.full(s.shape, path in ones, s.dtype) for path, s in shapes.items()}
    )
    return np.asarray(jax.jit(body.apply)({"params": params}, x, KEYS))


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize(
    "layers, biases", [(2, ["attn/out"]), (1, ["attn/out", "mlp/fc2"])], ids=["layers", "branches"]
)
def test_two_masks_are_independent(layers, biases, unroll):
    """Each mask adds 0 or 2: one shared mask would give 0 and 4 only."""
    out = added(layers, biases, unroll)
    share = [(out == value).mean() for value in (0, 2, 4)]
    np.testing.assert_allclose(share, [0.25, 0.5, 0.25], atol=0.08)
    assert len(np.unique(out.reshape(B, -1), axis=0)) == B, "examples share a mask"
