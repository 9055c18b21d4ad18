"""A picture and a text made by arithmetic; a converted checkpoint carries their embeddings.

The file exists so that a checkpoint that was damaged, or a model whose numerics have changed since,
is found when it is opened and not when its results are read.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError

TOLERANCE = 1e-4  # per component of a unit vector, float32


def golden_inputs(image_size: int, context_length: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Returns {'image': uint8[1, S, S, 3], 'text': int32[1, T], 'text_mask': bool[1, T]}, the same
    on every machine.

    The text counts through the vocabulary for half its length, ends with the largest id (where CLIP
    pools) and is padded with 0.
    """
    y, x, c = np.ogrid[:image_size, :image_size, :3]
    image = (7 * x + 13 * y + 29 * c + (x * y) // 5) % 256
    end = context_length // 2
    text = np.zeros(context_length, np.int64)
    text[:end] = 1 + 7919 * np.arange(end) % max(1, vocab_size - 2)
    text[end] = vocab_size - 1
    return {
        "image": image[None].astype(np.uint8),
        "text": text[None].astype(np.int32),
        "text_mask": np.arange(context_length)[None] <= end,
    }


def golden_numbers(shape: tuple[int, ...]) -> np.ndarray:
    """float32[shape] in [-1, 1] without a pattern; a lone number (a time) is 500."""
    if len(shape) == 1:
        return np.full(shape, 500, np.float32)
    return (
        np.sin(1e3 * np.sqrt(np.arange(1.0, np.prod(shape) + 1))).reshape(shape).astype(np.float32)
    )


def compare(expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], where: str) -> None:
    """Checks embeddings, or other numbers, against the stored ones; above 1 in size the tolerance
    is a share of the largest.

    Raises:
      UserError: names what differs and the largest difference.
    """
    for name, want in expected.items():
        want = np.asarray(want, np.float32)
        if np.shape(got[name]) != want.shape:
            raise UserError(
                f"{where}: its golden {name} embedding is {want.shape}, ours {np.shape(got[name])}"
            )
        difference = float(np.max(np.abs(want - got[name])))
        most = TOLERANCE * max(1.0, float(np.max(np.abs(want))))
        if not difference <= most:  # NaN counts as different
            raise UserError(
                f"{where}: the golden {name} embedding differs by {difference:.3g} "
                f"(allowed {most:g}): the weights are damaged or the model has changed"
            )
