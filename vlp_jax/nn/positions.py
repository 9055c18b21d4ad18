"""Fixed sine-cosine positions of a square grid (MAE, arXiv:2111.06377; MoCo v3, arXiv:2104.02057).

The file exists because released weights depend on the order of the table's columns, and four
orders are in use.
"""

import numpy as np

from vlp_jax.core.errors import UserError


def sincos_table(side: int, width: int, prefix: int = 0) -> np.ndarray:
    """Rows of a side x side grid in row-major order, as facebookresearch/mae computes them.

    The first half of a row encodes the column, the second half the row; each half holds the sines
    of all frequencies, then their cosines. Frequency k of D/4 is 10000^(-k / (D/4)).

    Args:
      side: patches along one side.
      width: D, a multiple of 4.
      prefix: rows of zeros in front, one for a class token.

    Returns:
      float32[prefix + side * side, D].

    Raises:
      UserError: a width that is no multiple of 4.
    """
    if width % 4:
        raise UserError(f"sincos positions need a width that is a multiple of 4, not {width}")
    frequency = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    angle = np.arange(side)[:, None] * frequency  # [S, D/4]
    axis = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)  # [S, D/2]
    row, column = np.divmod(np.arange(side * side), side)
    table = np.concatenate([axis[column], axis[row]], axis=1)  # [N, D]
    return np.concatenate([np.zeros((prefix, width)), table]).astype(np.float32)
