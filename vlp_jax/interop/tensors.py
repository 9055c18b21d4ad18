"""A tensor of a checkpoint file that has a shape at once and bytes only when asked.

Shapes are compared before any weight is read, and a 10 GB checkpoint is converted one tensor at a
time. The file exists so that safetensors, PyTorch archives and arrays in memory look alike to the
name maps.
"""

import dataclasses
from collections.abc import Callable, Mapping

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


@dataclasses.dataclass(frozen=True)
class Tensor:
    """shape; dtype: a key of DTYPES; read: gives the array, in the file's dtype."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


State = Mapping[str, Tensor]


def decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Turns items as read by DTYPES into numbers."""
    return raw.view(BFLOAT16) if dtype == "BF16" else raw


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Wraps arrays in memory. Raises KeyError for a dtype that checkpoints do not hold."""
    names = {np.dtype(code): name for name, (code, _) in DTYPES.items() if name != "BF16"}
    names[BFLOAT16] = "BF16"
    return {
        key: Tensor(tuple(array.shape), names[array.dtype], lambda array=array: array)
        for key, array in arrays.items()
    }
