"""What a method eats: a batch is the arrays of its named fields.

A field says what a network needs; where it is found in a data set is the config's `data` section,
and data/ reads it. The file exists so that nothing else knows a kind of input by its name.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

Spec = dict[str, jax.ShapeDtypeStruct]
TOLD = {"aspect": ()}  # what a picture can tell of itself: shape of a row


class Field(Protocol):
    """A kind of input."""

    def spec(self, name: str, batch_size: int) -> Spec:
        """Shapes and dtypes of its arrays in a batch, by name."""
        ...


@dataclasses.dataclass(frozen=True)
class Picture:
    """uint8[B, S, S, 3] under the field's name.

    Attributes:
      size: S, pixels.
      tell: `aspect` adds NAME_aspect float32[B], width over height of the picture as it was.
      whole: wants whole pictures, squashed to the square (data.image.crop=squash).
      colour: grey pictures teach nothing.
      of: the field whose random draws it shares; default its own name.
    """

    size: int
    tell: tuple[str, ...] = ()
    whole: bool = False
    colour: bool = False
    of: str = ""

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME and what it tells."""
        square = (batch_size, self.size, self.size, 3)
        told = {f"{name}_{what}": (batch_size, *TOLD[what]) for what in self.tell}
        arrays = {name: jax.ShapeDtypeStruct(square, jnp.uint8)}
        return arrays | {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in told.items()}


@dataclasses.dataclass(frozen=True)
class Text:
    """int32[B, T] ids under the field's name.

    Attributes:
      length: T.
      vocab_size: ids lie below it.
      mask: adds NAME_mask bool[B, T], True where a token is real and no padding.
      cut: nothing after a text's end can change the loss, so that batches may be cut to their
        longest text (data.buckets).
      of: as of a Picture.
    """

    length: int
    vocab_size: int
    cut: bool = False
    mask: bool = False
    of: str = ""

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME, and NAME_mask where there is one."""
        shape = (batch_size, self.length)
        arrays = {name: jax.ShapeDtypeStruct(shape, jnp.int32)}
        if self.mask:
            arrays[f"{name}_mask"] = jax.ShapeDtypeStruct(shape, jnp.bool_)
        return arrays


@dataclasses.dataclass(frozen=True)
class Label:
    """int32[B] under the field's name, in [0, classes)."""

    classes: int
    of: str = ""

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME."""
        return {name: jax.ShapeDtypeStruct((batch_size,), jnp.int32)}


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Any array of a data set or of another function: dtype[B, *shape] under the field's name.

    Attributes:
      optional: may be left out of a batch.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    optional: bool = False
    of: str = ""

    def spec(self, name: str, batch_size: int) -> Spec:
        """NAME."""
        return {name: jax.ShapeDtypeStruct((batch_size, *self.shape), jnp.dtype(self.dtype))}
