"""Counts by trace against those by formula."""

import jax
import jax.numpy as jnp
import pytest

from vlp_jax.models.flops import stack_flops, tower_flops
from vlp_jax.models.resnet_v1 import ResNet
from vlp_jax.models.text import TextTransformer
from vlp_jax.models.traced_flops import traced_flops


@pytest.mark.parametrize("unroll, remat", [(True, "none"), (False, "full")])
def test_a_transformer_in_a_loop_or_not_under_remat_or_not(unroll, remat):
    """Its rows read an id each; attention is a product of all places."""
    how = dict(width=16, num_layers=3, num_heads=2, vocab_size=9, context_length=5, embed_dim=7)
    net = TextTransformer(**how, unroll=unroll, remat=remat)
    ids = jax.ShapeDtypeStruct((1, 5), jnp.int32)
    params = jax.eval_shape(net.init, jax.random.key(0), ids)
    found = traced_flops(lambda params, ids: net.apply(params, ids)[0], params, ids)
    assert found == tower_flops(net) == stack_flops(net.stack_config(), 5) + 2 * 16 * 7


def test_convolutions_and_the_dearest_branch():
    net = ResNet(image_size=32, depth=18, width_multiplier=0.125)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    assert traced_flops(net.apply, variables, image) == tower_flops(net)
    matrix = jnp.ones((4, 4))
    branch = lambda p: jax.lax.cond(p, lambda: matrix @ matrix, lambda: matrix)  # noqa: E731
    assert traced_flops(branch, True) == 2 * 4**3
