"""Every evaluator and every picture on the embedded emoji set, with colours as embeddings."""

import os

import numpy as np
import pytest
from PIL import Image

from vlp_jax.data.open import open_source
from vlp_jax.evals.base import make_evaluator
from vlp_jax.evals.kits.figures import evenly
from vlp_jax.report.gallery import draw_results

TEST = "builtin:emoji/noto-test"
VAL = "builtin:emoji/noto-val"


def colours(batch):
    """Mean colour of a 4 x 4 grid, around grey: float32[b, 48]."""
    image = batch["image"].astype(np.float32) / 127.5 - 1
    size = image.shape[1] // 4
    cells = image.reshape(len(image), 4, size, 4, size, 3).mean(axis=(2, 4))
    return cells.reshape(len(image), -1), batch["index"]


@pytest.fixture(scope="module")
def oracle():
    """A text embedder that knows each caption's picture, as sees it `colours`; other texts are
    noise."""
    from vlp_jax.data.evaluation import eval_batches

    source = open_source(TEST)
    rows = np.zeros((len(source), 48), np.float32)
    for batch in eval_batches(source, batch_size=64, image_size=16):
        keep = batch["index"] >= 0
        rows[batch["index"][keep]] = colours(batch)[0][keep]
    table = {}
    for i in range(len(source)):
        for text in source.metadata(i)["text"]:
            table.setdefault(text[:24], rows[i])

    def embed(batch):
        texts = ["".join(map(chr, row)).rstrip("\0") for row in batch["text"]]
        noise = np.random.default_rng(0).normal(size=48)
        return np.stack([table.get(t, noise) for t in texts]).astype(np.float32), batch["index"]

    return {"embed_image": colours, "embed_text": embed, "features": colours}


def small(context):
    context = context(batch_size=64)
    object.__setattr__(context, "image_size", 16)
    return context


def test_retrieval_and_its_pictures(oracle, context, tmp_path):
    cfg = {"path": TEST, "limit": 90}
    result = make_evaluator("retrieval", cfg, small(context))(oracle)
    # texts are cut to 24 characters, so skin tones share a text row; the colours still find most
    assert 0.4 < result.metrics["i2t_r1"] <= 1
    assert result.metrics["i2t_r1"] > 30 * result.metrics["chance_i2t_r1"]
    assert result.protocol["images"] == 90
    drawn = draw_results({"cross": result}, str(tmp_path), scale=20.0)
    assert len(drawn) == 4
    for path in drawn.values():
        with Image.open(path) as image:
            assert min(image.size) > 300
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(p) for p in drawn.values())


def test_colours_tell_flags_from_people(oracle, context):
    cfg = {"train": VAL, "path": TEST, "label": "category"}
    knn = make_evaluator("knn", cfg, small(context))(oracle)
    assert knn.metrics["top1_k1"] > 3 * knn.metrics["chance_top1"]
    assert knn.protocol["images"] == len(open_source(TEST))


def test_categories_come_from_the_data(oracle, context):
    cfg = {"path": TEST, "label": "category", "templates": "imagenet7", "limit": 50}
    result = make_evaluator("zeroshot", cfg, small(context))(oracle)
    found = {open_source(TEST).metadata(i)["meta"]["category"] for i in range(386)}
    assert set(result.details["names"]) <= found and len(result.details["names"]) > 5
    assert sum(row["images"] for row in result.tables["per_class"]) == 50


def test_evenly_spaced_rows():
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(3, 9).tolist() == [0, 1, 2]
