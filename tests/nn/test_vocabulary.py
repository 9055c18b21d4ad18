"""Words found by mini-batches."""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.nn import vocabulary


def blobs(seed, count=256):
    """Features around eight corners of a cube, not of unit norm."""
    rng = np.random.default_rng(seed)
    corners = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    which = rng.integers(0, 8, count)
    points = corners[which] + 0.05 * rng.normal(size=(count, 3))
    return jnp.float32(points * rng.uniform(1, 5, (count, 1))), which


def test_k_means_finds_the_blobs():
    words = vocabulary.start(jax.random.key(0), 8, 3)
    step = jax.jit(
        lambda words, x: vocabulary.update(
            vocabulary.observe(words, x, vocabulary.assign(words, x)[0]), 0.8
        )
    )
    for seed in range(60):
        words = step(words, blobs(seed)[0])
    features, which = blobs(99)
    ids, cosine = vocabulary.assign(words, features)
    assert float(cosine.min()) > 0.95
    assert len({(int(w), int(i)) for w, i in zip(which, ids, strict=True)}) == 8
    np.testing.assert_allclose(np.linalg.norm(words["words"], axis=1), 1, rtol=1e-5)
    assert float(words["mass"].min()) > 0.5  # no word is dead


def test_a_step_without_pictures_changes_nothing():
    words = vocabulary.start(jax.random.key(0), 8, 3)
    for name, leaf in vocabulary.update(words, 0.5).items():
        np.testing.assert_array_equal(leaf, words[name])


def test_a_dead_word_takes_half_of_the_heaviest():
    words = vocabulary.start(jax.random.key(0), 4, 3)
    x = jnp.eye(3)[jnp.array([0] * 8 + [1] * 4 + [2] * 4)]
    words = {**words, "words": jnp.concatenate([jnp.eye(3), -jnp.ones((1, 3))])}
    ids = vocabulary.assign(words, x)[0]
    np.testing.assert_array_equal(ids, [0] * 8 + [1] * 4 + [2] * 4)
    after = vocabulary.update(vocabulary.observe(words, x, ids), 0.0)
    np.testing.assert_allclose(after["mass"], [1, 1, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(after["words"][1:3], jnp.eye(3)[1:], atol=1e-6)
    np.testing.assert_allclose(after["words"][0], [1, 0, 0], atol=1e-6)
    assert 0.99 < float(after["words"][3, 0]) < 1
    assert (vocabulary.assign(after, x)[0] == ids).all()  # equal features keep their word
