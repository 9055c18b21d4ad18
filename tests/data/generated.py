"""Small shards and pictures made on the spot."""

import io
import json
import tarfile
import zlib

import numpy as np
from PIL import Image

from vlp_jax.data.tar import TarSource


def encode(array, form="PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, form, **options)
    return out.getvalue()


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8[height, width, 3] with the spectrum of photographs: amplitude 1/f^1.2, weak chroma."""
    rng = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    frequency[0, 0] = 1
    noise = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency**0.6
    planes = np.fft.irfft2(noise, (height, width))
    planes = planes / planes.std((1, 2), keepdims=True)
    planes = planes * np.array([50, 15, 15])[:, None, None] + 128
    ycc = np.clip(planes.transpose(1, 2, 0), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB"))


PICTURE = encode(np.zeros((4, 4, 3), np.uint8))


def fill(root, *names):
    """Files below root: pictures, and texts that hold their own names. Returns root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        text = name.lower().endswith((".txt", ".json"))
        (root / name).write_bytes(name.encode() if text else PICTURE)
    return root


def sample(i: int, prefix: str = "s") -> list[tuple[str, bytes]]:
    """Members of one sample: a 12 x 10 picture that shows i, a caption ending in i, a label."""
    picture = encode(np.full((12, 10, 3), i % 256, np.uint8))
    key = f"{prefix}{i:04d}"
    meta = json.dumps({"label": i, "captions": [f"number {i}", f"also {i}"]}).encode()
    return [(f"{key}.png", picture), (f"{key}.txt", f"number {i}".encode()), (f"{key}.json", meta)]


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def headers(data: bytes) -> dict[str, tuple[int, int]]:
    """Name -> (offset of the header, length of the content)."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: (m.offset, m.size) for m in tar}


def read(path, members):
    """Opens a new tar of these members."""
    path.write_bytes(tar_bytes(members))
    return TarSource(str(path))


def keys_and_texts(source):
    """(key, captions...) of every sample."""
    found = map(source.metadata, range(len(source)))
    return [(example["key"], *example["text"]) for example in found]


def write_shards(folder, shards: int = 3, per_shard: int = 10) -> str:
    for s in range(shards):
        members = [m for i in range(per_shard) for m in sample(s * per_shard + i)]
        (folder / f"x-{s:03d}.tar").write_bytes(tar_bytes(members))
    return str(folder / f"x-{{000..{shards - 1:03d}}}.tar")


class NumberTokenizer:
    """The number that ends a caption, else the CRC-32 of the caption: int32[N, 1]."""

    def blank(self, text):
        return False

    def __call__(self, texts):
        words = [(text.split() or [""])[-1] for text in texts]
        numbers = [
            int(w) if w.isdecimal() else -1 - zlib.crc32(t.encode()) // 2
            for w, t in zip(words, texts, strict=True)
        ]
        return np.asarray(numbers, np.int32).reshape(-1, 1)
