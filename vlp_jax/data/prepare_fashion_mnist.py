"""Builds Fashion-MNIST (arXiv:1708.07747; MIT licence) as labelled, captioned WebDataset tars.

The four IDX files (http://yann.lecun.com/exdb/mnist, "file formats") come from a folder or from
Debian's package `dataset-fashion-mnist`, which is unpacked beside, not installed, so that no
rights are needed. The file exists so that one labelled set of 70,000 pictures is at hand without a
hub.
"""

import gzip
import io
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.export import write_tar
from vlp_jax.data.index import open_index
from vlp_jax.data.source import Example, digest

PACKAGE = "dataset-fashion-mnist"
FOLDER = "usr/share/datasets/fashion-mnist"  # inside the package
CLASSES = (
    *("t-shirt", "trousers", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
ARTICLES = ("a", "a pair of", "a", "a", "a", "a", "a", "a", "a", "an")
CAPTIONS = tuple(f"a photo of {a} {name}" for a, name in zip(ARTICLES, CLASSES, strict=True))
SPLITS = {"train": "train", "test": "t10k"}  # our name -> the files'
KINDS = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
PER_SHARD = 10_000


def read_idx(path: str) -> np.ndarray:
    """The array of a gzipped IDX file: uint8 of the shape in its header.

    Raises:
      UserError: the file is missing, no gzip, no IDX of bytes, or of another length.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    rank = data[3] if data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data[4 : 4 + 4 * rank], ">i4").tolist()
    if not rank or len(data) != 4 + 4 * rank + math.prod(shape):
        raise UserError(f"{path}: no IDX file of bytes, or cut short")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def fetch(folder: str) -> str:
    """Downloads and unpacks the Debian package below `folder`; returns where its files lie.

    Raises:
      UserError: no apt-get and dpkg here; RunError: they failed.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise UserError(
            f"data prepare fashion_mnist needs apt-get and dpkg for Debian's {PACKAGE}, "
            "or --source=DIR with its four *-ubyte.gz files"
        )
    for command in (f"apt-get download {PACKAGE}", f"dpkg -x {PACKAGE}_*.deb ."):
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise RunError(f"{command} failed: {last}; `apt-get update` first, or give --source")
    return os.path.join(folder, FOLDER)


def examples(images: np.ndarray, labels: np.ndarray, start: int = 0) -> Iterator[Example]:
    """Samples from uint8[N, H, W] and uint8[N]: grey PNG, caption, {"label", "class"}."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), start):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        meta = {"label": label, "class": CLASSES[label]}
        row = {"key": f"{number:09d}", "image": file.getvalue(), "text": [CAPTIONS[label]]}
        yield {**row, "meta": meta}


def read_split(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8[N, H, W] pictures and uint8[N] labels of `train` or `test`.

    Raises:
      UserError: see `read_idx`; or the two files do not belong together.
    """
    stem = os.path.join(source, SPLITS[split])
    images, labels = (read_idx(f"{stem}-{kind}") for kind in KINDS)
    fits = images.ndim == 3 and labels.shape == images.shape[:1] and len(labels)
    if not fits or labels.max() >= len(CLASSES):
        raise UserError(f"{stem}-*: pictures {images.shape} and labels {labels.shape} do not fit")
    return images, labels


def main(out: str, source: str = "") -> dict:
    """Writes fashion_mnist-{train,test}-NNNN.tar with their indices to `out`.

    Args:
      out: folder, created.
      source: folder of the four files; empty: an installed or downloaded Debian package.

    Returns:
      a report: samples per shard, and per split the digest of pictures and labels.

    Raises:
      UserError, RunError: the files are not to be had or damaged; nothing is written then.
    """
    installed = os.path.join("/", FOLDER)
    source = source or (installed if os.path.isdir(installed) else "")
    with tempfile.TemporaryDirectory() as folder:
        read_from = source or fetch(folder)
        names = [f"{split}-{kind}" for split in SPLITS.values() for kind in KINDS]
        missing = [name for name in names if not os.path.isfile(os.path.join(read_from, name))]
        if missing:
            text = f"lacks {', '.join(missing)}; Debian's package {PACKAGE} has them"
            raise UserError(f"{read_from}: {text}")
        splits = {split: read_split(read_from, split) for split in SPLITS}
    os.makedirs(out, exist_ok=True)
    report: dict = {"shards": {}}
    for split, (images, labels) in splits.items():
        report[f"digest_{split}"] = digest([images.tobytes(), labels.tobytes()])
        for number, start in enumerate(range(0, len(images), PER_SHARD)):
            name = f"fashion_mnist-{split}-{number:04d}.tar"
            path, rows = os.path.join(out, name), slice(start, start + PER_SHARD)
            report["shards"][name] = write_tar(path, examples(images[rows], labels[rows], start))
            open_index(path, rebuild=True)
    return report
