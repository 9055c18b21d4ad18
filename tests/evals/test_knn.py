"""The weighted vote against a loop, and the evaluator end to end."""

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import make_evaluator
from vlp_jax.evals.knn import vote


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_vote_equals_a_loop(temperature):
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.uniform(-1, 1, (40, 6)), axis=1)
    label = rng.integers(0, 4, (40, 6))
    expected = []
    for row, classes in zip(scores, label, strict=True):
        total = [0.0] * 4
        for s, c in zip(row, classes, strict=True):
            total[c] += np.exp(s / temperature)
        expected.append(int(np.argmax(total)))
    assert vote(scores, label, 4, temperature).tolist() == expected


def test_one_near_neighbour_outvotes_two_far_ones_only_at_a_low_temperature():
    scores, label = np.array([[0.9, 0.7, 0.7]]), np.array([[1, 0, 0]])
    assert vote(scores, label, 2, 0.07).tolist() == [1]
    assert vote(scores, label, 2, 1.0).tolist() == [0]


def test_evaluator_matches_brute_force(memory_source, context):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(256, 3)) * rng.uniform(0.1, 10, (256, 1))

    def features(batch):
        return table[batch["image"][:, 0, 0, 0]].astype(np.float32), batch["index"]

    bank, queries = list(range(0, 60)), list(range(60, 250))
    label = rng.integers(0, 3, 250)
    sources = [memory_source(g, metas=[{"c": f"c{label[i]}"} for i in g]) for g in (bank, queries)]
    cfg = {"train": sources[0], "path": sources[1], "label": "c", "k": (1, 5), "temperature": 1}
    result = make_evaluator("knn", cfg, context(batch_size=8))({"features": features})
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    for k in (1, 5):
        hits = []
        for q in queries:
            near = sorted(bank, key=lambda b: -unit[q] @ unit[b])[:k]
            votes = [
                sum(np.exp(unit[q] @ unit[b]) for b in near if label[b] == c) for c in range(3)
            ]
            hits.append(int(np.argmax(votes) == label[q]))
        assert result.metrics[f"top1_k{k}"] == pytest.approx(np.mean(hits))
    assert result.metrics["top1_k1"] != result.metrics["top1_k5"]
    assert result.metrics["chance_top1"] == pytest.approx(1 / 3)


def test_a_class_that_the_bank_lacks_is_refused_before_any_picture(memory_source, context):
    def features(batch):
        raise AssertionError("a picture was read")

    sources = [
        memory_source([1] * len(names), metas=[{"c": name} for name in names])
        for names in (("dog", "cat"), ("dgo",))
    ]
    cfg = {"train": sources[0], "path": sources[1], "label": "c"}
    with pytest.raises(UserError, match="unknown class 'dgo'; did you mean 'dog'"):
        make_evaluator("knn", cfg, context())({"features": features})


def test_one_class_is_nothing_to_tell_apart(memory_source, context):
    source = memory_source([1, 2], metas=[{"c": "dog"}] * 2)
    config = {"train": source, "path": source, "label": "c"}
    knn = make_evaluator("knn", config, context())
    with pytest.raises(UserError, match="label='c': there is only one class, 'dog'"):
        knn({"features": lambda batch: None})
