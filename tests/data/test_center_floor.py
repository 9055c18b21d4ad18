"""The centre crop of Hugging Face's processors: odd free space rounds down, open_clip's to even."""

import io

import numpy as np
from PIL import Image

from vlp_jax.data.decode import decode_image


def columns(crop, width):
    """Which columns of a 4-pixel-high picture, resized by nothing, the crop keeps."""
    row = np.arange(width, dtype=np.uint8)
    picture = np.broadcast_to(row[None, :, None], (4, width, 3))
    file = io.BytesIO()
    Image.fromarray(picture.copy()).save(file, "PNG")
    return list(decode_image(file.getvalue(), 4, crop)[0, :, 0])


def test_rounding_of_the_free_width():
    assert columns("center", 5) == columns("center_floor", 5) == [0, 1, 2, 3]  # round(0.5) is 0
    assert columns("center", 7) == [2, 3, 4, 5]  # round(1.5) is 2
    assert columns("center_floor", 7) == [1, 2, 3, 4]
    assert columns("center", 8) == columns("center_floor", 8) == [2, 3, 4, 5]
