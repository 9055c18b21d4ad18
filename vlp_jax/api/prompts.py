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

_LETTER = "a"


def stop_ids(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[int, ...]:
    """The ids of words, of a mark as it stands alone and right behind a word, which SentencePiece
    tells apart. Raises UserError for one that is not a single token."""
    found = []
    for word in words:
        ids = [*_token(tokenizer, word, ""), *_token(tokenizer, word, _LETTER)]
        if not ids:
            raise UserError(f"stop={word!r}: is no single token of the vocabulary")
        found += dict.fromkeys(ids)
    return tuple(found)


def _token(tokenizer: Tokenizer, word: str, before: str) -> list[int]:
    """The one id that a word is behind a letter, or alone; [] where it is none, or the letter and
    the word would be another word."""
    if before and ((word.isspace() and "\n" not in word) or any(map(str.isalnum, word))):
        return []
    known = word.strip(), word.strip().lower()  # of vocabularies in lower case
    first, ids = tokenizer.encode(before), tokenizer.encode(before + word)
    own = [int(i) for i in ids[len(first) :]]
    is_one = len(own) == 1 and ids[: len(first)] == first
    return own if is_one and tokenizer.decode(own).strip() in known else []


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
