"""What every reader of a field is, and how those of a batch are found: by the name of their kind.

The file exists so that training and evaluation read a field by one rule, whatever it is called.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Field, present
from vlp_jax.core.schema import build, plain, section
from vlp_jax.data.source import Example, Source

Stream = Callable[[str], np.random.Generator]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What readers are built from.

    Attributes:
      data: the `data` section of a config.
      tokenizers: {field: its tokenizer}.
      train: for training, with its random draws, or for evaluation.
    """

    data: Mapping[str, Any]
    tokenizers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: bool = True


class Reader:
    """Reads one field of examples. Picklable: it runs in grain's threads and processes.

    Class attributes:
      Where: the dataclass of `data.fields.NAME`.
      DEFAULTS: {option of it: key of the `data` section that it follows where it is not given}.
      PLAIN: draws of fields `of` this name have no name in front.
    Attributes:
      cut: its arrays follow the batch's limit of tokens (data.buckets).
      late: takes time, so that others may find damage first.
      picture: reads the sample's own picture.
    """

    Where: ClassVar[type]
    DEFAULTS: ClassVar[Mapping[str, str]] = {}
    PLAIN: ClassVar[str] = ""
    cut = late = picture = False

    def __init__(self, name: str, field: Any, setup: Setup):
        self.name, self.field = name, field
        self._given = section(section(setup.data, "data.fields"), f"data.fields.{name}")
        known = {option: _value(setup.data, key) for option, key in self.DEFAULTS.items()}
        usual = {option: value for option, value in known.items() if value is not None}
        self.where = build(self.Where, {**usual, **self._given}, f"data.fields.{name}")

    def flag(self, option: str) -> str:
        """The config key that an option came from, for errors."""
        own = option in self._given or option not in self.DEFAULTS
        return f"data.fields.{self.name}.{option}" if own else f"data.{self.DEFAULTS[option]}"

    def settings(self) -> dict[str, Any]:
        """What a row depends on beside its example, as plain values: a cache is made with them."""
        return dataclasses.asdict(self.where)

    def draws(self, stream: Stream) -> Stream:
        """The random streams of an example by the names of this field's draws."""
        of = self.field.of or self.name
        return stream if of == self.PLAIN else lambda draw: stream(f"{of}/{draw}")

    def prepare(self, source: Source, path: str) -> None:
        """Looks at the data before any work. Raises UserError where the field is not there."""

    def read(self, example: Example, stream: Stream, clipped: Counter) -> Any:
        """What one example has. Raises DamagedSample; counts in `clipped` what was cut."""
        raise NotImplementedError(type(self).__name__)

    def fits(self, row: Any, limit: int) -> bool:
        """Whether a row keeps to the batch's limit of tokens."""
        return True

    def arrays(self, rows: list[Any], limit: int | None = None) -> dict[str, np.ndarray]:
        """Rows, at least one -> the arrays of the field's spec."""
        raise NotImplementedError(type(self).__name__)


def _value(data: Mapping[str, Any], key: str) -> Any:
    node: Any = data
    for part in key.split("."):
        node = (node or {}).get(part)
    return node


def make_readers(fields: Mapping[str, Field], setup: Setup) -> dict[str, Reader]:
    """The reader of every field that a batch has, in their order; no data is opened.

    Raises:
      UserError: data.fields names a field or an option that is not there, or a value is refused.
    """
    data = plain(setup.data)
    given = section(data, "data.fields")
    known = {**fields}
    for field in fields.values():
        known |= getattr(field, "reads", {})  # what a cache stands for
    for name in given:
        if name not in known:
            raise UserError(f"data.fields.{name}: no field of the method{nearest(name, known)}")
    setup = dataclasses.replace(setup, data=data)
    return {
        name: dispatch.load("data.fields", type(field).__name__.lower(), f"field {name!r}").Reader(
            name, field, setup
        )
        for name, field in present(fields, given).items()
    }


def read_row(
    readers: Mapping[str, Reader], source: Source, index: int, stream: Stream
) -> Iterator[tuple[Reader, Any, Counter]]:
    """What every reader finds in one example, with counts of what it cut. Raises DamagedSample."""
    whole = any(reader.picture for reader in readers.values())
    example = source[index] if whole else source.metadata(index)
    for reader in sorted(readers.values(), key=lambda reader: reader.late):
        clipped: Counter = Counter()
        yield reader, reader.read(example, stream, clipped), clipped


def stack(
    readers: Mapping[str, Reader], rows: list[dict[str, Any]], limit: int | None = None
) -> dict[str, np.ndarray]:
    """Rows {field: what its reader found}, at least one -> the arrays of a batch."""
    each = (reader.arrays([row[name] for row in rows], limit) for name, reader in readers.items())
    return {name: array for arrays in each for name, array in arrays.items()}
