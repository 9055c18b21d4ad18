"""XLA's CPU flags: what is set, what is left alone, and the wrong numbers they keep away."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core import xla
from vlp_jax.methods.base import make_method


@pytest.mark.parametrize(
    "present, platforms, plugin, wanted",
    [
        ("", "", "", xla.REDUCTIONS),
        ("", "cpu", "libtpu", xla.REDUCTIONS),
        ("--a=1", "", "jax_cuda13_plugin", "--a=1"),
        (f"{xla.REDUCTIONS},dot", "cpu", "", f"{xla.REDUCTIONS},dot"),
        (
            "--xla_force_host_platform_device_count=8",
            *("cpu", ""),
            f"--xla_force_host_platform_device_count=8 {xla.COLLECTIVES} {xla.REDUCTIONS}",
        ),
    ],
)
def test_flags_are_added_for_the_cpu_alone(monkeypatch, present, platforms, plugin, wanted):
    monkeypatch.setattr(xla, "_there", lambda module: module == plugin)
    monkeypatch.setenv("XLA_FLAGS", present)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    xla.set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == wanted
    xla.set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == wanted, "twice is once"


def test_a_product_reduced_over_many_rows_is_right():
    """jax-ml/jax issue 39103: off by 0.2 to 0.8 % in jaxlib 0.10.2."""
    rows = jnp.zeros((32_769, 3)).at[:, 0].set(jnp.arange(32_769.0))
    squares = jax.jit(jax.vmap(lambda row: jnp.square(jnp.eye(3) @ row).sum()))(rows)
    assert float(squares[-1]) == 32_768.0**2


def test_a_half_precision_resnet_gives_numbers():
    """jaxlib 0.12.0: not-a-numbers where the mean over bfloat16 convolutions is fused."""
    image = dict(name="resnet_v1", depth=18, image_size=32, stem="cifar", width_multiplier=0.25)
    pictures = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    found = []
    for dtype in ("float32", "bfloat16"):
        method = make_method(dict(name="classify", num_classes=3, image=image, dtype=dtype))
        params, extra = jax.jit(method.init)(jax.random.key(0), {})
        found.append(jax.jit(method.eval_fns()["features"])(params, extra, {"image": pictures}))
    np.testing.assert_allclose(found[1], found[0], atol=0.05)
