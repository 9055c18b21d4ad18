"""`data.holdout`: a share of the pictures that training never reads, chosen by content.

A picture is held back where the hash of its content is small, so copies of one picture stay
together, whatever their names, places and order, and a picture that is added moves no other (in so
small a set that the share alone would hold none back, the smallest hash is). The file exists so
that one's own pictures can be trained on and measured with by one path.
"""

from dataclasses import dataclass

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.content import contents
from vlp_jax.data.order import mix64
from vlp_jax.data.source import Source
from vlp_jax.data.subset import Subset

_HOLDOUT = 9  # key of this choice, see subset.py


@dataclass(frozen=True)
class Holdout:
    """The rule for one training set: contents whose hash is below `edge` are held back."""

    fraction: float
    edge: int

    @classmethod
    def of(cls, source: Source, fraction: float) -> "Holdout":
        """The rule that holds `fraction` of a source back, and at least one picture.

        Raises:
          UserError: nothing would be left to train on.
        """
        found = contents(source)
        hashes = np.unique(mix64(_HOLDOUT, found[found != 0])) if found.any() else found[:0]
        if len(hashes) < 2:
            raise UserError(
                f"data.holdout={fraction}: {len(hashes)} different pictures are too few to hold "
                "some back; set it to 0"
            )
        edge = max(int(fraction * 2**64), int(hashes[0]) + 1)
        return cls(fraction, min(edge, int(hashes[-1])))

    def part(self, source: Source, held: bool) -> Subset:
        """The samples of a source that are held back, or the others; what cannot be read is one of
        the others."""
        found = contents(source)
        back = (mix64(_HOLDOUT, found) < np.uint64(self.edge)) & (found != 0)
        return Subset(source, np.flatnonzero(back == held))


def training_part(source: Source, fraction: float) -> Source:
    """What training reads of a source: all of it, or what `data.holdout` leaves. Raises
    UserError."""
    return Holdout.of(source, fraction).part(source, held=False) if fraction else source
