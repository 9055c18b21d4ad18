"""Text to token ids: load_tokenizer and the check that keeps ids inside a model's embedding.

The file exists so that a config names a tokenizer by one string and every mistake is told before
the first compilation.
"""

import inspect
import os

from vlp_jax.core.errors import UserError, nearest, no_download
from vlp_jax.data.text.grown import Grown
from vlp_jax.data.text.tokenizer import Tokenizer
from vlp_jax.data.text.vocab_txt import is_vocabulary

__all__ = ["Tokenizer", "check_vocab", "load_tokenizer"]


def _find(name: str, flag: str) -> type[Tokenizer]:
    if name == "clip":
        from vlp_jax.data.text.clip_bpe import ClipTokenizer

        return ClipTokenizer
    if name == "bytes":
        from vlp_jax.data.text.bytes import ByteTokenizer

        return ByteTokenizer
    path = os.path.expanduser(name.removeprefix("spm:"))
    if name.startswith("spm:") and os.path.isfile(path):
        from vlp_jax.data.text.spm import SpmTokenizer

        return SpmTokenizer
    inside = os.path.join(path, "tokenizer.json") if os.path.isdir(path) else path
    if os.path.isfile(inside) or is_vocabulary(path):
        if path.endswith(".model"):
            raise UserError(f"{flag}={name!r}: write 'spm:{name}' for a SentencePiece model")
        from vlp_jax.data.text.hf import HfTokenizer

        return HfTokenizer
    if name.startswith("spm:") or os.sep in name or name.endswith((".json", ".model", ".txt")):
        raise UserError(f"{flag}={name!r}: no such file: {path}{no_download(path)}")
    hint = nearest(name, ("clip", "bytes", "spm:FILE", "PATH/tokenizer.json"))
    raise UserError(f"{flag}={name!r} is unknown" + hint)


def load_tokenizer(
    name: str, context_length: int = 77, flag: str = "data.tokenizer", **options
) -> Tokenizer:
    """The tokenizer `clip`, `bytes`, `spm:FILE` or that of a tokenizer.json or vocab.txt (or its
    folder).

    flag: the key that names it, for errors. options: clean (a name of data/text/clean.py CLEAN; ""
    is the tokenizer's own), new (words that it gets, see grown.py) and, for files, pad_id (-1 is
    the file's own). Raises UserError, in one
    line, for an unknown name or option, a missing or unreadable file, a missing library or too
    short a context.
    """
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{flag}={name!r} is unknown; valid: clip, bytes, spm:FILE, PATH/tokenizer.json"
        )
    if (
        isinstance(context_length, bool)
        or not isinstance(context_length, int)
        or context_length < 1
    ):
        raise UserError(f"data.context_length={context_length!r} is no positive whole number")
    options = {key: value for key, value in options.items() if value not in ("", -1, (), [])}
    new = options.pop("new", ())
    kind = _find(name, flag)
    unknown = set(options) - set(inspect.signature(kind).parameters)
    if unknown:
        raise UserError(f"{flag}={name!r} takes no option {sorted(unknown)[0]!r}")
    made = kind(name, context_length, **options)
    return Grown(made, new) if new else made


def check_vocab(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises UserError when the tokenizer has ids that an embedding of `vocab_size` rows lacks.

    JAX's gather turns such an id into NaN or the last row without a word.
    """
    if tokenizer.vocab_size > vocab_size:
        need = tokenizer.vocab_size
        raise UserError(
            f"data.tokenizer={tokenizer.name!r} has ids up to {need - 1:,}, but the model's "
            f"vocab_size is {vocab_size:,}; set the text tower's vocab_size to at least {need:,}"
        )
