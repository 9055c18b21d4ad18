"""BERT's `vocab.txt`, one piece a line, as a tokenizer of the `tokenizers` library (WordPiece,
arXiv:1609.08144; reference: transformers BertTokenizer).

The file exists because releases before tokenizer.json carry this list alone.
"""

import json
import os
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.encoding import read_text

_SPECIAL = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
_OPTIONS = {  # tokenizer_config.json -> BertNormalizer, with transformers' defaults
    "do_lower_case": ("lowercase", True),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
    "strip_accents": ("strip_accents", None),
}


def is_vocabulary(path: str) -> bool:
    """Whether a path is a vocab.txt, or a folder that holds one and no tokenizer.json."""
    if os.path.isdir(path):
        there = os.path.isfile(os.path.join(path, "vocab.txt"))
        return there and not os.path.isfile(os.path.join(path, "tokenizer.json"))
    return path.endswith(".txt") and os.path.isfile(path)


def read_vocabulary(path: str) -> Any:
    """The tokenizer of a vocab.txt (or its folder): lower case unless tokenizer_config.json beside
    it says otherwise.

    Raises:
      UserError: a list that lacks BERT's special pieces or has one twice.
    """
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    path = os.path.join(path, "vocab.txt") if os.path.isdir(path) else path
    lines = read_text(path, newline="").split("\n")
    pieces = [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]
    ids = {piece: i for i, piece in enumerate(pieces)}
    missing = [piece for piece in _SPECIAL[:4] if piece not in ids]
    if missing:
        raise UserError(f"tokenizer {path!r}: no vocabulary of BERT, it lacks {missing[0]}")
    said = _said(path)
    how = {ours: said.get(key, usual) for key, (ours, usual) in _OPTIONS.items()}
    found = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    found.normalizer = normalizers.BertNormalizer(clean_text=True, **how)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece()
    known = [AddedToken(piece, special=True) for piece in _SPECIAL if piece in ids]
    found.add_special_tokens(known)
    edges = [(piece, ids[piece]) for piece in ("[CLS]", "[SEP]")]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    found.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, edges)
    return found


def _said(path: str) -> dict[str, Any]:
    beside = os.path.join(os.path.dirname(path), "tokenizer_config.json")
    if not os.path.isfile(beside):
        return {}
    try:
        with open(beside, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise UserError(f"{beside}: not JSON: {error}") from None
