"""A data set in memory and embedders that need no model, for the tests of the evaluators."""

import io

import numpy as np
import pytest
from PIL import Image

from vlp_jax.data.damage import DamagedSample
from vlp_jax.evals.base import EvalContext

LENGTH = 24


class MemorySource:
    """Plain grey pictures: sample i has the grey value `greys[i]`; rows in `damaged` raise."""

    fingerprint = "memory"
    damage = ()

    def __init__(self, greys, texts=None, metas=None, damaged=()):
        self.greys, self.damaged = greys, damaged
        self.texts = texts or [[f"grey {g}"] for g in greys]
        self.metas = metas or [{} for _ in greys]

    def __len__(self):
        return len(self.greys)

    def metadata(self, i):
        return {"key": f"k{i}", "text": self.texts[i], "meta": self.metas[i]}

    def where(self, i):
        return f"memory: k{i}"

    def __getitem__(self, i):
        if i in self.damaged:
            raise DamagedSample("truncated")
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (self.greys[i],) * 3).save(file, "PNG")
        return {**self.metadata(i), "image": file.getvalue()}


@pytest.fixture
def memory_source():
    return MemorySource


def tokenize(texts):
    """Characters as ids, zero padded: int32[N, LENGTH]."""
    out = np.zeros((len(texts), LENGTH), np.int32)
    for row, text in zip(out, texts, strict=True):
        ids = [ord(c) for c in text][:LENGTH]
        row[: len(ids)] = ids
    return out


@pytest.fixture
def context():
    """Makes a context; batches of 4 rows unless told."""

    def make(batch_size=4, **settings):
        return EvalContext(tokenize, image_size=8, batch_size=batch_size, **settings)

    return make


@pytest.fixture
def directions():
    """Embedders through one table of random directions: grey g and a text ending in ' g' agree."""
    table = np.random.default_rng(0).normal(size=(256, 16)).astype(np.float32)

    def embed_image(batch):
        return table[batch["image"][:, 0, 0, 0]], batch["index"]

    def embed_text(batch):
        texts = ["".join(map(chr, row)).rstrip("\0") for row in batch["text"]]
        greys = [int(text.split()[-1]) if text else 0 for text in texts]
        return 3 * table[greys], batch["index"]

    return {"embed_image": embed_image, "embed_text": embed_text, "features": embed_image}
