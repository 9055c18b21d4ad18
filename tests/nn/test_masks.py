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

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.rng import example_keys
from vlp_jax.nn import masks
from vlp_jax.nn.masks import (
    MASKINGS,
    is_hidden,
    put_tokens,
    random_subset,
    shuffle,
    take_tokens,
    visible_patches,
)
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


def test_putting_is_the_adjoint_of_taking():
    """<take(x), y> = <x, put(y)>, and each is the other's gradient."""
    places = random_subset(example_keys(jax.random.key(1), 6), 11, 5)
    x = jax.random.normal(jax.random.key(0), (6, 11, 4))
    y = jax.random.normal(jax.random.key(2), (6, 5, 4))
    put = lambda y: put_tokens(y, places, 11)  # noqa: E731
    np.testing.assert_allclose((take_tokens(x, places) * y).sum(), (x * put(y)).sum(), rtol=1e-5)
    np.testing.assert_array_equal(take_tokens(put(y), places), y)
    assert not np.asarray(put(y))[np.asarray(is_hidden(places, 11))].any()
    np.testing.assert_array_equal(jax.vjp(put, y)[1](x)[0], take_tokens(x, places))
    np.testing.assert_array_equal(jax.vjp(lambda x: take_tokens(x, places), x)[1](y)[0], put(y))


@pytest.mark.parametrize("masking", MASKINGS)
def test_no_key_is_used_twice(masking, monkeypatch):
    seen = []

    def told(draw):
        def run(key, *args, **how):
            jax.debug.callback(lambda bits: seen.append(bits.tobytes()), jax.random.key_data(key))
            return draw(key, *args, **how)

        return run

    for name in ("bits", "uniform"):
        monkeypatch.setattr(jax.random, name, told(getattr(jax.random, name)))
    jax.block_until_ready(visible_patches(example_keys(jax.random.key(0), 3), 6, 9, masking))
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 3 * (4 if masking == "block" else 1)


def test_shuffle_inverts_as_in_its_example():
    order, rank = shuffle(jnp.array([[0.3, 0.9, 0.1]]))
    assert order.tolist() == [[2, 0, 1]] and rank.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("side, keep", [(14, 49), (7, 12), (8, 40), (2, 1), (3, 8)])
def test_every_masking_keeps_exactly_as_many(masking, side, keep):
    keys = example_keys(jax.random.key(0), 16)
    places = np.asarray(visible_patches(keys, side, keep, masking))
    assert places.shape == (16, keep) and places.dtype == np.int32
    assert (places >= 0).all() and (places < side * side).all()
    assert keep == 1 or (np.diff(places, axis=1) > 0).all()
    np.testing.assert_array_equal(np.asarray(is_hidden(places, side * side)).sum(1), side**2 - keep)
    one = visible_patches(keys[3:4], side, keep, masking)  # a key's subset is its own
    np.testing.assert_array_equal(one[0], places[3])


def test_block_masking_hides_blocks_and_grid_masking_a_grid():
    """Two neighbours are both hidden far more often in blocks than under random masking; a grid of
    14 keeps the even rows and columns.
    """
    keys = example_keys(jax.random.key(0), 200)
    hidden = {
        how: np.asarray(is_hidden(visible_patches(keys, 14, 98, how), 196)).reshape(-1, 14, 14)
        for how in ("random", "block")
    }
    both = {how: (h[:, 1:] & h[:, :-1]).mean() for how, h in hidden.items()}
    assert both["random"] == pytest.approx(0.25, abs=0.02) and both["block"] > 0.38
    share = hidden["block"].mean(0)  # blocks reach corners less often than the middle
    assert 0.01 < share[0, 0] < 0.2 and 0.6 < share[7, 7] < 0.95
    grid = np.asarray(is_hidden(visible_patches(keys[:3], 14, 49, "grid"), 196)).reshape(3, 14, 14)
    assert not grid[:, ::2, ::2].any() and grid.sum() == 3 * 147


def test_blocks_have_beits_sizes_and_shapes_and_reach_every_side():
    """The first rectangle of each draw, whole because it lies on top: 16 to all hidden patches,
    log aspect uniform within ln 0.3 and ln 1/0.3, and as often on the last row as on the first.
    """
    keys, side, hidden = example_keys(jax.random.key(0), 2000), 14, 98
    rank = jax.jit(jax.vmap(lambda key: masks._block_rank(key, side, hidden)))(keys)
    top = np.asarray(rank).reshape(-1, side, side) == masks.BLOCKS
    rows, columns = top.any(2), top.any(1)
    np.testing.assert_array_equal(top, rows[:, :, None] & columns[:, None, :])
    height, width = rows.sum(1), columns.sum(1)
    area = height * width
    assert (
        12 <= area.min() < 20 and 90 < area.max() <= 112 and area.mean() == pytest.approx(57, 0.05)
    )
    free = (height < side) & (width < side)
    tilt = np.log(height / width)[free]
    assert np.abs(tilt).max() < -np.log(0.3) + 0.35  # sides are rounded
    assert np.mean(tilt > 0.6) > 0.15 and np.mean(tilt < -0.6) > 0.15
    for lines in (rows, columns):
        first, last = lines[:, 0].mean(), lines[:, -1].mean()
        assert first == pytest.approx(last, abs=0.04) and first > 0.1
        assert (np.diff(np.int8(lines), axis=1) > 0).sum(1).max() <= 1  # one run


def test_an_unknown_masking_is_refused():
    with pytest.raises(UserError, match="unknown 'blok'; did you mean 'block'"):
        visible_patches(example_keys(jax.random.key(0), 1), 4, 4, "blok")


def test_masking_sends_nothing_between_devices():
    """Eight devices: the image tower's gradient is summed, and nothing else travels."""
    mesh = make_mesh({"data": 8})
    method = tiny_method(image={"patch_dropout": 0.5})
    images = jax.ShapeDtypeStruct((24, SIZE, SIZE, 3), jnp.uint8, sharding=batch_sharding(mesh))
    params, extra = jax.eval_shape(method.init, jax.random.key(0))

    def gradient(params, images):
        keys = example_keys(jax.random.key(0), 24)
        x = Inputs.of({"image": images}, keys, train=True)
        loss = lambda p: method.encode_image(Vars(p, extra), x)[0].sum()  # noqa: E731
        return jax.grad(loss)(params)

    with jax.set_mesh(mesh):
        whole = replicated(mesh)
        run = jax.jit(gradient, in_shardings=(whole, batch_sharding(mesh)), out_shardings=whole)
        text = run.lower(params, images).compile().as_text()
    found = Counter(SENT.findall(text))
    assert found.keys() == {"all-reduce"}, found
    shapes = re.findall(r"(?:f32|bf16)\[([\d,]+)\]", " ".join(re.findall(".*all-reduce.*", text)))
    assert not any(shape.startswith("24,") for shape in shapes), "activations were summed"
