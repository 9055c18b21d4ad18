"""A tensor of a checkpoint file that has a shape at once and bytes only when asked.

Shapes are compared before any weight is read, and a 10 GB checkpoint is converted one tensor at a
time. The file exists so that safetensors, PyTorch archives and arrays in memory look alike to the
name maps.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

# safetensors name -> (how items are read, bytes); numpy has no code for BF16
DTYPES = {
    "F64": ("<f8", 8), "F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2),
    "I64": ("<i8", 8), "I32": ("<i4", 4), "I16": ("<i2", 2), "I8": ("i1", 1),
    "U8": ("u1", 1), "BOOL": ("?", 1),
}  # fmt: skip
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (np.dtype(np.float16), BFLOAT16)
CODES = {np.dtype(code): name for name, (code, _) in DTYPES.items() if name != "BF16"}
CODES[BFLOAT16] = "BF16"


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """An array that is read when it is asked for, and again each time: `tensor[...]`, or a slice.

    Attributes:
      shape: of the array. code: a key of DTYPES.
      read: gives the array, in the file's dtype, mapped into memory where it is large.
      pieces: gives it as [n, ...] after [n, ...] of its first axis, where that holds less in memory
        than the whole; None: whole.
    """

    shape: tuple[int, ...]
    code: str
    read: Callable[[], np.ndarray]
    pieces: Callable[[], Iterator[np.ndarray]] | None = None

    @property
    def dtype(self) -> np.dtype:
        return BFLOAT16 if self.code == "BF16" else np.dtype(DTYPES[self.code][0])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.read()[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.read(), dtype, copy=copy)

    def each(self) -> Iterator[np.ndarray]:
        """Its pieces, or the whole."""
        return self.pieces() if self.pieces else iter((self.read(),))

    def astype(self, dtype: Any) -> "Tensor":
        """The same numbers in another dtype, piece by piece."""
        whole = lambda: self.read().astype(dtype)  # noqa: E731
        some = lambda: (piece.astype(dtype) for piece in self.each())  # noqa: E731
        return Tensor(self.shape, CODES[np.dtype(dtype)], whole, self.pieces and some)


def of_pieces(
    shape: tuple[int, ...], dtype: Any, pieces: Callable[[], Iterator[np.ndarray]]
) -> Tensor:
    """A tensor that is made some rows at a time."""

    def whole() -> np.ndarray:
        found, start = np.empty(shape, dtype), 0
        for piece in pieces():
            found[start : start + len(piece)] = piece
            start += len(piece)
        return found

    return Tensor(shape, CODES[np.dtype(dtype)], whole, pieces)


State = Mapping[str, Tensor]


def decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Turns items as read by DTYPES into numbers."""
    return raw.view(BFLOAT16) if dtype == "BF16" else raw


def from_arrays(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Wraps arrays in memory; tensors stay. Raises KeyError for a dtype that checkpoints do not
    hold."""
    return {
        key: array
        if isinstance(array, Tensor)
        else Tensor(tuple(array.shape), CODES[array.dtype], lambda array=array: np.asarray(array))
        for key, array in arrays.items()
    }
