"""How a caption is cleaned before it is cut into tokens.

Rules of the CLIP tokenizer (Radford et al. 2021) and of SigLIP (big_vision's canonicalisation). The
file exists because ids equal the reference's only if the cleaning does, to the character.
"""

import html
import string
from collections.abc import Callable

import ftfy

from vlp_jax.core.errors import UserError, nearest

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


def unchanged(text: str) -> str:
    """The text as it is."""
    return text


CLEAN = {
    "lower": lower,
    "whitespace": collapse,
    "canonicalize": canonicalize,
    "none": unchanged,
}


def clean_fn(name: str) -> Callable[[str], str]:
    """The cleaning function called `name`. Raises UserError for an unknown one."""
    if name not in CLEAN:
        raise UserError(f"tokenizer option clean={name!r} is unknown" + nearest(name, CLEAN))
    return CLEAN[name]
