"""Drawn negatives: the right ones, as often as they should be, whatever the devices."""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.rng import example_keys
from vlp_jax.core.vectors import similarities, unit
from vlp_jax.losses.mining import TILE, draw_negatives
from vlp_jax.parallel.mesh import batch_sharding, make_mesh

B, E, SCALE = TILE + 48, 8, 6.0


def rows(seed, count=B):
    return unit(jax.random.normal(jax.random.key(seed), (count, E)))


def test_it_is_the_largest_noisy_log_weight_of_what_may_be_drawn():
    query, key, keys = rows(0), rows(1), example_keys(jax.random.key(2), B)
    ids = jnp.arange(B) % 150
    weight = jax.nn.softmax(SCALE * query @ key.T) + 1e-4
    noise = [
        jax.vmap(lambda k, n=n: jax.random.gumbel(jax.random.fold_in(k, n), (TILE,)))(keys)
        for n in range(2)
    ]
    noisy = jnp.log(weight) + jnp.concatenate(noise, 1)[:, :B]
    wanted = jnp.where(ids[:, None] == ids, -jnp.inf, noisy).argmax(1)
    found, there = jax.jit(draw_negatives)(query, key, SCALE, keys, ids, ids)
    np.testing.assert_array_equal(found, wanted)
    assert there.all() and (np.asarray(found) >= TILE).any()


def test_neither_devices_nor_the_split_of_rows_show():
    query, key, keys = rows(0), rows(1), example_keys(jax.random.key(2), B)
    ids = jnp.arange(B)
    whole = draw_negatives(query, key, SCALE, keys, ids, ids)[0]
    some = slice(8, 24)
    part = draw_negatives(query[some], key, SCALE, keys[some], ids[some], ids)[0]
    np.testing.assert_array_equal(part, whole[some])
    mesh = make_mesh({"data": 4, "fsdp": 2})
    placed = jax.device_put((query, key, keys, ids), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        drawn = jax.jit(lambda q, k, r, i: draw_negatives(q, k, SCALE, r, i, i)[0])
        compiled = drawn.lower(*placed).compile()
    np.testing.assert_array_equal(compiled(*placed), whole)
    assert f"f32[{B},{B}]" not in compiled.as_text(), "all pairs were held"


def test_frequencies_are_the_softmax_plus_its_floor():
    count, n, floor = 4, 20_000, 0.05
    query, key = rows(0, 1), rows(1, count)
    weight = np.asarray(jax.nn.softmax(SCALE * query @ key.T)[0]) + floor
    weight[2] = 0
    keys = example_keys(jax.random.key(3), n)
    ids = jnp.full(n, 2), jnp.arange(count)
    found = draw_negatives(jnp.repeat(query, n, 0), key, SCALE, keys, *ids, floor)[0]
    shares = np.bincount(found, minlength=count) / n
    np.testing.assert_allclose(shares, weight / weight.sum(), atol=0.015)
    assert shares[2] == 0


def test_without_a_floor_the_far_are_drawn_where_the_own_pair_has_all():
    """exp of the others' products is 0 in float32."""
    both, ids = rows(0, 16), jnp.arange(16)
    found, there = draw_negatives(
        both, both, 1e4, example_keys(jax.random.key(2), 16), ids, ids, 0.0
    )
    products = np.where(np.eye(16), -2.0, np.asarray(similarities(both, both)))
    np.testing.assert_array_equal(found, products.argmax(1))
    assert there.all()


def test_a_row_of_several_vectors_counts_by_its_nearest():
    """Pictures of three vectors on either side, as their own best cosines would have it."""
    image, text = rows(0, 24 * 3).reshape(24, 3, E), rows(1, 24)
    keys, ids = example_keys(jax.random.key(2), 24), jnp.arange(24)
    best = np.einsum("iqe,je->iqj", image, text).max(1)
    np.testing.assert_allclose(similarities(image, text), best, atol=1e-6)
    np.testing.assert_allclose(similarities(text, image), best.T, atol=1e-6)
    noise = np.stack([jax.random.gumbel(jax.random.fold_in(k, 0), (TILE,))[:24] for k in keys])
    for query, key, cosine in ((image, text, best), (text, image, best.T)):
        noisy = np.where(np.eye(24), -np.inf, np.log(jax.nn.softmax(SCALE * cosine)) + noise)
        found, _ = draw_negatives(query, key, SCALE, keys, ids, ids, 0.0)
        np.testing.assert_array_equal(found, noisy.argmax(1))


def test_a_batch_of_one_group_has_no_negative():
    ids = jnp.zeros(3, jnp.int32)
    keys = example_keys(jax.random.key(0), 3)
    found, there = draw_negatives(rows(0, 3), rows(1, 3), SCALE, keys, ids, ids)
    assert found.tolist() == [0, 0, 0] and not there.any()


def test_it_is_no_way_for_gradients():
    ids, keys = jnp.arange(5), example_keys(jax.random.key(0), 5)

    def total(query, key, scale):
        return draw_negatives(query, key, scale, keys, ids, ids)[0].sum() * query.sum()

    slope = jax.grad(total, argnums=(0, 1, 2))(rows(0, 5), rows(1, 5), SCALE)
    assert not slope[1].any() and not slope[2].any()
