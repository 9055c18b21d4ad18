"""Growing a region over a map, and Canny's edges (IEEE PAMI 8(6), 1986), which end in one.

The file exists so that masks and edge maps need no library of image processing.
"""

import numpy as np

LOW, HIGH = 12.0, 30.0  # of Canny's hysteresis, in levels over two pixels: a pale cloud has edges
_BLUR = np.asarray([1, 4, 6, 4, 1], np.float32) / 16


def _shifted(map_: np.ndarray, down: int, right: int) -> np.ndarray:
    """The map at (y + down, x + right), zero outside."""
    height, width = map_.shape
    padded = np.pad(map_, 1)
    return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]


def reached(seed: np.ndarray, allowed: np.ndarray, diagonal: bool = False) -> np.ndarray:
    """What a region grows to over its neighbours: bool[H, W] twice -> bool[H, W].

    Args:
      seed: where it starts; what of it is not allowed is dropped.
      diagonal: over all eight neighbours instead of four.
    """
    steps = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)] if diagonal else []
    found, before = seed & allowed, -1
    while (count := np.count_nonzero(found)) != before:
        before = count
        for step in steps:
            found = found | (_shifted(found, *step) & allowed)
    return found


def edges(picture: np.ndarray) -> np.ndarray:
    """Canny's edge map of a picture: uint8[H, W, 3] -> uint8[H, W], 255 on edges, else 0.

    At each pixel the gradient is that of the channel where it is steepest, since yellow on white
    has hardly any in grey. The picture is blurred by a binomial of width 5; its sides repeat.
    """
    padded = np.pad(picture.astype(np.float32), ((3, 3), (3, 3), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    rows = sum(w * padded[i : i + height + 2] for i, w in enumerate(_BLUR))
    blurred = sum(w * rows[:, i : i + width + 2] for i, w in enumerate(_BLUR))
    middle, across = blurred[1:-1], blurred[:, 1:-1]
    dy, dx = across[2:] - across[:-2], middle[:, 2:] - middle[:, :-2]  # [H, W, C]
    steepest = np.hypot(dy, dx).argmax(-1)[..., None]
    dy, dx = (np.take_along_axis(one, steepest, -1)[..., 0] for one in (dy, dx))
    strength = np.hypot(dy, dx)
    sector = np.round(np.arctan2(dy, dx) / (np.pi / 4)).astype(int) % 4
    thin = np.zeros(strength.shape, bool)
    for number, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead, behind = _shifted(strength, down, right), _shifted(strength, -down, -right)
        thin |= (sector == number) & (strength >= ahead) & (strength > behind)
    kept = reached(thin & (strength >= HIGH), thin & (strength >= LOW), diagonal=True)
    return np.uint8(kept) * 255
