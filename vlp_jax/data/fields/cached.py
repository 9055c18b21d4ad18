"""What a cache holds in place of a field, sample by sample or caption by caption.

The file exists so that training from a cache draws captions as training on them does, and is
refused where it would have read pictures or captions otherwise than the cache was made.
"""

import dataclasses
import json
from collections import Counter
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.data.cache import caches
from vlp_jax.data.fields.base import Reader as Base
from vlp_jax.data.fields.base import Setup, Stream, make_readers
from vlp_jax.data.source import Example, Source

Row = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Where:
    """No options."""


class Reader(Base):
    """Rows: {array: dtype[shape]}."""

    Where = Where

    def __init__(self, name: str, field: Any, setup: Setup):
        super().__init__(name, field, setup)
        given = setup.data.get("fields") or {}
        own = {**setup.data, "fields": {n: given[n] for n in field.reads if n in given}}
        self.inner = make_readers(field.reads, dataclasses.replace(setup, data=own))
        self.texts = one_text(self.inner)
        self.per_picture = setup.data.get("captions_per_picture") or 0
        if self.texts is not None:  # damage is replaced as without the cache, by texts that fit
            self.cut, self.tokenizer = self.texts.cut, self.texts.tokenizer
            self.captions = self.texts.captions
            for option in ("templates", "word_dropout"):
                if getattr(self.texts.captions, option):
                    flag = self.texts.flag(option)
                    raise UserError(f"{flag}: a cache knows captions as they are; remove it")

    def prepare(self, source: Source, path: str) -> None:
        """Raises UserError where the cache holds other arrays than the method takes, or they were
        made of other captions or otherwise framed pictures than the run would read."""
        for found in caches(source):
            for problem in self._problems(found.manifest):
                where = f"data.path={found.folder!r}: {self.name}"
                raise UserError(f"{where}: {problem}; make the cache with this recipe")
        if self.texts is not None:
            self.texts.prepare(source, path)

    def _problems(self, manifest: dict[str, Any]) -> list[str]:
        found = []
        for array, spec in self.field.spec(self.name, 1).items():
            said = manifest["arrays"].get(array, {"dtype": "no array", "shape": []})
            held = f"{said['dtype']}{said['shape']}"
            wanted = f"{spec.dtype}{list(spec.shape[1:])}"
            found += [f"holds {held}, the method takes {wanted}"] * (held != wanted)
        for name, reader in self.inner.items():
            made, ours = manifest["reads"].get(name, {}), json.loads(json.dumps(reader.settings()))
            for key in (key for key in ours if made.get(key) != ours[key]):
                what = f"made with {name} {key}={made.get(key)!r}"
                found.append(f"{what}, this run says {ours[key]!r}")
        most = manifest["captions"]
        if self.texts is not None and most and not 0 < self.per_picture <= most:
            what = f"holds the first {most} captions of a picture alone"
            found.append(f"{what}, data.captions_per_picture={self.per_picture} asks for others")
        return found

    def read(self, example: Example, stream: Stream, clipped: Counter) -> Row:
        """See Reader; damage: not_cached, and that of a text."""
        names, text = self.field.spec(self.name, 1), ()
        if self.texts is not None:
            text = self.texts.read(example, stream, clipped), self.texts.captions
        return {array: example["cached"](array, *text) for array in names}

    def arrays(self, rows: list[Row], limit: int | None = None) -> dict[str, np.ndarray]:
        """Those of the field."""
        return {array: np.stack([row[array] for row in rows]) for array in rows[0]}


@dataclasses.dataclass(frozen=True)
class OneText:
    """Readers of one caption, under one tokenizer or several (SDXL's two)."""

    readers: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        """What the first says: captions, tokenizer, flag, read."""
        if name.startswith("__") or name == "readers":
            raise AttributeError(name)
        return getattr(self.readers[0], name)

    @property
    def cut(self) -> bool:
        """Whether its ids follow the batch's limit."""
        return len(self.readers) == 1 and self.readers[0].cut

    def prepare(self, source: Source, path: str) -> None:
        """See Reader."""
        for reader in self.readers:
            reader.prepare(source, path)

    def arrays(self, rows: list[str], limit: int | None = None) -> dict[str, np.ndarray]:
        """Those of every reader."""
        each = (reader.arrays(rows, limit) for reader in self.readers)
        return {name: array for arrays in each for name, array in arrays.items()}


def one_text(readers: dict[str, Base]) -> OneText | None:
    """The readers of captions where a function reads one caption and nothing else: its outputs are
    kept caption by caption. None for other functions."""
    texts = [reader for reader in readers.values() if isinstance(reader.field, Text)]
    same = {(reader.field.of or reader.name, reader.captions) for reader in texts}
    alone = len(texts) == len(readers) and len(same) == 1
    return OneText(tuple(texts)) if alone else None
