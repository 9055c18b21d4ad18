"""What a method eats: a batch is the arrays of its named fields.

A field says what a network needs; where it is found in a data set is the config's `data` section,
and data/fields/KIND.py reads it. The file exists so that nothing else knows a kind of input by its
name.
"""

import dataclasses
from collections.abc import Container, Mapping

import jax
import jax.numpy as jnp

Spec = dict[str, jax.ShapeDtypeStruct]
ANY = -1  # as many as there are
NONE = -1  # every id of a text that is not there
# What a picture can tell of itself: shape of a row.
TOLD = {"aspect": (), "size": (2,), "box": (4,)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """A kind of input.

    Attributes:
      key: the config key that its numbers follow, for errors.
      of: the field whose random draws it shares (a control map its picture's crop); default its own
        name.
      optional: is in a batch only where data.fields.NAME says where it is found.
    """

    key: str = ""
    of: str = ""
    optional: bool = False

    def spec(self, name: str, batch_size: int) -> Spec:
        """Shapes and dtypes of its arrays in a batch, by name."""
        raise NotImplementedError(type(self).__name__)

    def says(self, name: str, number: int, part: str = "") -> str:
        """What the method wants, for errors: by its config key where there is one.

        >>> Label(5, key="method.num_classes").says("label", 5)
        'method.num_classes=5'
        """
        return f"{self.key}{part}={number}" if self.key else f"the method's {name} has {number}"


@dataclasses.dataclass(frozen=True)
class Picture(Field):
    """uint8[B, S, S, 3] under the field's name.

    Attributes:
      size: S, pixels.
      tell: `aspect` adds NAME_aspect float32[B], width over height of the picture as it was; `size`
        its NAME_size float32[B, 2], height and width in pixels; `box` what of it is shown, NAME_box
        float32[B, 4], top, left, height and width in the same pixels.
      whole: wants whole pictures, squashed to the square (data.image.crop=squash).
      colour: grey pictures teach nothing.
      free: where arrays are given and not read from data, of any height and width.
    """

    size: int
    tell: tuple[str, ...] = ()
    whole: bool = False
    colour: bool = False
    free: bool = False

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME and what it tells."""
        square = (batch_size, self.size, self.size, 3)
        told = {f"{name}_{what}": (batch_size, *TOLD[what]) for what in self.tell}
        arrays = {name: jax.ShapeDtypeStruct(square, jnp.uint8)}
        return arrays | {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in told.items()}


@dataclasses.dataclass(frozen=True)
class Text(Field):
    """int32[B, T] ids under the field's name, or int32[B, K, T] of several texts.

    Attributes:
      length: T.
      vocab_size: ids lie below it.
      tokenizer: its name: data.tokenizers.NAME, or data.tokenizer for the default.
      mask: adds NAME_mask bool[B, T], True where a token is real and no padding.
      start: the first id is the tokenizer's start, which the method replaces; one without is
        refused.
      end: the id that ends a text, which the tokenizer must have for its end; -1: any.
      mark: the id in place of the tokenizer's start ([ENC], [DEC]); -1: none.
      open: without the end, for what is written after it.
      bare: without the tokenizer's start, for what stands behind another text.
      empty: the ids of the empty text, the last repeated to the end, which the tokenizer's must be;
        (): any.
      absent: a row of NONE stands for no text, so that one program serves both.
      count: K, with NAME_weight float32[B, K]; ANY: any K without weights, which a function reads;
        0: one text, int32[B, T].
      cut: nothing after a text's end can change the loss, so that batches may be cut to their
        longest text (data.buckets).
      own: further ids of the vocabulary, which are the method's.
      keys: config keys of the vocabulary's size, of length and of end, where those below `key` are
        others.
    """

    length: int
    vocab_size: int
    tokenizer: str = "text"
    cut: bool = False
    mask: bool = False
    start: bool = False
    end: int = -1
    mark: int = -1
    open: bool = False
    bare: bool = False
    empty: tuple[int, ...] = ()
    absent: bool = False
    count: int = 0
    own: int = 0
    keys: tuple[str, ...] = ()

    def says(self, name: str, number: int, part: str = "") -> str:
        """See Field."""
        if not self.keys:
            return super().says(name, number, part)
        return f"{self.keys[('.vocab_size', '.context_length', '.end').index(part)]}={number}"

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME, with NAME_mask and NAME_weight where there are such."""
        rows = (batch_size, abs(self.count)) if self.count else (batch_size,)
        arrays = {name: jax.ShapeDtypeStruct((*rows, self.length), jnp.int32)}
        if self.mask:
            arrays[f"{name}_mask"] = jax.ShapeDtypeStruct((*rows, self.length), jnp.bool_)
        if self.count > 0:
            arrays[f"{name}_weight"] = jax.ShapeDtypeStruct(rows, jnp.float32)
        return arrays


@dataclasses.dataclass(frozen=True)
class Label(Field):
    """int32[B] under the field's name, in [0, classes)."""

    classes: int

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME."""
        return {name: jax.ShapeDtypeStruct((batch_size,), jnp.int32)}


@dataclasses.dataclass(frozen=True)
class Numbers(Field):
    """Any array of a data set or of another function: dtype[B, *shape] under the field's name.

    Attributes:
      free: so many sizes at the start of `shape` are only the usual ones; where arrays are given
        and not read from data they may be others.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    free: int = 0

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME."""
        return {name: jax.ShapeDtypeStruct((batch_size, *self.shape), jnp.dtype(self.dtype))}


@dataclasses.dataclass(frozen=True)
class Cached(Field):
    """What a cache (`data cache`) holds of a field, or of a function of the method under its name.

    Attributes:
      like: the field as it is without the cache; of a function's output Numbers.
      reads: {name: field} that a function reads and that its outputs stand for.
    """

    like: Field
    reads: Mapping[str, Field] = dataclasses.field(default_factory=dict)

    def spec(self, name: str, batch_size: int) -> Spec:
        """That of `like`."""
        return self.like.spec(name, batch_size)


def present(fields: Mapping[str, Field], asked: Container[str] = ()) -> dict[str, Field]:
    """The fields that a batch has: all but the optional ones that nobody `asked` for."""
    return {n: field for n, field in fields.items() if not field.optional or n in asked}


def replaced(fields: Mapping[str, Field], cached: Mapping[str, Cached]) -> dict[str, Field]:
    """The fields of a batch where a cache gives some: those in place of what they stand for."""
    gone = {name for field in cached.values() for name in field.reads}
    return {name: field for name, field in fields.items() if name not in gone} | dict(cached)


def batch_spec(fields: Mapping[str, Field], batch_size: int) -> Spec:
    """Shapes and dtypes of the arrays of a batch of `fields`."""
    return {k: s for name, field in fields.items() for k, s in field.spec(name, batch_size).items()}
