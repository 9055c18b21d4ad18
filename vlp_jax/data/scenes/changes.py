"""Small changes of one object's picture, so that no two scenes of training draw it alike.

A network that sees an apple drawn once learns that drawing; one that sees it in other colours, with
less detail, bent, turned and mirrored learns what apples have in common (domain randomisation,
arXiv:1703.06907). Changes of a whole picture, as a recipe's augmentation makes them, move all its
objects alike and are told apart from within. The file exists so that an object may look different
beside others that do not.
"""

import numpy as np
from PIL import Image, ImageFilter

FLAT, POSTER, GREY, DARK, MIRROR = 0.5, 0.4, 0.1, 0.3, 0.5  # chances
WINDOWS, COLOURS = (3, 5, 7), (3, 9)  # of the median; colours that are left, the last excluded
HUE, ANY_HUE = 14.0, 0.2  # a small turn's deviation of 256; chance of any turn
SATURATION, VALUE, SHIFT, GAMMA = (0.5, 1.5), (0.6, 1.2), 20.0, (0.6, 1.6)
# One hue of 256, or grey, by its name.
TINTS = {"red": 0, "yellow": 42, "green": 85, "blue": 160, "purple": 195, "grey": None}
FULL = 140  # least saturation of what is tinted
ANGLE, BEND = 15.0, 0.15  # degrees, deviation; share of a side that a corner moves at most


def changed(pixels: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture uint8[S, S, 3] and mask bool[S, S] of an object, changed as `seed` >= 0 says; it
    fills its square again."""
    rng = np.random.default_rng(seed)
    coloured = np.dstack([_coloured(Image.fromarray(pixels), rng), np.uint8(mask) * 255])
    bent = _bent(Image.fromarray(coloured, "RGBA"), rng)
    bent = bent.crop(bent.getchannel("A").point(lambda a: 255 * (a >= 128)).getbbox())
    side = max(bent.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(bent, tuple((side - length) // 2 for length in bent.size))
    found = np.asarray(square.resize(mask.shape, Image.Resampling.BILINEAR))
    return found[..., :3], found[..., 3] >= 128


def tinted(pixels: np.ndarray, tint: str) -> np.ndarray:
    """uint8[S, S, 3] in one colour of TINTS: lights and darks stay, white gets the colour too."""
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hue = TINTS[tint]
    hsv[..., 0] = hue or 0
    hsv[..., 1] = 0 if hue is None else np.maximum(hsv[..., 1], FULL)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _coloured(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """uint8[S, S, 3] in other colours, often flatter."""
    if rng.random() < FLAT:
        picture = picture.filter(ImageFilter.MedianFilter(int(rng.choice(WINDOWS))))
    if rng.random() < POSTER:
        picture = picture.quantize(int(rng.integers(*COLOURS))).convert("RGB")
    hsv = np.asarray(picture.convert("HSV"), np.float32)
    turn = rng.uniform(0, 256) if rng.random() < ANY_HUE else rng.normal(0, HUE)
    hue = (hsv[..., 0] + turn) % 256
    saturation = hsv[..., 1] * rng.uniform(*SATURATION)
    value = hsv[..., 2] * rng.uniform(*VALUE) + rng.uniform(-SHIFT, SHIFT)
    hsv = np.uint8(np.clip(np.dstack([hue, saturation, value]), 0, 255))
    rgb = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"), np.float32)
    if rng.random() < DARK:
        rgb = 255 * (rgb / 255) ** rng.uniform(*GAMMA)
    if rng.random() < GREY:
        rgb = np.broadcast_to(rgb.mean(-1, keepdims=True), rgb.shape)
    return np.uint8(rgb)


def _bent(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrored or not, its corners moved, turned."""
    if rng.random() < MIRROR:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = picture.size[0]
    corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) + rng.uniform(-BEND, BEND, (4, 2))
    how = Image.Resampling.BILINEAR
    bent = picture.transform(
        picture.size, Image.Transform.QUAD, (side * corners).ravel().tolist(), how
    )
    return bent.rotate(rng.normal(0, ANGLE), how, expand=True)
