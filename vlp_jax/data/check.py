"""Reads every sample of a source as training would, and says what is damaged.

The file exists so that a set is found bad before a pod is booked, with shard, key and reason.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.decode import decode_image
from vlp_jax.data.encoding import LOST
from vlp_jax.data.shard import ShardFile
from vlp_jax.data.source import captioned
from vlp_jax.data.tar_members import build

_PIECE = 4096


def _headers(source: Any) -> Iterator[Damage]:
    """Damage that a new walk over the tars meets and their indices do not know."""
    for path, known in getattr(source, "shards", []):
        fresh = build(ShardFile(path))
        yield from (damage for damage in fresh.damage if damage not in known.damage)
        lost = set(known.keys) - set(fresh.keys)
        yield from (Damage("missing", f"{path}: {key!r}") for key in known.keys if key in lost)


def check_sample(source: Any, i: int, captions: bool = True) -> Damage | None:
    """Reads and decodes sample i completely; None when it is sound. captions: it must have one.
    A caption that holds U+FFFD was damaged before it came here: 'lost_character', which is kept.
    """
    try:
        example = source[i]
        if captions and not example["text"] and "cls" not in example["meta"]:
            raise DamagedSample("no_caption")
        if "image" not in example:
            raise DamagedSample("no_image")
        decode_image(example["image"], 32, "squash")
        if any(LOST in text for text in example["text"]):
            raise DamagedSample("lost_character")
    except DamagedSample as damage:
        return Damage(damage.reason, damage.where or source.where(i))
    return None


def check(source: Any, threads: int = 4, limit: int | None = None) -> Iterator[Damage]:
    """All damage of a source: what its listing knows, what a new walk finds, what fails to decode.
    A missing caption is damage where others have one; reasons in `damage.NOTED` are only told.

    Yields each place once. limit: decode only the first so many samples.
    """
    seen = set()
    count = len(source) if limit is None else min(limit, len(source))
    captions = captioned(source)
    with ThreadPoolExecutor(threads) as pool:
        pieces = (range(s, min(s + _PIECE, count)) for s in range(0, count, _PIECE))
        samples = (
            damage
            for piece in pieces
            for damage in pool.map(lambda i: check_sample(source, i, captions), piece)
        )
        found = itertools.chain(source.damage, _headers(source), filter(None, samples))
        for damage in found:
            if damage.where not in seen:
                seen.add(damage.where)
                yield damage
