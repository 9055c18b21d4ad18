"""Pictures: the sample's own or a further file of it, framed and decoded.

The file exists as the one place that turns a Picture field into pixels; crops of fields `of` one
name are drawn alike, so a map of its picture's size is cut as the picture is.
"""

import dataclasses
from collections import Counter
from typing import Annotated, Any

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Range
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import Shown, check_colour, decode_framed
from vlp_jax.data.fields.base import Reader as Base
from vlp_jax.data.fields.base import Setup, Stream
from vlp_jax.data.framing import CROPS, Framing
from vlp_jax.data.source import Example, Source, check_member, member


@dataclasses.dataclass(frozen=True)
class Where:
    """member: a further file of the sample by its suffix ("seg.png"), '' its own picture; the
    others: see data/framing.py; evaluation crops by `eval_crop`.
    """

    member: str = ""
    crop: str = "random"
    eval_crop: str = "center"
    scale: tuple[float, float] = (0.9, 1.0)
    resample: str = "bicubic"
    alpha: str = "white"
    fill: Annotated[int, Range(0, 255)] = 255
    share: Annotated[float, Range(0.01, 1)] = 1.0


def _box(shown: Shown) -> tuple[float, ...]:
    left, top, right, bottom = shown.box
    return top, left, bottom - top, right - left


TELLS = {  # core/fields.py TOLD
    "aspect": lambda shown: shown.aspect,
    "size": lambda shown: (shown.height, shown.width),
    "box": _box,
}
_FRAMING = ("crop", "eval_crop", "scale", "resample", "alpha", "fill", "share")


class Reader(Base):
    """Rows: (uint8[S, S, 3], what part of the picture that is)."""

    Where = Where
    DEFAULTS = {option: f"image.{option}" for option in _FRAMING}
    PLAIN = "image"
    late = True

    def __init__(self, name: str, field: Any, setup: Setup):
        super().__init__(name, field, setup)
        self.picture = not self.where.member
        self.framing, other = self._framing("crop"), self._framing("eval_crop")
        if other.draws:
            hint = nearest(other.crop, [crop for crop in CROPS if not Framing(crop).draws])
            said = f"{self.flag('eval_crop')}={other.crop!r}"
            raise UserError(f"{said}: evaluation draws nothing{hint}")
        if not setup.train:
            self.framing = other
        elif field.whole and (self.framing.crop, self.framing.share) != ("squash", 1.0):
            wanted = f"{field.says(name, field.size)} takes whole pictures, crop='squash'"
            raise UserError(f"{self.flag('crop')}={self.framing.crop!r}: {wanted}")

    def _framing(self, crop: str) -> Framing:
        where = dataclasses.asdict(self.where)
        try:
            return Framing.of({**where, "crop": where[crop]})
        except UserError as error:
            told = str(error).replace("data.image.crop=", f"{self.flag(crop)}=")
            for option in self._given:
                told = told.replace(f"data.image.{option}=", f"{self.flag(option)}=")
            raise UserError(told) from error

    def settings(self) -> dict[str, Any]:
        """See Reader."""
        framing = dataclasses.asdict(self.framing)
        return {"size": self.field.size, "member": self.where.member, **framing}

    def prepare(self, source: Source, path: str) -> None:
        """Raises UserError where no sample has the file, or all are grey and colours matter."""
        if self.where.member:
            check_member(source, self.where.member, self.flag("member"))
        if self.field.colour:
            check_colour(source, path, self._file)

    def _file(self, example: Example) -> bytes:
        if self.where.member:
            return member(example, self.where.member)
        if "image" not in example:
            raise DamagedSample("no_image")
        return example["image"]

    def read(self, example: Example, stream: Stream, clipped: Counter) -> Any:
        """See Reader. Draw: box."""
        rng = self.draws(stream)("box") if self.framing.draws else None
        return decode_framed(self._file(example), self.field.size, self.framing, rng)

    def arrays(self, rows: list[Any], limit: int | None = None) -> dict[str, np.ndarray]:
        """NAME and what the field tells."""
        found = {self.name: np.stack([row[0] for row in rows])}
        for what in self.field.tell:
            values = [TELLS[what](row[1]) for row in rows]
            found[f"{self.name}_{what}"] = np.asarray(values, np.float32)
        return found
