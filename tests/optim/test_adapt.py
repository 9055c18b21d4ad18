"""The config's `adapt`: which kernels get adapters, how they start, what moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.adapters import Adapter, names
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.core.schema import build
from vlp_jax.optim.adapt import Adapt, draw
from vlp_jax.optim.optimizer import learning, lr_factors

SHAPES = {
    "unet/blocks/attn/qkv/kernel": Adapter((3, 80, 3, 4), (3, 4, 2, 3, 40), (3, 3, 4)),
    "unet/blocks/mlp/fc1/kernel": Adapter((3, 80, 1, 4), (3, 4, 320), (3, 1, 4)),
    "text/head/kernel": Adapter((80, 1, 4), (4, 16), (1, 4)),
}


def test_fresh_adapters():
    """a normal of deviation 1 / r, b zero, the factor alpha / r; attention by default."""
    flat = flatten(draw(Adapt(4, alpha=6), SHAPES, jax.random.key(0)))
    assert flat.keys() == set(names("unet/blocks/attn/qkv/kernel"))
    a, b, scale = flat.values()
    assert np.std(a) == pytest.approx(0.25, rel=0.05) and abs(np.mean(a)) < 0.02
    assert not b.any() and (scale == 1.5).all()
    alone = flatten(draw(Adapt(4, paths=("text/.*",)), SHAPES, jax.random.key(0)))
    both = flatten(draw(Adapt(4, paths=(".*fc1/kernel", "text/.*")), SHAPES, jax.random.key(0)))
    assert len(both) == 6 and (alone["text/head/lora_scale"] == 1).all()
    same = both["text/head/lora_a"]
    np.testing.assert_array_equal(alone["text/head/lora_a"], same, "drawn by its path alone")


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UserError) as caught:
        draw(Adapt(4, paths=("text/head/kernels",)), SHAPES, jax.random.key(0))
    assert "adapt.paths: 'text/head/kernels' matches no kernel of a linear layer" in str(
        caught.value
    )
    assert "did you mean 'text/head/kernel'?" in str(caught.value)
    for key, value in (("rank", -1), ("alpha", -1.0), ("rang", 4)):
        with pytest.raises(UserError, match=rf"adapt\.{key}"):
            build(Adapt, {key: value}, "adapt")


def test_the_factor_never_moves():
    """Nor counts in the gradient's norm; everything else by its groups."""
    params = draw(Adapt(4, paths=(".*",)), SHAPES, jax.random.key(0))
    config = {"lr_groups": ((r".*/lora_b", 16.0), (r".*/lora_.*", 2.0)), "layer_decay": 0.5}
    factors = flatten(lr_factors(config, params))
    assert factors["text/head/lora_b"] == 16 and factors["text/head/lora_a"] == 2
    assert factors["unet/blocks/attn/qkv/lora_b"].ravel().tolist() == [2.0, 4.0, 8.0]
    assert all(factors[path] == 0 for path in factors if path.endswith("scale"))
    slopes = flatten(learning(jax.tree.map(jnp.ones_like, params), lr_factors(config, params)))
    assert {path for path, slope in slopes.items() if not slope.any()} == {
        path for path in factors if path.endswith("scale")
    }


def test_half_keeps_gains_and_biases():
    frozen = {"net": {"kernel": jnp.ones((2, 2)), "embedding": jnp.ones((2, 2))}}
    frozen["net"]["norm1"] = {"scale": jnp.ones((3, 2))}
    kept = flatten(Adapt(4, half=True).keep(frozen))
    assert {path.split("/")[-1]: str(leaf.dtype) for path, leaf in kept.items()} == {
        "kernel": "bfloat16",
        "embedding": "bfloat16",
        "scale": "float32",
    }
    assert Adapt(4).keep(frozen) is frozen
    assert not Adapt(alpha=2.0) and Adapt(4) and Adapt(learn=("x",))
