"""How a caption is cleaned before it is cut into tokens.

Rules of the CLIP tokenizer (Radford et al. 2021), of SigLIP (big_vision's canonicalisation) and of
BLIP's data sets (salesforce/BLIP). The file exists because ids equal the reference's only if the
cleaning does, to the character.
"""

import functools
import html
import string
from collections.abc import Callable

import ftfy

from vlp_jax.core.errors import UserError, nearest

_MARKS = '.!"()*#:;~'  # that BLIP's texts lose
_TO_SPACES, _GONE = str.maketrans(_MARKS, " " * len(_MARKS)), str.maketrans("", "", _MARKS)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def repair(text: str) -> str:
    """Mojibake repaired (ftfy), HTML entities resolved twice ('&amp;lt;' is common), stripped."""
    if text.isascii() and text.isprintable() and "&" not in text:  # nothing to repair: 10x faster
        return text.strip()
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def collapse(text: str) -> str:
    """`repair`, then every run of white space becomes one space."""
    return " ".join(repair(text).split())


def lower(text: str) -> str:
    """`collapse` in lower case: what CLIP reads.

    >>> lower("  A &amp;lt;B&amp;gt;  dog ")
    'a <b> dog'
    """
    return collapse(text).lower()


def canonicalize(text: str) -> str:
    """`repair`, underscores to spaces, no ASCII punctuation, lower case: what SigLIP reads.

    >>> canonicalize("A dog's_life!")
    'a dogs life'
    """
    words = repair(text).replace("_", " ").translate(_NO_PUNCTUATION).lower()
    return " ".join(words.split())


def caption(text: str, words: int = 50) -> str:
    """Lower case, `_MARKS` to spaces, at most so many words: what BLIP reads of captions.

    >>> caption('A "Dog" (left);  two-headed.')
    'a dog left two-headed'
    """
    return " ".join(text.lower().translate(_TO_SPACES).split()[:words])


def question(text: str) -> str:
    """Lower case, without `_MARKS`, at most 50 words: what BLIP reads of questions.

    >>> question("Is it 7:30 a.m.?")
    'is it 730 am?'
    """
    return " ".join(text.lower().translate(_GONE).split()[:50])


def unchanged(text: str) -> str:
    """The text as it is."""
    return text


def well_formed(text: str) -> str:
    """Halves of surrogate pairs, which have no UTF-8, become U+FFFD; two halves one character.

    >>> well_formed("a\\ud800 \\ud83d\\ude00") == "a\\ufffd \\U0001f600"
    True
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


CLEAN = {
    "lower": lower,
    "whitespace": collapse,
    "canonicalize": canonicalize,
    "blip": caption,  # of fine-tuning
    "blip_30": functools.partial(caption, words=30),  # of pre-training
    "blip_question": question,
    "none": unchanged,
}


def clean_fn(name: str) -> Callable[[str], str]:
    """The cleaning function called `name`. Raises UserError for an unknown one."""
    if name not in CLEAN:
        raise UserError(f"tokenizer option clean={name!r} is unknown" + nearest(name, CLEAN))
    return CLEAN[name]
