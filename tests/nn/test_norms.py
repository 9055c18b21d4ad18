"""GroupNorm with SiLU and FiLM against a plain formula, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.nn.norms import GroupNorm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5, 8)).astype(np.float32) * 3 + np.arange(8)
FILM = tuple(RNG.normal(size=(2, 8)).astype(np.float32) for _ in range(2))
PARAMS = {"scale": np.linspace(0.5, 2, 8).astype(np.float32), "bias": np.arange(8.0) / 8}


def plain(params, x, film, eps, silu):
    """The formula, differentiated as it stands."""
    rows = x.reshape(2, 15, 4, 2)
    mean = rows.mean((1, 3), keepdims=True)
    var = ((rows - mean) ** 2).mean((1, 3), keepdims=True)
    out = ((rows - mean) / jnp.sqrt(var + eps)).reshape(x.shape)
    out = out * params["scale"] + params["bias"]
    if film is not None:
        out = out * (1 + film[0][:, None, None]) + film[1][:, None, None]
    return out / (1 + jnp.exp(-out)) if silu else out


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("film", [None, FILM], ids=["alone", "film"])
def test_values_and_gradients(silu, film):
    eps, weights = 0.5, RNG.normal(size=X.shape)  # an eps that counts
    module = GroupNorm(4, eps, silu)
    ours = lambda p, x, film: module.apply({"params": p}, x, film)  # noqa: E731
    wanted = lambda p, x, film: plain(p, x, film, eps, silu)  # noqa: E731
    found, formula = (jax.jit(f)(PARAMS, X, film) for f in (ours, wanted))
    np.testing.assert_allclose(found, formula, atol=1e-5)
    one, two = (
        jax.jit(jax.grad(lambda *a, f=f: (f(*a) * weights).sum(), (0, 1, 2)))(PARAMS, X, film)
        for f in (ours, wanted)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), one, two)


def test_it_is_in_float32_whatever_comes_in():
    """A mean of 100 under a deviation of 1 has no digits left in bfloat16's squares."""
    x = jnp.asarray(100 + RNG.normal(size=(1, 16, 8)), jnp.bfloat16)
    variables = GroupNorm(2, 1e-6).init(jax.random.key(0), x)
    wide = GroupNorm(2, 1e-6).apply(variables, x.astype(jnp.float32))
    low = GroupNorm(2, 1e-6, dtype=jnp.bfloat16).apply(variables, x)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, wide.astype(jnp.bfloat16))
    assert jax.grad(lambda x: GroupNorm(2, 1e-6).apply(variables, x).sum())(x).dtype == jnp.bfloat16


def test_groups_must_divide():
    with pytest.raises(UserError, match="groups=3 does not divide 8 channels"):
        GroupNorm(3, 1e-6).init(jax.random.key(0), X)
