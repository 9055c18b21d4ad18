"""What is asked of a model that writes, looked at before any picture is: prompts that fit, words
that end a text, pictures that can be read.

The file exists so that a mistake in the last of a million prompts is told before the first text.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vlp_jax.api.pictures import read_numbered
from vlp_jax.core.errors import UserError, count_of
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.text.rows import check_whole
from vlp_jax.data.text.tokenizer import Tokenizer
from vlp_jax.methods.base import Function


def stop_ids(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[int, ...]:
    """The ids of words. Raises UserError for one that is not a single token."""
    found = []
    for word in words:
        ids = tokenizer.encode(word, 2)
        known = word.strip(), word.strip().lower()  # of vocabularies in lower case
        if len(ids) != 1 or tokenizer.decode(ids).strip() not in known:
            raise UserError(f"stop={word!r}: is no single token of the vocabulary")
        found.append(int(ids[0]))
    return tuple(found)


def check_prompts(model: Any, function: Function, prompts: Iterable[str], max_new: int) -> int:
    """How many tokens the prompt of a function that writes may have, [DEC] included; a question as
    many as its network reads.

    Raises:
      UserError: a prompt that would be cut, or that leaves no place for so many new tokens.
    """
    longest, places = 1, function.places
    begins = "prompt" in function.reads
    for prompt in dict.fromkeys(prompts):
        if not prompt:
            continue
        tokenizer = model.tokenizer()
        check_whole(tokenizer, prompt)
        if begins:  # questions are read by a network of their own
            longest = max(longest, tokenizer.length(prompt) - 1)
    if longest + max_new > places:
        begun = count_of(longest, "token")
        raise UserError(f"max_new={max_new}: after {begun} more than the model's {places} places")
    return places - max_new if begins else function.reads["text"].length


def readable(
    model: Any, pictures: Sequence[Any], numbers: Iterable[int], skip_damaged: bool
) -> dict[int, np.ndarray]:
    """{number: uint8[S, S, 3]} of some pictures; damaged ones are left out, or refused. Raises
    UserError as `read_numbered`."""
    found = {}
    for number in numbers:
        try:
            found[number] = read_numbered(model.decode, (number, pictures[number]))
        except UserError as error:
            if not (skip_damaged and isinstance(error.__cause__, DamagedSample)):
                raise
    return found
