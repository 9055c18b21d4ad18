"""One picture of every training concept in many renderings, after CLIP's slide of bananas
(arXiv:2103.00020 figure 13).

Every rendering but the other style is a function of the pixels alone. The file exists so that the
test sets of `repro robustness` are ordinary tars: it writes them.
"""

import io
import os
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vlp_jax.augment.colour import grey
from vlp_jax.augment.filters import crop, cutout, edges
from vlp_jax.augment.rand_augment import LEVELS, rotation, warp
from vlp_jax.core.types import Array
from vlp_jax.data.export import write_tar
from vlp_jax.data.open import open_source
from vlp_jax.data.source import Example, Source

TRAIN, OTHER = "builtin:emoji/noto-train", "builtin:emoji/twemoji-train"
REFERENCE, OTHER_STYLE = "training style", "other style"
HIDDEN = 0.5  # side of the black square, of the picture's


def _grey(image: Array, key: Array) -> Array:
    """Its luma in all channels."""
    return jnp.broadcast_to(grey(image), image.shape)


def _sketch(image: Array, key: Array) -> Array:
    """The edges of its luma as dark lines on white."""
    return 255 - edges(_grey(image, key))


def _inverted(image: Array, key: Array) -> Array:
    """255 - x."""
    return 255 - image


def _tilted(image: Array, key: Array) -> Array:
    """Turned by 30 degrees on white; a quarter would make other emoji of the arrows."""
    return warp(image, rotation(LEVELS, 1.0, image.shape[:2]), jnp.full(3, 255.0))


def _small(image: Array, key: Array) -> Array:
    """At half its side in the middle of a white picture."""
    return 255 - crop(255 - image, jnp.full(2, 2.0), jnp.full(2, -0.5))


def _hidden(image: Array, key: Array) -> Array:
    """Behind a black square, whose place follows from the pixels."""
    return cutout(image, key, HIDDEN)


RENDERINGS: Mapping[str, Callable[[Array, Array], Array]] = {
    "grey": _grey,
    "sketch": _sketch,
    "inverted": _inverted,
    "tilted": _tilted,
    "small": _small,
    "partly hidden": _hidden,
}
NAMES = (REFERENCE, OTHER_STYLE, *RENDERINGS)


@cache
def _batched(name: str) -> Callable[[Array, Array], Array]:
    def run(images: Array, seeds: Array) -> Array:
        keys = jax.vmap(jax.random.key)(seeds)
        out = jax.vmap(RENDERINGS[name])(images.astype(jnp.float32), keys)
        return jnp.clip(jnp.round(out), 0, 255).astype(jnp.uint8)

    return jax.jit(run)


def render(name: str, images: np.ndarray) -> np.ndarray:
    """uint8[B, H, W, 3] in a rendering of RENDERINGS, the same for the same pixels."""
    seeds = np.asarray([zlib.crc32(image.tobytes()) for image in images], np.uint32)
    return np.asarray(_batched(name)(images, seeds))


def one_of_each(source: Source) -> list[int]:
    """Rows of the emoji that give each concept its name: no skin tone, neutral, facing left."""
    metas = [source.metadata(i) for i in range(len(source))]
    return [i for i, m in enumerate(metas) if m["key"].upper() == m["meta"]["concept"]]


def examples(path: str) -> list[Example]:
    """Those samples of a set."""
    source = open_source(path)
    return [{**source[i], "members": {}} for i in one_of_each(source)]


def decoded(data: bytes) -> np.ndarray:
    """uint8[H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def set_path(folder: Path, name: str) -> str:
    """The tar of a rendering."""
    return f"{folder / name.replace(' ', '_')}.tar"


def write_sets(folder: Path) -> None:
    """Writes the tar of every rendering, anew: an old one may be of other code."""
    folder.mkdir(parents=True, exist_ok=True)
    own = examples(TRAIN)
    pictures = np.stack([decoded(one["image"]) for one in own])
    for name in NAMES:
        path = set_path(folder, name)
        found = examples(OTHER) if name == OTHER_STYLE else own
        if name in RENDERINGS:
            images = map(_png, render(name, pictures))
            found = [{**one, "image": data} for one, data in zip(own, images, strict=True)]
        write_tar(f"{path}.part", found)
        os.replace(f"{path}.part", path)
