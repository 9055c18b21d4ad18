"""Accuracy of logits on labelled sources: numbers by hand, padding and damage left out."""

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.evals.accuracy import Accuracy

GREYS = [10, 20, 30, 40, 50, 60, 70]
LABELS = [0, 1, 2, 0, 1, 2, 0]


def classifier(right):
    """Logits that are right for the greys in `right` and one class too high for the others."""

    def classify(batch):
        greys = batch["image"][:, 0, 0, 0]
        truth = dict(zip(GREYS, LABELS, strict=True))
        guess = [(truth.get(int(g), 0) + (int(g) not in right)) % 3 for g in greys]
        return np.eye(3, dtype=np.float32)[guess], batch["index"]

    return {"classify": classify}


def run(context, source, right, **keys):
    return Accuracy(context(), path=source, label="y", **keys)(classifier(right))


def test_numbers_by_hand(memory_source, context):
    source = memory_source(GREYS, metas=[{"y": y} for y in LABELS])
    found = run(context, source, {10, 20, 30, 40})  # batches of 4: one row of padding
    assert found.metrics["top1"] == pytest.approx(4 / 7)
    assert found.metrics["mean_per_class"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found.metrics["top5"] == 1 and found.metrics["chance_top1"] == pytest.approx(1 / 3)
    assert found.metrics["majority_top1"] == pytest.approx(3 / 7)
    rows = {row["class"]: (row["images"], row["recall"]) for row in found.tables["per_class"]}
    assert rows == {"0": (3, pytest.approx(2 / 3)), "1": (2, 0.5), "2": (2, 0.5)}


def test_damaged_pictures_are_left_out(memory_source, context):
    source = memory_source(GREYS, metas=[{"y": y} for y in LABELS], damaged=(4, 5))
    found = run(context, source, {10, 20, 30, 40})
    assert found.metrics["top1"] == pytest.approx(4 / 5)
    assert found.protocol == {"images": 5, "damaged": 2}


def test_words_are_numbered_by_the_training_set(memory_source, context):
    words = ["ant", "bee", "cat"]
    train = memory_source(GREYS[:3], metas=[{"y": w} for w in words])
    test = memory_source(GREYS[1:3], metas=[{"y": w} for w in words[1:]])  # no ant: ranks differ
    assert run(context, test, GREYS, train=train).metrics["top1"] == 1
    assert run(context, test, (), train=train).metrics["top1"] == 0
    with pytest.raises(UserError, match="3 classes but label='y' has 2; set `train`"):
        run(context, test, GREYS)
    other = memory_source(GREYS[:2], metas=[{"y": "bea"}, {"y": "cat"}])
    with pytest.raises(UserError, match="unknown class 'bea'; did you mean 'bee'"):
        run(context, other, GREYS, train=train)


def test_a_class_that_the_model_lacks_is_refused(memory_source, context):
    source = memory_source(GREYS, metas=[{"y": y + 1} for y in LABELS])
    with pytest.raises(UserError, match="unknown class 3"):
        run(context, source, GREYS)
