"""The tiny model of the commands' tests, and folders made of numbers."""

import numpy as np
import pytest
from cli.conftest import tiny_arch, tiny_file, tiny_folder  # noqa: F401

pa = pytest.importorskip("pyarrow", reason="pyarrow (extra `search`) is not installed")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def rows():
    """float32[50, 16] of unit norm."""
    return unit(np.random.default_rng(0).normal(size=(50, 16))).astype(np.float32)


@pytest.fixture
def foreign(tmp_path, rows):
    """A folder as clip-retrieval writes it: 12 parts, whose numbers are not padded."""
    import pyarrow.parquet as pq

    folder = tmp_path / "foreign"
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for part, ids in enumerate(np.array_split(np.arange(50), 12)):
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", rows[ids].astype(np.float16))
        np.save(folder / "text_emb" / f"text_emb_{part}.npy", rows[ids[::-1]].astype(np.float16))
        table = {
            "image_path": [f"/data/{i:02d}.jpg" for i in ids],
            "caption": [f"picture {i}" for i in ids],
            "width": [int(i) for i in ids],
        }
        if part:
            table["style"] = ["noto" if i % 2 else "twemoji" for i in ids]
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{part}.parquet")
    return folder
