"""Resizes learned position embeddings to another picture size, exactly as the references do.

`antialias=True` is what open_clip does on load (cubic a = -0.5, kernel widened when shrinking);
`antialias=False` is PyTorch's plain bicubic `interpolate(align_corners=False)` (a = -0.75, never
widened) as in BLIP, GroupViT and Hugging Face. PIL and jax.image use the former kernel only. The
file exists because the two differ by more than rounding.
"""

import math

import numpy as np
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.interop.rules import Shapes, Table, their_shapes
from vlp_jax.interop.tensors import State, Tensor

PATH = "image/pos_embed"
_SPACING = {"F16": 2**-11, "BF16": 2**-8}  # between neighbouring numbers just below one


def same_table(stored: np.ndarray, table: np.ndarray, dtype: str = "F32") -> bool:
    """Whether a stored sine-cosine table float[N, D] is this one, to the rounding of the dtype (a
    name of tensors.py) in which it was stored.
    """
    atol, stored = 1e-5 + _SPACING.get(dtype, 0.0), stored.astype(np.float32)
    return stored.shape == table.shape and np.allclose(stored, table, rtol=0, atol=atol)


def resize_pos_embed(
    pos_embed: np.ndarray, num_tokens: int, prefix: int = 1, antialias: bool = True
) -> np.ndarray:
    """Resizes a square grid of position embeddings.

    Args:
      pos_embed: float[prefix + n*n, D].
      num_tokens: rows wanted, prefix + m*m.
      prefix: rows kept as they are (1 with a class token, else 0).
      antialias: True as open_clip, False as BLIP and Hugging Face.

    Returns:
      float32[num_tokens, D].

    Raises:
      UserError: a grid that is not square.
    """
    kept, grid = pos_embed[:prefix], pos_embed[prefix:]
    old, new = _side(len(grid)), _side(num_tokens - prefix)
    weights = cubic_weights(old, new, antialias)
    grid = rearrange(grid.astype(np.float64), "(h w) d -> h w d", h=old)
    grid = np.einsum("ih,jw,hwd->ijd", weights, weights, grid, optimize=True)
    return np.concatenate([kept, rearrange(grid, "h w d -> (h w) d")]).astype(np.float32)


def resize_state(state: State, table: Table, expected: Shapes, antialias: bool) -> State:
    """Replaces a checkpoint's picture position embeddings by resized ones, and nothing else.

    Raises:
      UserError: a model whose image tower is no ViT.
    """
    if PATH not in expected:
        raise UserError("--image-size: only a ViT's position embeddings can be resized")
    ((name, shape),) = their_shapes(table, {PATH: expected[PATH]}).items()
    if name not in state or state[name].shape == shape:
        return state
    tensor, prefix = state[name], int("image/cls_token" in expected)

    def read() -> np.ndarray:
        rows = tensor.read().reshape(-1, tensor.shape[-1])
        return resize_pos_embed(rows, math.prod(shape[:-1]), prefix, antialias).reshape(shape)

    return {**state, name: Tensor(shape, "F32", read)}


def cubic_weights(old: int, new: int, antialias: bool) -> np.ndarray:
    """Rows of resampling weights, float64[new, old]; each sums to one.

    Sample positions are pixel centres, (i + 0.5) * old / new - 0.5. Without antialiasing an index
    beyond the border repeats the border pixel; with it the kernel is cut at the border and
    renormalised.
    """
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    if antialias:
        width = max(scale, 1.0)
        weights = _cubic((np.arange(old)[None] - centre) / width, a=-0.5)
        return weights / weights.sum(1, keepdims=True)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        index = np.floor(centre[:, 0]).astype(int) + tap
        value = _cubic(index - centre[:, 0], a=-0.75)
        np.add.at(weights, (np.arange(new), index.clip(0, old - 1)), value)
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) with free parameter a; zero beyond distance 2."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _side(count: int) -> int:
    side = round(max(count, 0) ** 0.5)
    if side * side != count or not count:
        raise UserError(f"position embeddings: {count} positions are not a square grid")
    return side
