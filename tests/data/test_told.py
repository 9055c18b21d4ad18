"""What pictures tell of themselves, and texts that share a caption: the empty text's ids, two
tokenizers, one row of a cache."""

import numpy as np
import pytest
from generated import encode, photo, tar_bytes

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Label, Picture, Text
from vlp_jax.data.fields.base import Setup, make_readers
from vlp_jax.data.fields.cached import one_text
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.text import load_tokenizer
from vlp_jax.data.text.named import open_tokenizers

DATA = {"tokenizer": "bytes", "tokenizers": {"other": {"name": "bytes", "clean": "lower"}}}
CUT = {"cut": True}
TEXTS = {"text": Text(9, 259, **CUT), "text_2": Text(7, 259, tokenizer="other", of="text", **CUT)}


def test_size_and_box_are_in_pixels_of_the_picture(tmp_path):
    members = [(f"{i}.png", encode(photo(40, 60, i))) for i in range(4)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    data = {"path": str(tmp_path / "x.tar"), "image": {"crop": "short_random"}, "threads": 1}
    fields = {"image": Picture(20, tell=("size", "box"))}
    batch = next(TrainPipeline(data, fields, batch_size=4, seed=3).batches(0))
    assert batch["image_size"].tolist() == [[40, 60]] * 4
    box = batch["image_box"]
    assert box.dtype == np.float32 and (box[:, [0, 2, 3]] == [0, 40, 40]).all()
    left = box[:, 1]
    assert len(set(left)) > 1 and (left % 2 == 0).all() and ((left >= 0) & (left <= 20)).all()


def test_both_tokenizers_see_the_caption_that_was_drawn(tmp_path):
    captions = [[f"Words {i} {k}" for k in range(9)] for i in range(4)]
    rows = "\n".join(f'{{"image": "{i}.png", "captions": {c}}}' for i, c in enumerate(captions))
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(encode(photo(8, 8, i)))
    (tmp_path / "list.jsonl").write_text(rows.replace("'", '"'))
    data = DATA | {"path": str(tmp_path / "list.jsonl"), "threads": 1, "context_length": 14}
    fields = {"text": Text(14, 259), "text_2": Text(14, 259, tokenizer="other", of="text")}
    batch = next(TrainPipeline(data, fields, batch_size=16, seed=0).batches(0))
    words = [load_tokenizer("bytes", 14).decode(row) for row in batch["text"]]
    lower = [load_tokenizer("bytes", 14).decode(row) for row in batch["text_2"]]
    assert [word.lower() for word in words] == lower and len(set(words)) > 4


@pytest.mark.parametrize(
    "empty, data, wanted",
    [
        ((257, 258, 0), DATA, ""),
        ((257, 258), DATA, "data.tokenizer=bytes: the empty text is [257, 258, 0], its last id"),
        ((49406, 49407), {"tokenizer": "clip", "tokenizer_options": {"pad_id": 49407}}, ""),
        ((49406, 49407), {"tokenizer": "clip"}, "but m takes [49406, 49407]; the padding is pad_i"),
    ],
)
def test_the_empty_text_must_be_what_the_method_takes_for_it(empty, data, wanted):
    fields = {"text": Text(9, 49408, empty=empty, key="m")}
    if not wanted:
        row = open_tokenizers(fields, data)["text"]("")[0].tolist()
        assert row == [*empty, *[empty[-1]] * 9][:9]
        return
    with pytest.raises(UserError) as caught:
        open_tokenizers(fields, data)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_the_padding_of_clips_tokenizer_is_part_of_what_it_is():
    usual, other = load_tokenizer("clip", 9), load_tokenizer("clip", 9, pad_id=49407)
    assert usual.fingerprint != other.fingerprint and other.pad_id == 49407
    ids, same = (tokenizer("a dog")[0] for tokenizer in (usual, other))
    assert (ids[:4] == same[:4]).all() and not ids[4:].any() and (same[4:] == 49407).all()
    kind, words = other.__reduce__()
    assert kind(*words).fingerprint == other.fingerprint
    assert other.mask(same[None]).sum() == usual.mask(ids[None]).sum() == 4


def test_a_cache_keeps_one_row_for_a_caption_under_two_tokenizers():
    def made(fields):
        data = DATA | {"label": "kind"}
        return make_readers(fields, Setup(data, open_tokenizers(fields, data)))

    both = one_text(made(TEXTS))
    arrays = both.arrays(["ab", "c"])
    assert {name: a.shape for name, a in arrays.items()} == {"text": (2, 9), "text_2": (2, 7)}
    assert not both.cut and both.captions.choice == "random"
    assert one_text(made({"text": Text(9, 259, cut=True)})).cut
    apart = {"text": Text(9, 259), "other": Text(7, 259, tokenizer="other")}
    for others in (apart, {"text": Text(9, 259), "kind": Label(3)}, {"kind": Label(3)}):
        assert one_text(made(others)) is None
