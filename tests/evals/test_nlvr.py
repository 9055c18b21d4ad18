"""Sentences about two pictures: accuracy, consistency by sentence, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.data.open import open_source
from vlp_jax.data.text import load_tokenizer
from vlp_jax.evals.base import EvalContext, make_evaluator
from vlp_jax.evals.nlvr import consistent

TOKENIZER = load_tokenizer("bytes", 20)
ROWS = [  # set, pair, sentence of the set, words, label, grey of both pictures
    (7, 0, 0, "left is dark", "True", 10, 90),
    (7, 1, 0, "left is dark", "False", 90, 10),
    (7, 0, 1, "right is dark", "False", 10, 90),
    (8, 0, 0, "left is dark", "True", 90, 10),  # a wrong label
    (8, 1, 0, "left is dark", "True", 20, 30),
]


@pytest.fixture
def path(tmp_path):
    rows = []
    for number, pair, of, words, label, one, two in ROWS:
        name = f"dev-{number}-{pair}"
        for i, grey in enumerate((one, two)):
            Image.new("RGB", (8, 8), (grey,) * 3).save(tmp_path / f"{name}-img{i}.png")
        rows.append({"sentence": words, "label": label, "identifier": f"{name}-{of}"})
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "dev.json"


def judge(batch):
    """Whether the side that the text names is the darker one."""
    assert batch["text_mask"].shape == batch["text"].shape and (batch["text"][:, 0] == 9).all()
    texts = [TOKENIZER.decode(row[m][1:]) for row, m in zip(batch["text"], batch["text_mask"],
                                                            strict=True)]  # fmt: skip
    one, two = (batch[k][:, 0, 0, 0].astype(float) for k in ("image", "second_image"))
    side = np.where(["left" in text for text in texts], two - one, one - two)
    return np.stack([-side, side], 1).astype(np.float32), batch["index"]


def run(path, fn=judge, **config):
    context = EvalContext(TOKENIZER, image_size=8, batch_size=2, masked=True)
    made = make_evaluator("nlvr", {"path": str(path), **config}, context)
    made.check({"path": open_source(str(path))}, "evals.pairs")
    reads = {"pair_logits": {"text": Text(20, 259, mask=True, mark=9)}}
    return dataclasses.replace(made, reads=reads)({"pair_logits": fn})


def test_accuracy_and_consistency(path):
    found = run(path)
    assert found.metrics["accuracy"] == pytest.approx(4 / 5)
    # dev-7 sentence 0 and 1 are right about all their pairs, that of dev-8 is not
    assert found.metrics["consistency"] == pytest.approx(2 / 3)
    assert found.metrics["chance_accuracy"] == pytest.approx(3 / 5)
    assert found.tables["labels"][1] == {"label": "true", "pairs": 3, "accuracy": 2 / 3}
    assert found.protocol == {"pairs": 5, "sentences": 3, "damaged": 0}
    words = run(path, identifier="")  # two sentences by their words
    assert words.metrics["consistency"] == pytest.approx(1 / 2)
    assert consistent([False, True], ["a", "a"]) == {"a": False}
    turned = run(path, first="second_image", second="image")
    assert turned.metrics["accuracy"] == pytest.approx(1 / 5)


def test_a_pair_that_lacks_a_picture_is_left_out(path):
    (path.parent / "dev-7-0-img1.png").unlink()  # the first and the third row's
    found = run(path)
    assert found.metrics["accuracy"] == pytest.approx(2 / 3) and found.protocol["damaged"] == 2


def test_what_is_refused(path):
    for config, message in (
        ({"label": "labels"}, "evals.pairs.label='labels': .* did you mean 'label'"),
        ({"second": "second_imag"}, "evals.pairs.second='second_imag': .* 'second_image'"),
        ({"sentence": "sentense"}, "evals.pairs.sentence='sentense': .* did you mean 'sentence'"),
        ({"label": "identifier"}, "label='dev-7-0-0': must be true or false"),
    ):
        with pytest.raises(UserError, match=message):
            run(path, **config)
