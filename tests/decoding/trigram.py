"""A language model of three tokens' memory, whose every probability is known: the next token
depends on the two before it and, a little, on how many there are.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from vlp_jax.decoding.steps import Model, Start

V, STOP = 6, 5


def table(seed=0, sharpness=1.5):
    return np.float32(sharpness * np.random.default_rng(seed).normal(size=(V, V, V)))


def model(scores):
    """cache: int32[N], the token before the last one."""
    scores = jnp.asarray(scores)
    step = lambda ids, cache: (scores[cache, ids[:, 0]], ids[:, 0])  # noqa: E731
    return Model(step, lambda cache, rows: cache[rows])


def start(scores, prompts):
    """prompts: lists of two or more tokens."""
    length = max(map(len, prompts))
    ids, mask = np.zeros((len(prompts), length), np.int32), np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
    two = np.array([prompt[-2:] for prompt in prompts])
    logits = jnp.asarray(scores)[two[:, 0], two[:, 1]]
    return Start(logits, jnp.int32(two[:, 1]), jnp.asarray(ids), jnp.asarray(mask))


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def total(scores, prompt, text, penalty=1.0):
    """The log-probability of `text` after `prompt`; that of a word which was said already counts so
    many times."""
    words, found = [*prompt, *text], 0.0
    for at in range(len(prompt), len(words)):
        gain = log_softmax(scores[words[at - 2], words[at - 1]])[words[at]]
        found += gain * (penalty if words[at] in words[:at] else 1)
    return found


def all_texts(most, least=0):
    """Every text of at most `most` tokens that ends with STOP, or is as long as that."""
    for length in range(1, most + 1):
        for body in itertools.product(range(STOP), repeat=length - 1):
            if length > least:
                yield [*body, STOP]
    for body in itertools.product(range(STOP), repeat=most):
        yield list(body)
