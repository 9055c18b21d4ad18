"""What a text encoder tells of the states before its last block, and the factor of latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.models.latent_scale import LatentScale
from vlp_jax.models.text import TextTransformer


@pytest.mark.parametrize("unroll, remat", [(True, "none"), (False, "full")])
def test_states_before_the_last_block_are_those_of_a_shorter_stack(unroll, remat):
    sizes = dict(vocab_size=20, context_length=4, width=8, num_heads=2, unroll=unroll, remat=remat)
    long, short = (TextTransformer(num_layers=n, **sizes) for n in (3, 2))
    ids = jnp.array([[3, 5, 7, 19], [1, 19, 0, 0]])
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(long.init, jax.random.key(0), ids)
    fill = lambda s: jnp.asarray(rng.standard_normal(s.shape) * 0.3, s.dtype)  # noqa: E731
    params = jax.tree.map(fill, shapes)
    (pooled, told), (plain, other) = (
        jax.jit(lambda p, how=how: long.apply(p, ids, before=how))(params) for how in (True, False)
    )
    np.testing.assert_allclose(pooled, plain, atol=1e-6)
    assert "before" not in other
    own = dict(params["params"])
    own["blocks"] = jax.tree.map(lambda leaf: leaf[:2], own["blocks"])
    own["norm_post"] = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    tokens = short.apply({"params": own}, ids)[1]["tokens"]  # normalised; what is told is not
    mean, spread = told["before"].mean(-1, keepdims=True), told["before"].std(-1, keepdims=True)
    assert np.abs(mean).max() > 0.01
    np.testing.assert_allclose((told["before"] - mean) / spread, tokens, atol=1e-3)


def test_the_factor_moves_towards_a_deviation_of_one():
    net = LatentScale(momentum=0.5)
    latent = 4 * jax.random.normal(jax.random.key(0), (8, 4, 4, 2))
    v = net.init(jax.random.key(0), latent)
    assert v["batch_stats"]["scale"] == 1 and "params" not in v
    for _ in range(20):
        found, moved = net.apply(v, latent, mutable=["batch_stats"])
        assert found == moved["batch_stats"]["scale"]
        v = moved
    assert float(net.apply(v, latent * 9)) == pytest.approx(1 / float(latent.std()), rel=1e-3)
    once = net.apply({"batch_stats": {"scale": jnp.float32(2)}}, latent, mutable=["batch_stats"])[0]
    assert float(once) == pytest.approx((0.5 / 4 + 0.5 * float(latent.var())) ** -0.5, rel=1e-5)
