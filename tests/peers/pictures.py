"""Pictures for parity tests: opaque, of odd sizes, as the bytes of files; one is an emoji of the embedded set."""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

import vlp_jax

SIZES = ((300, 200, "PNG"), (224, 224, "PNG"), (101, 397, "PNG"), (640, 427, "JPEG"), (1200, 803, "JPEG"))


def encoded_pictures():
    """Returns a list of encoded files."""
    rng = np.random.default_rng(0)
    found = []
    for width, height, kind in SIZES:
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((width, height), 3)
        noise = rng.normal(0, 12, (height, width, 3))
        picture = Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))
        file = io.BytesIO()
        picture.save(file, kind, quality=90)
        found.append(file.getvalue())
    return found + emoji(2)


def emoji(count):
    """Emoji as RGB PNG files: open_clip resizes palette pictures by nearest neighbour, which is not compared here."""
    shards = sorted((pathlib.Path(vlp_jax.__file__).parent / "data" / "emoji").glob("*.tar"))
    found = []
    for shard in shards[:1]:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".png") and len(found) < count:
                    file = io.BytesIO()
                    Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB").save(file, "PNG")
                    found.append(file.getvalue())
    return found


TEXTS = (
    "a photo of a cat",
    "A man, riding a wave on top of a surfboard!",
    "naïve café — 100% 🙂",
    "word " * 120,
)
