"""A trunk whose pictures RandAugment changes after crop and flip (arXiv:1909.13719).

The file exists so that learning from labels and from texts differ only in the colour that a warp
uncovers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from vlp_jax.augment.rand_augment import RandAugment, rand_augment
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array
from vlp_jax.methods.kits.trunk import Trunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Varied(Trunk):
    """Attributes:
    rand_augment: fields of augment/rand_augment.py RandAugment; the others: see Trunk.
    """

    rand_augment: Annotated[Mapping[str, Any], RandAugment] = dataclasses.field(
        default_factory=dict
    )

    @property
    def fill(self) -> tuple[float, ...]:
        """The colour outside a warped picture, in [0, 255]: the mean."""
        return tuple(255 * channel for channel in self.image_mean)

    @property
    def changes(self) -> tuple[str, ...]:
        """See Trunk."""
        own = build(RandAugment, self.rand_augment, "method.rand_augment")
        return (*super().changes, *(("method.rand_augment",) if own.magnitude else ()))

    def augmented(self, images: Array, rng: Array | None, **how: Any) -> Array:
        """Crop and flip, then RandAugment: float32[B, S, S, 3] in [0, 255]."""
        change = build(RandAugment, self.rand_augment, "method.rand_augment")
        return rand_augment(super().augmented(images, rng, **how), change, rng, self.fill)
