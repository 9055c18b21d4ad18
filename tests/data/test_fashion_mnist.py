"""`data prepare fashion_mnist` on tiny IDX files made here."""

import gzip
import hashlib
import io
import struct

import numpy as np
import pytest
from PIL import Image

from vlp_jax.cli.data import main as data_main
from vlp_jax.core.errors import UserError
from vlp_jax.data import prepare_fashion_mnist as prepare
from vlp_jax.data.open import open_source
from vlp_jax.data.source import label_of


def write_idx(path, array):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def source(tmp_path):
    """(folder of the four files, {split: (pictures, labels)})."""
    rng, splits = np.random.default_rng(0), {}
    folder = tmp_path / "idx"
    folder.mkdir()
    for split, stem, count in (("train", "train", 25), ("test", "t10k", 7)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", labels)
        splits[split] = images, labels
    return folder, splits


def test_every_pixel_label_and_caption_arrives(source, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "PER_SHARD", 10)
    folder, splits = source
    out = tmp_path / "out"
    command = ["prepare", "fashion_mnist", f"--out={out}", f"--source={folder}", "--json"]
    assert data_main(command) == 0
    for split, (images, labels) in splits.items():
        found = open_source(str(out / f"fashion_mnist-{split}-*.tar"))
        assert len(found) == len(labels)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            example = found[i]
            pixels = np.asarray(Image.open(io.BytesIO(example["image"])))
            np.testing.assert_array_equal(pixels, image)
            assert label_of(example, "label") == label
            assert example["meta"]["class"] == prepare.CLASSES[label]
            assert example["text"] == [prepare.CAPTIONS[label]]
    assert prepare.CAPTIONS[7] == "a photo of a sneaker"
    assert prepare.CAPTIONS[9] == "a photo of an ankle boot"


def test_the_tars_are_reproducible(source, tmp_path):
    reports = [prepare.main(str(tmp_path / name), str(source[0])) for name in ("one", "two")]
    assert reports[0] == reports[1]
    assert reports[0]["digest_train"] != reports[0]["digest_test"]
    for name in reports[0]["shards"]:
        one, two = ((tmp_path / part / name).read_bytes() for part in ("one", "two"))
        assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()


def test_bad_files_are_named(source, tmp_path):
    folder, out = source[0], tmp_path / "out"
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    for damage, message in (
        (lambda: write_idx(labels, np.full(7, 10, np.uint8)), "do not fit"),
        (lambda: write_idx(labels, np.zeros(6, np.uint8)), "do not fit"),
        (lambda: labels.write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(9))), "no IDX file"),
        (lambda: labels.write_bytes(b"plain"), "cannot be read"),
        (labels.unlink, "lacks t10k-labels-idx1-ubyte.gz; Debian"),
    ):
        damage()
        with pytest.raises(UserError, match=message) as caught:
            prepare.main(str(out), str(folder))
        assert (
            str(folder) in str(caught.value)
            and "t10k" in str(caught.value)
            and "\n" not in str(caught.value)
        )
        assert not out.exists()
    with pytest.raises(UserError, match="--out"):
        data_main(["prepare", "fashion_mnist"])


def test_without_a_package_manager_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="--source=DIR"):
        prepare.fetch(str(tmp_path))
