"""The zero-shot classifier against loops, and that averaging embeddings is not averaging logits."""

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import make_evaluator
from vlp_jax.evals.zeroshot import classifier, score

NAMES, TEMPLATES = ["ant", "bee", "cow"], ("x {c}", "yy {c} z", "{c}")


def lookup(seed=0, dim=4):
    """A text embedder of random rows of very different norms, and its table."""
    table = {}
    rng = np.random.default_rng(seed)

    def embed(text):
        if text not in table:
            table[text] = rng.normal(size=dim) * 10 ** rng.uniform(-1, 1)
        return table[text]

    def fn(batch):
        texts = ["".join(map(chr, row)).rstrip("\0") for row in batch["text"]]
        return np.stack([embed(t) for t in texts]).astype(np.float32), batch["index"]

    return fn, embed


def test_classifier_normalises_averages_and_normalises(context):
    fn, embed = lookup()
    weights = classifier(fn, NAMES, TEMPLATES, context())
    for row, name in zip(weights, NAMES, strict=True):
        total = np.zeros(4)
        for template in TEMPLATES:
            vector = embed(template.format(c=name))
            total += vector / np.sqrt(np.sum(vector**2))
        np.testing.assert_allclose(row, total / np.sqrt(np.sum(total**2)), rtol=1e-5)


def test_averaging_logits_would_choose_differently(context):
    fn, embed = lookup()
    weights = classifier(fn, NAMES, TEMPLATES, context())
    rng = np.random.default_rng(1)
    image = rng.normal(size=(200, 4))
    prompts = np.array([[embed(t.format(c=n)) for t in TEMPLATES] for n in NAMES])
    prompts /= np.linalg.norm(prompts, axis=-1, keepdims=True)
    averaged_logits = np.einsum("nd,ctd->nc", image, prompts)
    assert (averaged_logits.argmax(1) != (image @ weights.T).argmax(1)).mean() > 0.05


def test_scores_equal_a_loop():
    rng = np.random.default_rng(3)
    image, weights = rng.normal(size=(60, 5)), rng.normal(size=(7, 5))
    label = rng.integers(0, 6, 60)  # class 6 never occurs
    metrics, table = score(image.astype("f"), weights.astype("f"), label, list("abcdefg"))
    order = np.argsort(-(image @ weights.T), axis=1)
    assert metrics["top1"] == pytest.approx(np.mean(order[:, 0] == label))
    assert metrics["top5"] == pytest.approx(
        np.mean([c in o[:5] for c, o in zip(label, order, strict=True)])
    )
    recalls = [np.mean(order[label == c, 0] == c) for c in range(6)]
    assert metrics["mean_per_class"] == pytest.approx(np.mean(recalls))
    assert metrics["chance_top1"] == pytest.approx(1 / 7)
    assert [row["recall"] for row in table] == pytest.approx(recalls)
    assert [row["images"] for row in table] == np.bincount(label).tolist()
    for c, row in enumerate(table):
        wrong = [o[0] for o in order[label == c] if o[0] != c]
        counts = np.bincount(wrong, minlength=7)
        assert row["most often taken for"] in {
            "abcdefg"[i] for i in np.flatnonzero(counts == counts.max())
        }


def test_a_tie_with_the_right_class_is_a_miss():
    weights = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    metrics, table = score(weights[:1], weights, np.array([0]), ["a", "b", "c"])
    assert metrics["top1"] == 0 and metrics["top5"] == 1
    assert table[0]["most often taken for"] == "b"


def zeroshot(source, context, fns, **cfg):
    return make_evaluator("zeroshot", {"path": source, "templates": "t {c}", **cfg}, context)(fns)


def test_from_json_labels(memory_source, context, directions):
    source = memory_source([7, 7, 60, 9], metas=[{"n": f"g {g}"} for g in (7, 7, 60, 60)])
    result = zeroshot(source, context(), directions, label="n")
    assert result.details["names"] == ["g 60", "g 7"]
    assert result.tables["per_class"][1] == {
        "class": "g 7", "images": 2, "recall": 1.0, "most often taken for": "",
    }  # fmt: skip
    assert result.metrics["top1"] in (0.75, 1.0)
    sliced = zeroshot(source, context(batch_size=3), directions, label="n")
    assert sliced.metrics == result.metrics
    with pytest.raises(UserError, match="no JSON key 'm'"):
        zeroshot(source, context(), directions, label="m")


def test_lists_of_labels_give_average_precision(memory_source, context, directions):
    values = [["g 7", "g 60"], ["g 60"], ["g 7"], ["g 200"]]
    source = memory_source([7, 60, 7, 200], metas=[{"n": v} for v in values])
    result = zeroshot(source, context(), directions, label="n")
    table = {row["class"]: row for row in result.tables["per_class"]}
    assert table["g 200"]["ap"] == 1 and table["g 7"]["ap"] == 1 and table["g 7"]["images"] == 2
    mean = np.mean([row["ap"] for row in table.values()])
    assert result.metrics["map"] == pytest.approx(mean)
    assert result.metrics["chance_map"] == pytest.approx(5 / 12)


def test_the_prompts_are_told(memory_source, context, directions):
    source = memory_source([7, 60], metas=[{"n": f"g {g}"} for g in (7, 60)])
    result = zeroshot(source, context(), directions, label="n", templates=["t {c}", "my {c}"])
    assert result.tables["prompts"] == [
        {"template": "t {c}", "prompt": "t g 60"},
        {"template": "my {c}", "prompt": "my g 60"},
    ]
    assert result.protocol["names"] == "n"


@pytest.mark.parametrize("numbers", [(7, 60), ("7", "60"), (7.0, 60.0), ([7, 60], [60])])
def test_numbers_are_no_names(memory_source, context, directions, numbers, tmp_path):
    texts = ("g 7", "g 60")
    metas = [{"label": y, "kind": t} for y, t in zip(numbers, texts, strict=True)]
    message = (
        r"label='label' holds numbers, and a prompt would say 'a photo of a 7(.0)?'; set `label` "
        r"to a JSON key of words \(kind\) or `classes` to a file of names"
    )
    with pytest.raises(UserError, match=message):
        zeroshot(memory_source([7, 60], metas=metas), context(), directions, label="label")
    both = [{**meta, "class": meta["kind"]} for meta in metas]
    result = zeroshot(memory_source([7, 60], metas=both), context(), directions, label="label")
    assert result.details["names"] == ["g 60", "g 7"] and result.metrics["top1"] == 1
    assert result.protocol["names"] == "class"
    if isinstance(numbers[0], int):  # a file of names needs no words
        (tmp_path / "n.json").write_text('{"7": "g 7", "60": "g 60"}')
        fns = {"label": "label", "classes": str(tmp_path / "n.json")}
        result = zeroshot(memory_source([7, 60], metas=metas), context(), directions, **fns)
        assert result.details["names"] == ["g 7", "g 60"]


def test_classes_of_one_name_are_one_class(memory_source, context, directions, tmp_path):
    """Names g 7, g 60, g 7: a picture of either 7 is right; the released argmax finds the first."""
    (tmp_path / "n.json").write_text('["g 7", "g 60", "g 7"]')
    source = memory_source([7, 60, 7, 7], metas=[{"y": y} for y in (0, 1, 2, 2)])
    cfg = {"label": "y", "classes": str(tmp_path / "n.json")}
    result = zeroshot(source, context(), directions, **cfg)
    assert result.metrics["top1"] == 1 and result.metrics["top1_first_of_equal"] == 0.5
    assert result.metrics["chance_top1"] == 0.5 and result.details["names"] == ["g 7", "g 60"]
    assert [(row["class"], row["images"]) for row in result.tables["per_class"]] == [
        ("g 7", 3),
        ("g 60", 1),
    ]
    lists = memory_source([7, 60, 7], metas=[{"y": y} for y in ([0], [1], [2])])
    result = zeroshot(lists, context(), directions, **cfg)
    assert [(row["class"], row["ap"]) for row in result.tables["per_class"]] == [
        ("g 7", 1),
        ("g 60", 1),
    ]
    distinct = memory_source([7, 60], metas=[{"y": f"g {g}"} for g in (7, 60)])
    found = zeroshot(distinct, context(), directions, label="y").metrics
    assert "top1_first_of_equal" not in found
