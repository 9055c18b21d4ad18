"""So many captions of every picture, each a sample of its own: an epoch shows each of them once.

The file exists because captions that are drawn at random come once an epoch a picture, and recipes
that count pairs ("two captions a picture", Flickr30k's 145,000) need them all.
"""

import numpy as np

from vlp_jax.data.content import contents
from vlp_jax.data.source import Example, Source, digest


class PerCaption:
    """Sample i * count + k of a source's sample i has its caption k alone (of fewer captions the
    first ones again); `meta` gains `picture`, i.

    Worked example: pictures with captions [a, b, c] and [d], count 2: a, b, d, d.
    """

    def __init__(self, whole: Source, count: int):
        self.whole, self.count = whole, count
        self.damage = whole.damage
        self.fingerprint = digest([whole.fingerprint, f"{count} captions a picture"])
        if hasattr(whole, "classes"):
            self.classes = whole.classes

    @property
    def stamp(self) -> str:
        """Changes with the captions where the fingerprint of the whole does not cover them."""
        return getattr(self.whole, "stamp", "")

    def __len__(self) -> int:
        return len(self.whole) * self.count

    def __getitem__(self, i: int) -> Example:
        return self._one(self.whole[i // self.count], i)

    def metadata(self, i: int) -> Example:
        return self._one(self.whole.metadata(i // self.count), i)

    def where(self, i: int) -> str:
        return self.whole.where(i // self.count)

    def contents(self, rows: np.ndarray) -> np.ndarray:
        """See `content.contents`."""
        return contents(self.whole, rows // self.count)

    def _one(self, example: Example, i: int) -> Example:
        picture, k = divmod(i, self.count)
        texts = example["text"]
        at = k % len(texts) if texts else 0
        meta = {**example["meta"], "picture": picture}
        return {**example, "text": texts[at : at + 1], "meta": meta}
