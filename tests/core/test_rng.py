"""Every random draw is a function of (seed, step, example) alone."""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.rng import example_keys, fold, picture_keys, step_key


def bits(key):
    return np.asarray(jax.random.key_data(key))


def test_an_examples_key_does_not_depend_on_the_batch_it_is_in():
    key = step_key(3, 7)
    large, small = bits(example_keys(key, 16)), bits(example_keys(key, 4))
    np.testing.assert_array_equal(large[:4], small)
    assert len(np.unique(large, axis=0)) == 16


def test_steps_seeds_and_names_all_matter():
    keys = [step_key(seed, step) for seed in (0, 1) for step in (0, 1)]
    keys += [fold(keys[0], name) for name in ("image", "text", 0, 1)]
    assert len({bits(key).tobytes() for key in keys}) == len(keys)


def test_a_traced_step_gives_the_same_key():
    np.testing.assert_array_equal(bits(jax.jit(lambda s: step_key(3, s))(7)), bits(step_key(3, 7)))


def test_folding_a_batch_folds_each_key():
    keys = example_keys(step_key(0, 0), 3)
    each = np.stack([bits(fold(key, "dropout")) for key in keys])
    np.testing.assert_array_equal(bits(fold(keys, "dropout")), each)


def test_a_picture_s_key_is_its_bytes_and_their_order():
    """A sum of bytes weighted by their place is the same for all of these."""
    plain = np.full((7, 4, 4, 3), 9, np.uint8)
    plain[1:4].reshape(3, -1)[:, :3] += np.array([[2, 255, 0], [1, 1, 255], [0, 3, 254]], np.uint8)
    plain[4, 0, 0, 0], plain[5, 0, 0, 1], plain[6, 3, 3, 2] = 10, 10, 10
    keys = bits(picture_keys(jnp.asarray(plain)))
    assert len(np.unique(keys, axis=0)) == 7
    alone = bits(picture_keys(jnp.asarray(plain[2:3])))
    np.testing.assert_array_equal(alone[0], keys[2])
    greys = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 8, 8, 3))
    words = bits(picture_keys(jnp.asarray(greys)))
    assert len(np.unique(words[:, 0])) == len(np.unique(words[:, 1])) == 256


def test_no_key_stays_no_key():
    assert fold(None, "image") is None
