"""A tensor of a checkpoint file that has a shape at once and bytes only when asked.

Shapes are compared before any weight is read, and a 10 GB checkpoint is converted one tensor at a
time. The file exists so that safetensors, PyTorch archives and arrays in memory look alike to the
name maps.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

# safetensors name -> (how items are read, bytes); numpy lacks BF16, which is widened by hand
DTYPES = {
    "F64": ("<f8", 8), "F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2),
    "I64": ("<i8", 8), "I32": ("<i4", 4), "I16": ("<i2", 2), "I8": ("i1", 1),
    "U8": ("u1", 1), "BOOL": ("?", 1),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tensor:
    """shape; dtype: a key of DTYPES; read: gives the array, in the file's dtype but for BF16."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


State = Mapping[str, Tensor]


def decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Turns items as read by DTYPES into numbers: BF16 becomes float32, the rest stays."""
    if dtype != "BF16":
        return raw
    return (raw.astype(np.uint32) << 16).view(np.float32)


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Wraps arrays in memory. Raises KeyError for a dtype that checkpoints do not hold."""
    names = {np.dtype(code): name for name, (code, _) in DTYPES.items() if name != "BF16"}
    return {
        key: Tensor(tuple(array.shape), names[array.dtype], lambda array=array: array)
        for key, array in arrays.items()
    }
