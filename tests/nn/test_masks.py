"""Random subsets of tokens: exact counts, uniform, gathered both ways, nothing sent between
devices."""

import itertools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SIZE, tiny_method

from vlp_jax.core.rng import example_keys
from vlp_jax.nn.masks import random_subset, take_tokens
from vlp_jax.parallel.mesh import batch_sharding, make_mesh, replicated

SENT = re.compile(r"= .*?(all-gather|all-to-all|collective-permute|reduce-scatter|all-reduce)\(")


@pytest.mark.parametrize("count, keep", [(1, 1), (5, 5), (8, 3), (49, 24), (196, 49), (4096, 7)])
def test_subsets_are_rising_without_repetition(count, keep):
    places = np.asarray(random_subset(example_keys(jax.random.key(0), 32), count, keep))
    assert places.shape == (32, keep) and places.dtype == np.int32
    assert (places >= 0).all() and (places < count).all()
    assert keep == 1 or (np.diff(places, axis=1) > 0).all()


def test_every_subset_is_equally_likely():
    keys = example_keys(jax.random.key(1), 6000)
    found = Counter(map(tuple, np.asarray(random_subset(keys, 5, 2)).tolist()))
    assert set(found) == set(itertools.combinations(range(5), 2))
    np.testing.assert_allclose(np.array(list(found.values())) / 6000, 0.1, atol=0.02)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_taking_and_its_gradient_equal_plain_indexing(dtype):
    x = jax.random.normal(jax.random.key(0), (6, 11, 4), dtype)
    places = random_subset(example_keys(jax.random.key(1), 6), 11, 5)
    weights = jax.random.normal(jax.random.key(2), (6, 5, 4), dtype)

    def plain(x, places):
        return x[jnp.arange(6)[:, None], places]

    def value(take):
        return jax.value_and_grad(lambda x: (take(x, places) * weights).sum())(x)

    np.testing.assert_array_equal(take_tokens(x, places), plain(x, places))
    for ours, theirs in zip(value(take_tokens), value(plain), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_masking_sends_nothing_between_devices():
    """Eight devices: the image tower's gradient is summed, and nothing else travels."""
    mesh = make_mesh({"data": 8})
    method = tiny_method(image={"patch_dropout": 0.5})
    images = jax.ShapeDtypeStruct((24, SIZE, SIZE, 3), jnp.uint8, sharding=batch_sharding(mesh))
    batch = method.batch_spec(1)
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)

    def gradient(params, images):
        rng = example_keys(jax.random.key(0), 24)
        loss = lambda p: method.encode_image(p, extra, images, rng)[0].sum()  # noqa: E731
        return jax.grad(loss)(params)

    with jax.set_mesh(mesh):
        whole = replicated(mesh)
        run = jax.jit(gradient, in_shardings=(whole, batch_sharding(mesh)), out_shardings=whole)
        text = run.lower(params, images).compile().as_text()
    found = Counter(SENT.findall(text))
    assert found.keys() == {"all-reduce"}, found
    shapes = re.findall(r"(?:f32|bf16)\[([\d,]+)\]", " ".join(re.findall(".*all-reduce.*", text)))
    assert not any(shape.startswith("24,") for shape in shapes), "activations were summed"
