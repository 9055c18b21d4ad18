"""nn/convolution.py: the same numbers as JAX's convolution, gradients in the order a CPU likes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vlp_jax.nn.convolution import ORDER, convolve
from vlp_jax.nn.resblock import BEHIND, SYMMETRIC, conv

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 6, 8, 3)).astype(np.float32)
FAST = "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


def pulled(fn, kernel, strides, padding, dtype, x=X):
    """(value, slopes) of a convolution, as arrays."""
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    slope = lambda out: jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype)  # noqa: E731

    def run(x, kernel):
        out, pull = jax.vjp(
            lambda x, k: fn(x, k, strides, padding, dimension_numbers=ORDER), x, kernel
        )
        return out, *pull(slope(out))

    return [np.asarray(a, np.float32) for a in jax.jit(run)(x, kernel)]


@pytest.mark.parametrize(
    "taps, strides, padding, dtype",
    [
        (3, (1, 1), "SAME", jnp.float32),
        (3, (2, 2), SYMMETRIC, jnp.float32),
        (3, (2, 2), BEHIND, jnp.float32),
        (4, (2, 1), ((2, 0), (0, 3)), jnp.float32),
        (2, (3, 3), "VALID", jnp.float32),  # rows that no tap reaches
        (1, (1, 1), "SAME", jnp.bfloat16),
    ],
)
@pytest.mark.parametrize("copies", [1, 22])  # few places, and more than a product takes
def test_values_and_gradients_are_those_of_jax(taps, strides, padding, dtype, copies):
    kernel = RNG.standard_normal((taps, taps, 3, 5)).astype(np.float32)
    given = kernel, strides, padding, dtype, np.tile(X, (copies, 1, 1, 1))
    for found, wanted in zip(
        pulled(convolve, *given), pulled(lax.conv_general_dilated, *given), strict=True
    ):
        tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
        np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("copies, count", [(44, 3), (42, 0)])  # 528 and 504 places
def test_a_cpu_finds_every_convolution_of_a_loop_in_its_order_or_as_a_product(copies, count):
    net = conv(5, 3, "conv", strides=(2, 2), padding=BEHIND)
    many = np.tile(X, (copies // 2, 1, 1, 1))
    v = net.init(jax.random.key(0), many)

    def micro(total, x):
        loss = lambda v, x: jnp.square(net.apply(v, x)).sum()  # noqa: E731
        return jax.tree.map(jnp.add, total, jax.grad(loss, argnums=(0, 1))(v, x)), None

    start = jax.tree.map(jnp.zeros_like, (v, many))
    text = jax.jit(lambda xs: lax.scan(micro, start, xs)[0]).lower(many[None]).as_text()
    assert text.count("stablehlo.convolution") == text.count(FAST) == count


def test_dilated_and_grouped_ones_are_left_to_jax():
    kernel = RNG.standard_normal((3, 3, 1, 6)).astype(np.float32)
    how = dict(rhs_dilation=(2, 2), feature_group_count=3, dimension_numbers=ORDER)
    found, wanted = (
        fn(X, kernel, (1, 1), "SAME", **how) for fn in (convolve, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(found, wanted)
