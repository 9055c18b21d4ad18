"""How SigLIP's texts are prepared where no file says it.

The file exists because two libraries release the same models with the same tokenizer.
"""

import os
from collections.abc import Mapping
from typing import Any

from vlp_jax.interop.weights_file import read_json


def tokenizer_options(said: Mapping[str, Any] | None, file: str, vocab_size: int) -> dict[str, Any]:
    """Options of data/text: punctuation is dropped, and </s> pads.

    Args:
      said: what a config says of cleaning; None where there is none.
      file: a tokenizer, or "".
      vocab_size: of the text tower.
    """
    options = dict(said or {})
    if said is None and file and not _says_class(file):
        options = {"clean": "canonicalize"}
    if file and vocab_size == 32000:
        options["pad_id"] = 1  # </s>, T5's id 1
    return options


def _says_class(file: str) -> bool:
    """Whether the tokenizer_config.json beside a file names another class than SigLIP's."""
    path = os.path.join(os.path.dirname(file), "tokenizer_config.json")
    kind = read_json(path).get("tokenizer_class", "") if os.path.isfile(path) else ""
    return bool(kind) and not kind.startswith(("Siglip", "T5"))
