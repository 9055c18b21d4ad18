"""Texts from a model that has read its prompt, by any of the ways of decoding/how.py.

The file exists as the one call that a method's function makes.
"""

from vlp_jax.core.types import Array
from vlp_jax.decoding import beam, one_by_one
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.steps import Model, Start, Written


def generate(
    model: Model, start: Start, how: Writing, stop: tuple[int, ...], rng: Array
) -> Written:
    """New tokens of every row.

    Args:
      model: its step, on one new token of every row.
      start: the prompt, read.
      how: options.
      stop: ids that end a text; none: every text has how.max_new tokens.
      rng: key[B], one per row, where tokens are drawn.
    """
    if how.beams > 1:
        return beam.write(model, start, how, stop)
    return one_by_one.write(model, start, how, stop, rng)
