"""Integers are class numbers, words are ranked, and what cannot be a class is told."""

import numpy as np
import pytest
from generated import encode, tar_bytes

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Label, Picture
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.labels import check_classes, class_list, open_classes
from vlp_jax.data.open import open_source
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.source import label_of

EMOJI = "builtin:emoji/noto-test"


def picture(grey=0):
    return encode(np.full((9, 9, 3), grey, np.uint8))


def pipeline(path, label, num_classes=1000, **config):
    config = {"path": str(path), "label": label, "threads": 1, **config}
    fields = {"image": Picture(8), "label": Label(num_classes, key="method.num_classes")}
    return TrainPipeline(config, fields, batch_size=8, seed=0)


def test_words_are_numbered_by_their_rank():
    source = open_source(EMOJI)
    classes = class_list(source, "category", "data.label")
    assert list(classes) == sorted({source.metadata(i)["meta"]["category"] for i in range(386)})
    assert len(classes) == 10
    stream = pipeline(EMOJI, "category", 10)
    batch = next(stream.batches(0))
    metas = [source.metadata(int(i))["meta"] for i in stream.order.index(np.arange(8))]
    assert [classes[i] for i in batch["label"]] == [meta["category"] for meta in metas]
    assert len(set(batch["label"].tolist())) > 1


def test_integers_stay_what_they_are(tmp_path):
    names = [
        m for i in (0, 3, 7) for m in ((f"{i}.png", picture()), (f"{i}.json", b'{"y": %d}' % i))
    ]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(names))
    assert class_list(open_source(str(path)), "y", "data.label") == ()
    found = pipeline(path, "y", 8, damage_budget=1.0)
    assert set(next(found.batches(0))["label"].tolist()) == {0, 3, 7}
    few = pipeline(path, "y", 7, damage_budget=1.0)  # 7 is no class of 7
    assert set(next(few.batches(0))["label"].tolist()) == {0, 3}
    assert dict(few.dropped) == {"unknown_class": 1}


def test_whole_floats_are_the_integers_that_they_stand_for(tmp_path):
    names = []
    for i, value in enumerate(("0.0", "3", "7.0", "NaN", "2.5", "null")):
        names += [(f"{i}.png", picture()), (f"{i}.json", b'{"y": %s}' % value.encode())]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(names))
    source = open_source(str(path))
    assert class_list(source, "y", "data.label") == ()
    check_classes(source, "y", "x")
    found = pipeline(path, "y", 8, damage_budget=1.0)
    assert set(next(found.batches(0))["label"].tolist()) == {0, 3, 7}
    assert dict(found.dropped) == {"no_label": 3}


def test_class_folders_give_rank_and_name(tmp_path):
    for name in ("cat", "ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(picture())
    source = open_source(str(tmp_path))
    assert open_classes(source, "label", 3) == range(3)
    assert open_classes(source, "class", 3) == ("ant", "bee", "cat")
    for i in range(3):
        by_rank = label_of(source[i], "label", range(3))
        assert by_rank == label_of(source[i], "class", ("ant", "bee", "cat")) == i


def test_what_cannot_be_a_class_is_refused(tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "0.png").write_bytes(picture())
    for key in ("label", "class"):
        with pytest.raises(UserError, match=f"data.label='{key}': there is only one class, 'only'"):
            pipeline(tmp_path, key)
        with pytest.raises(UserError, match=f"x='{key}': there is only one class, "):
            check_classes(open_source(str(tmp_path)), key, "x")
    for key in ("category", "keywords"):  # lists are for the evaluator to refuse
        check_classes(open_source(EMOJI), key, "x")
    with pytest.raises(UserError, match=r"has 10 classes but method.num_classes=9; make them"):
        pipeline(EMOJI, "category", 9)
    with pytest.raises(UserError, match="no sample has a number or a word"):
        class_list(open_source(EMOJI), "keywords", "data.label")
    with pytest.raises(UserError, match="did you mean 'category'"):
        class_list(open_source(EMOJI), "categry", "data.label")
    for value, classes, reason in (
        ("x", ("a", "b"), "unknown_class"),
        (2, range(2), "unknown_class"),
        ("a", (), "no_label"),
        (True, range(2), "no_label"),
        (["a"], ("a", "b"), "no_label"),
        (None, range(2), "no_label"),
    ):
        with pytest.raises(DamagedSample, match=reason):
            label_of({"meta": {"y": value}}, "y", classes)


def test_a_folders_own_classes_are_counted(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"x")
    source = open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"has 2 classes but the method has 99"):
        open_classes(source, "label", 99)
    assert list(open_classes(source, "label", 2)) == [0, 1]
