"""BLIP's cleaning of captions and questions, against its rules one by one; what it leaves empty."""

import re

import numpy as np
import pytest
from PIL import Image

from vlp_jax.api.export_tokenizer import tokenizer_files
from vlp_jax.core.errors import RunError
from vlp_jax.core.fields import Picture, Text
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.text import load_tokenizer
from vlp_jax.data.text.clean import CLEAN

MARKS = '.!"()*#:;~'
LETTERS = list("aBÉ9-?,'\t\n ’&" + MARKS)
CLEANED = {
    "blip": (' A dog, "two":(2)\nEND.~ ', "a dog, two 2 end"),
    "blip_30": ("x." * 31, " ".join("x" * 30)),
    "blip_question": ('Is it 7:30 (a.m.), or "p.m."?', "is it 730 am, or pm?"),
}


def test_every_rule_on_strings_of_odd_characters():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(LETTERS, rng.integers(0, 500))) for _ in range(200)]
    for text in texts:
        words = re.split(rf"[\s{re.escape(MARKS)}]+", text.lower())
        words = [word for word in words if word]
        assert CLEAN["blip"](text) == " ".join(words[:50])
        assert CLEAN["blip_30"](text) == " ".join(words[:30])
        kept = "".join(letter for letter in text.lower() if letter not in MARKS)
        assert CLEAN["blip_question"](text) == " ".join(kept.split()[:50])


@pytest.mark.parametrize("name", CLEANED)
def test_examples_and_their_ids_in_an_exported_tokenizer(name, tmp_path):
    text, wanted = CLEANED[name]
    assert CLEAN[name](text) == wanted
    ours = load_tokenizer("bytes", 60, clean=name)
    files, _, _ = tokenizer_files(
        {"name": "bytes", "context_length": 60, "options": {"clean": name}}, "hf", False
    )
    (tmp_path / "tokenizer.json").write_bytes(files["tokenizer.json"])
    theirs = load_tokenizer(str(tmp_path / "tokenizer.json"), 60, clean="none")
    np.testing.assert_array_equal(theirs([text, "A b."]), ours([text, "A b."]))
    assert ours.decode(ours([text])[0]) == wanted[:58]


def test_a_caption_of_which_nothing_is_left_is_damage(tmp_path):
    """Named with its place, whatever a template adds; without cleaning it is a caption."""
    for i in range(4):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("..!" if i == 2 else "A cat.")

    def batches(clean, **how):
        words = load_tokenizer("bytes", 20, clean=clean)
        fields = {"image": Picture(8), "text": Text(20, words.vocab_size)}
        data = {"path": str(tmp_path), "templates": ("see {c}",), "threads": 1, **how}
        made = TrainPipeline(data, fields, batch_size=4, seed=0, tokenizers={"text": words})
        rows = next(made.batches())["text"]
        return {words.decode(row) for row in rows}, made.dropped

    assert batches("whitespace") == ({"see A cat.", "see ..!"}, {})
    assert batches("blip", damage_budget=0.5) == ({"see a cat"}, {"empty_caption": 1})
    with pytest.raises(RunError, match=r"last: .*2(\.png)?: empty_caption; ") as error:
        batches("blip", damage_budget=0.0)
    assert "\n" not in str(error.value)
