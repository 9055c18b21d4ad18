"""The nearest code, its gradient, and tiles."""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.nn import codebook
from vlp_jax.nn.codebook import Codebook, nearest

RNG = np.random.default_rng(0)
ROWS, CODES = (RNG.normal(size=(n, 3)).astype(np.float32) for n in (50, 7))


def test_nearest_by_the_distances_themselves(monkeypatch):
    distances = ((ROWS[:, None].astype(float) - CODES) ** 2).sum(-1)
    np.testing.assert_array_equal(nearest(ROWS, CODES), distances.argmin(1))
    assert len(set(distances.argmin(1))) == 7
    monkeypatch.setattr(codebook, "TILE", 3 * 7)  # tiles of three rows
    np.testing.assert_array_equal(nearest(ROWS, CODES), distances.argmin(1))
    twice = np.concatenate([CODES, CODES])  # the first of equals
    assert nearest(ROWS, twice).max() < 7


def test_close_codes_are_told_apart_in_bfloat16_too():
    codes = np.float32([[1.0], [1.001]])
    rows = jnp.asarray([[1.0]], jnp.bfloat16)
    assert nearest(rows, codes) == 0 and nearest(np.float32([[1.0009]]), codes) == 1


def test_the_gradient_passes_straight_and_the_codes_have_their_own():
    module, x = Codebook(7, 3), ROWS.reshape(2, 5, 5, 3)
    params = {"params": {"embedding": CODES}}
    found = module.apply(params, x)
    np.testing.assert_allclose(found.straight, CODES[found.index], atol=1e-6)
    np.testing.assert_array_equal(found.codes, CODES[found.index])
    np.testing.assert_array_equal(module.apply(params, found.index, method="values"), found.codes)
    weights = RNG.normal(size=x.shape)
    through = lambda p, x: (module.apply(p, x).straight * weights).sum()  # noqa: E731
    codes, rows = jax.grad(through, (0, 1))(params, x)
    np.testing.assert_allclose(rows, weights, rtol=1e-6)
    assert not codes["params"]["embedding"].any()
    learned = lambda p, x: (module.apply(p, x).codes * weights).sum()  # noqa: E731
    codes, rows = jax.grad(learned, (0, 1))(params, x)
    wanted = np.zeros((7, 3))
    np.add.at(wanted, np.asarray(found.index).ravel(), weights.reshape(-1, 3))
    np.testing.assert_allclose(codes["params"]["embedding"], wanted, atol=1e-5)
    assert not rows.any()
