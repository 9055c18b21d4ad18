"""Captions against their negatives: Winoground and SugarCrepe as released, through the real
readers."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.text.bytes import ByteTokenizer
from vlp_jax.evals.base import EvalContext, make_evaluator
from vlp_jax.evals.compositional import paired
from vlp_jax.report.gallery import draw_results

TOKENIZER = ByteTokenizer(context_length=24)
CONTEXT = EvalContext(TOKENIZER, image_size=8, batch_size=3)
SCORE = {}  # (grey, caption): score, where a test says so


def picture(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey,) * 3).save(path)


def texts_of(batch):
    assert (batch["text"][:, 0] == 9).all()
    return [TOKENIZER.decode([TOKENIZER.sot_id, *row[1:]]) for row in batch["text"]]


def match(batch):
    texts = texts_of(batch)
    pairs = zip(batch["image"][:, 0, 0, 0].tolist(), texts, strict=True)
    hit = np.float32([SCORE.get(pair, 0) for pair in pairs])
    both = np.float32([9 if text.endswith("b") else 3 for text in texts])  # says nothing
    return np.stack([both, both + hit], axis=1), batch["index"]


def run(path, fns, **config):
    made = make_evaluator("compositional", {"path": path, **config}, CONTEXT)
    sources = {"path": open_pool(path)}
    made.check(sources, "evals.c")
    reads = {"match": {"text": Text(24, 259, mask=True, mark=9)}}
    return dataclasses.replace(made, reads=reads)(fns)


@pytest.fixture
def winoground(tmp_path):
    """Three examples with pictures of greys 0 to 50 in a folder `images`, the last one damaged."""
    lines = []
    for number, tag in enumerate(("Object", "Relation", "Object")):
        line = {"id": number, "tag": "Noun", "collapsed_tag": tag}
        for side in (0, 1):
            line[f"image_{side}"] = f"ex_{number}_img_{side}"
            line[f"caption_{side}"] = f"{number} {'ab'[side]}"
            picture(tmp_path / "images" / f"ex_{number}_img_{side}.png", 20 * number + 10 * side)
        lines.append(json.dumps(line))
    (tmp_path / "images" / "ex_2_img_1.png").write_bytes(b"no picture")
    (tmp_path / "examples.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "examples.jsonl")


def test_winoground(winoground, monkeypatch, tmp_path):
    # both right; both texts right, but the first caption prefers the second picture; damaged
    rows = {(0, "0 a"): 2, (0, "0 b"): 1, (10, "0 b"): 2, (10, "0 a"): 1}
    rows |= {(20, "1 a"): 3, (20, "1 b"): 2, (30, "1 b"): 9, (30, "1 a"): 4}
    rows |= {(40, "2 a"): 1, (40, "2 b"): 1}  # a tie is wrong
    for pair, score in rows.items():
        monkeypatch.setitem(SCORE, pair, score)
    result = run(winoground, {"match": match}, by="match", shown=1)
    assert result.metrics == {
        "accuracy": 4 / 5,
        "text_score": 1,
        "image_score": 1 / 2,
        "group_score": 1 / 2,
        "chance_accuracy": 1 / 2,
        "chance_text_score": 1 / 4,
        "chance_image_score": 1 / 4,
        "chance_group_score": 1 / 6,
    }
    first, second = result.tables["groups"]
    assert first == {"group": "Object", "pictures": 3, "accuracy": pytest.approx(2 / 3)} | dict(
        text_score=1, image_score=1, group_score=1
    )
    assert (second["group"], second["text_score"], second["image_score"]) == ("Relation", 1, 0)
    assert result.protocol["pairs"] == 2 and result.protocol["left out"] == 1
    worst = result.figures["captions"].groups["worst"][0]
    assert worst["said"] == "2 b" and worst["right"] == ["2 a"] and worst["score"] == 0
    best = result.figures["captions"].groups["best"][0]
    assert (best["said"], best["right"], best["against"]) == ("1 b", ["1 b"], ["1 a"])
    ((_, path),) = draw_results({"c": result}, str(tmp_path)).items()
    grey = (np.asarray(Image.open(path).convert("RGB")) == 0x6B).all(axis=-1)
    assert grey.any()  # the caption that was not to be chosen
    meta = open_pool(winoground).metadata(3)["meta"]
    assert meta["caption"] == "1 b" and meta["negative_caption"] == "1 a" and meta["pair"] == 1


def test_a_prefix_stands_before_every_caption(winoground, monkeypatch):
    for grey, text in ((0, "of 0 a"), (10, "of 0 b"), (20, "1 a")):
        monkeypatch.setitem(SCORE, (grey, text), 1)
    result = run(winoground, {"match": match}, by="match", prefix="of ")
    assert result.metrics["accuracy"] == 2 / 5 and result.protocol["prefix"] == "of "
    assert result.metrics["group_score"] == 1 / 2


@pytest.mark.parametrize("place", ["data/val2017", "val2017", "data"])
def test_sugar_crepe(tmp_path, place):
    """COCO's pictures beside the files, beside their folder, or among them; cosines of towers."""
    table = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    folder, right = tmp_path / "data", {}
    folder.mkdir()
    for start, name in ((0, "swap_att"), (100, "add_obj")):
        entries = {}
        for number in range(3):
            grey = start + 20 * number
            picture(tmp_path / place / f"{grey:012d}.png", grey)
            texts = {"caption": f"c {grey}", "negative_caption": f"n {grey}"}
            entries[str(number)] = {"filename": f"{grey:012d}.png", **texts}
            good, bad = (table[sum(t.encode()) % 256] for t in texts.values())
            unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
            right[grey] = table[grey] @ unit(good) > table[grey] @ unit(bad)
        (folder / f"{name}.json").write_text(json.dumps(entries))

    def embed_text(batch):
        found = [TOKENIZER.decode(row) for row in batch["text"]]
        return 5 * table[[sum(text.encode()) % 256 for text in found]], batch["index"]

    fns = {"embed_image": lambda b: (table[b["image"][:, 0, 0, 0]], b["index"])}
    path = f"{folder}/swap_att.json,{folder}/add_obj.json"
    result = run(path, fns | {"embed_text": embed_text})
    values = list(right.values())
    assert 0 < sum(values) < 6
    assert result.metrics["accuracy"] == np.mean(values)
    assert result.metrics["accuracy_swap_att"] == np.mean(values[:3])
    assert result.metrics["accuracy_add_obj"] == np.mean(values[3:])
    assert result.metrics["accuracy_mean"] == pytest.approx(np.mean(values))
    assert "text_score" not in result.metrics and result.protocol["pictures"] == 6


def test_three_that_share_a_number_are_no_pair():
    assert paired([1, 1, 1, "a", None, "a", None]).tolist() == [[3, 5]]
    assert paired([None, 2]).shape == (0, 2)


def test_what_is_refused(memory_source, tmp_path):
    for config, message in (
        ({"by": "macth"}, "compositional.by='macth' is unknown; did you mean 'match'"),
        ({"shown": 0}, "shown >= 1"),
    ):
        with pytest.raises(UserError, match=message):
            make_evaluator("compositional", config, CONTEXT)
    metas = [{"caption": "a", "negative": "b"}, {"caption": "a", "negative": None}]
    source = memory_source([1, 2], None, metas)
    made = make_evaluator("compositional", {"path": source}, CONTEXT)
    wanted = r"evals\.c\.negative='negative_caption': no sample .* did you mean 'negative'"
    with pytest.raises(UserError, match=wanted):
        made.check({"path": source}, "evals.c")
    with pytest.raises(UserError, match="no sample has a text under both JSON keys"):
        made({"embed_image": None, "embed_text": None})
    (tmp_path / "x.json").write_text(json.dumps({"0": {"negative_caption": "a"}}))
    with pytest.raises(UserError, match="an entry of another form"):
        open_pool(str(tmp_path / "x.json"))
