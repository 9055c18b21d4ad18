"""What a data set holds: captions, their lengths, picture sizes and formats, metadata keys.

The file exists so that a context length, an image size and a label key are chosen from facts, and
so that a person sees the captions as the model will read them.
"""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import FORMATS
from vlp_jax.data.encoding import LOST
from vlp_jax.data.order import mix64, permute
from vlp_jax.data.tar_members import count_tokens

_STATS = 10  # key of this choice; subset.py and holdout.py have others
QUANTILES = (0, 5, 50, 95, 100)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    found = np.percentile(np.asarray(values, np.float64), QUANTILES)
    named = zip(("min", "p5", "median", "p95", "max"), found, strict=True)
    return {**{name: round(float(v), 1) for name, v in named}, "mean": float(np.mean(values))}


def _picks(count: int, limit: int) -> list[int]:
    """Up to `limit` sample numbers, the same at every call: drawn, since sets often go round their
    classes in turn."""
    if count <= limit:
        return list(range(count))
    return np.sort(permute(np.arange(limit), count, mix64(_STATS)[0])).tolist()


def stats(source: Any, limit: int = 1000) -> dict[str, Any]:
    """Counts and quantiles over up to `limit` samples from all over.

    Keys: samples, looked_at, damage (listed), captions_per_sample, words, characters, width,
    height, kilobytes, formats, meta_keys, unreadable.
    """
    numbers: dict[str, list] = {k: [] for k in ("words", "characters", "width", "height", "kb")}
    captions, formats, keys, unreadable = [], Counter(), Counter(), 0
    picks = _picks(len(source), limit)
    for i in picks:
        try:
            example = source[i]
            with Image.open(io.BytesIO(example.get("image", b"")), formats=FORMATS) as image:
                (width, height), form = image.size, image.format
        except Exception:  # decoders raise a dozen types on hostile bytes
            unreadable += 1
            continue
        captions.append(len(example["text"]))
        formats[form] += 1
        keys.update(str(key) for key in example["meta"])
        numbers["width"].append(width)
        numbers["height"].append(height)
        numbers["kb"].append(len(example["image"]) / 1024)
        numbers["words"] += [count_tokens(text) for text in example["text"]]
        numbers["characters"] += [len(text) for text in example["text"]]
    return {
        "samples": len(source),
        "looked_at": len(picks),
        "unreadable": unreadable,
        "damage": dict(Counter(d.reason for d in source.damage)),
        "fingerprint": source.fingerprint,
        "captions_per_sample": _quantiles(captions),
        "words": _quantiles(numbers["words"]),
        "characters": _quantiles(numbers["characters"]),
        "width": _quantiles(numbers["width"]),
        "height": _quantiles(numbers["height"]),
        "kilobytes": _quantiles(numbers["kb"]),
        "formats": dict(formats.most_common()),
        "meta_keys": dict(keys.most_common(40)),
    }


def captions(source: Any, tokenizer: Any, count: int = 10) -> list[dict[str, Any]]:
    """The first caption of up to `count` samples from all over that have one, as it will be read.

    Keys: caption, tokens (start and end included), pieces (text of each id between them; '<ID>' for
    part of a character), cut (it was too long). What cannot be printed is shown as an escape.
    """
    texts = []
    for i in _picks(len(source), count):
        try:
            texts += source.metadata(i)["text"][:1]
        except DamagedSample:
            continue
    return [_read_as(text, tokenizer) for text in texts]


def _read_as(text: str, tokenizer: Any) -> dict[str, Any]:
    length = tokenizer.length(text)
    edges = len(tokenizer.prefix), length - len(tokenizer.suffix)
    ids = tokenizer([text])[0][slice(*edges)].tolist()
    pieces = [tokenizer.decode([i]) for i in ids]
    known = [piece and LOST not in piece for piece in pieces]
    return {
        "caption": _printable(text),
        "tokens": length,
        "pieces": [
            _printable(piece) if good else f"<{i}>"
            for i, piece, good in zip(ids, pieces, known, strict=True)
        ],
        "cut": len(tokenizer.encode(text)) > len(ids),
    }


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
