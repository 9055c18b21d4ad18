"""Labels: the class number under a JSON key.

The file exists as the one rule by which training and evaluation number classes (data/labels.py).
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.fields.base import Reader as Base
from vlp_jax.data.fields.base import Setup, Stream
from vlp_jax.data.labels import open_classes
from vlp_jax.data.source import Example, Source, check_key, label_of


@dataclasses.dataclass(frozen=True)
class Where:
    """key: the JSON key."""

    key: str = ""


class Reader(Base):
    """Rows: class numbers; words by their rank in the source that `prepare` saw."""

    Where = Where
    DEFAULTS = {"key": "label"}

    def __init__(self, name: str, field: Any, setup: Setup):
        super().__init__(name, field, setup)
        if not self.where.key:
            asked = "this method learns from labels; set it to their JSON key"
            raise UserError(f"{self.flag('key')}: {asked}")
        self.classes: Sequence[str | int] = range(field.classes)

    def prepare(self, source: Source, path: str) -> None:
        """Raises UserError where no sample has the key, or the classes are not the method's."""
        key, flag = self.where.key, self.flag("key")
        check_key(source, key, flag)
        wanted = self.field.classes
        self.classes = open_classes(source, key, wanted, flag, self.field.says(self.name, wanted))

    def read(self, example: Example, stream: Stream, clipped: Counter) -> int:
        """See Reader."""
        return label_of(example, self.where.key, self.classes)

    def arrays(self, rows: list[int], limit: int | None = None) -> dict[str, np.ndarray]:
        """NAME."""
        return {self.name: np.asarray(rows, np.int32)}
