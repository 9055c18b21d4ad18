"""A vocabulary of visual words: spherical k-means, one mini-batch at a time.

Features and words are unit vectors, the same when words are made and when they are assigned. Only
`update` moves the words, and of a step's sums only their ratios count, so that they may be means
over micro-batches. The file exists because words must follow features that change while a model
trains.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.core.vectors import unit

Words = dict[str, Array]
SUMS = ("new_sums", "new_mass")  # of a step: all that `observe` changes


def start(rng: Array, count: int, width: int) -> Words:
    """{words float32[K, D], running sums and masses, how often each occurs,
    the sums of this step}; rng: key[]"""
    words = unit(jax.random.normal(rng, (count, width)))
    mass, zeros = jnp.ones(count), jnp.zeros(count)
    return {
        "words": words,
        "sums": words,
        "mass": mass,
        "often": mass / count,
        "new_sums": jnp.zeros_like(words),
        "new_mass": zeros,
    }


def assign(words: Words, features: Array) -> tuple[Array, Array]:
    """The nearest word of every feature float[..., D]: (ids int32[...], cosines float32[...])."""
    cosine = unit(features) @ words["words"].T
    return cosine.argmax(-1), cosine.max(-1)


def observe(words: Words, features: Array, ids: Array) -> Words:
    """Adds a batch's features float[..., D] and their words int32[...] to the step's sums."""
    flat, ids = unit(features).reshape(-1, features.shape[-1]), ids.reshape(-1)
    return {
        **words,
        "new_sums": words["new_sums"].at[ids].add(flat),
        "new_mass": words["new_mass"].at[ids].add(1.0),
    }


def update(words: Words, memory: float, dead: float = 0.1) -> Words:
    """Moves every word to the mean of its features; older steps fade by `memory` in [0, 1).

    A word with less than `dead` of the average mass is put a little aside of a heavy one and takes
    half of it: the i-th lightest of the i-th heaviest (after Linde, Buzo and Gray, 1980). The heavy
    one stays, so that a word of equal features (a plain background) keeps them and its name.
    Nothing changes in a step that saw nothing.
    """
    count, width = words["words"].shape
    share = words["new_mass"] / jnp.maximum(words["new_mass"].sum(), 1.0) * count
    scale = count / jnp.maximum(words["new_mass"].sum(), 1.0)
    mass = memory * words["mass"] + (1 - memory) * share
    sums = memory * words["sums"] + (1 - memory) * scale * words["new_sums"]
    order = jnp.argsort(mass)  # the lightest first
    light, heavy = order[: count // 2], order[::-1][: count // 2]
    split = (mass[light] < dead) & (mass[heavy] > 4 * dead)
    aside = 0.05 * unit(jax.random.normal(jax.random.key(count), (count // 2, width)))
    centre = unit(sums[heavy])
    halves = 0.5 * mass[heavy]
    new = unit(centre + aside) * halves[:, None]
    put = lambda x, at, new: x.at[at].set(  # noqa: E731
        jnp.where(split.reshape((-1,) + (1,) * (new.ndim - 1)), new, x[at])
    )
    sums = put(put(sums, light, new), heavy, centre * halves[:, None])
    mass = put(put(mass, light, halves), heavy, halves)
    moved = {"words": unit(sums), "sums": sums, "mass": mass}
    moved["often"] = memory * words["often"] + (1 - memory) * share / count  # as counted, unsplit
    saw = words["new_mass"].sum() > 0
    kept = {name: jnp.where(saw, leaf, words[name]) for name, leaf in moved.items()}
    zeros = {name: jnp.zeros_like(words[name]) for name in SUMS}
    return kept | zeros
