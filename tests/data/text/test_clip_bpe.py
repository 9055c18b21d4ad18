"""CLIP ids equal the reference's on 2,600 odd captions, and no caption is slow."""

import gzip
import json
import pathlib
import pickle
import time

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.data.text import check_vocab, load_tokenizer
from vlp_jax.data.text.clip_bpe import MERGES, byte_ids, load_merges, merge

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "tokenizer" / "clip_ids.json.gz"


@pytest.fixture(scope="module")
def clip():
    return load_tokenizer("clip")


@pytest.fixture(scope="module")
def golden():
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))


def test_ids_equal_the_reference_on_odd_captions(clip, golden):
    assert len({text for text, _ in golden}) >= 2_000
    rows = clip([text for text, _ in golden])
    wrong = []
    for (text, ids), row in zip(golden, rows, strict=True):
        if row.tolist() != ids + [0] * (77 - len(ids)):
            wrong.append(text)
    assert not wrong, f"{len(wrong)} captions differ, first: {wrong[0]!r}"


def test_golden_file_is_odd_enough(golden):
    texts = [text for text, _ in golden]
    traits = {
        "over-long": lambda t: len(t) > 1_000,
        "entity": lambda t: "&lt;" in t,
        "twice escaped": lambda t: "&amp;lt;" in t,
        "CJK": lambda t: "世" in t,
        "accent": lambda t: "ñ" in t,
        "emoji": lambda t: "😀" in t,
        "zero width": lambda t: "\u200b" in t,
        "mojibake": lambda t: "Ã©" in t,
        "control": lambda t: "\x1b" in t,
        "special": lambda t: "<end_of_text>" in t,
        "mixed case": lambda t: t != t.lower() and t != t.upper(),
    }
    counts = {name: sum(map(found, texts)) for name, found in traits.items()}
    assert min(counts.values()) >= 8, counts
    assert sum(len(ids) == 77 and ids[-1] == 49_407 for _, ids in golden) >= 10


def test_vocabulary_follows_from_the_merges_by_rule(clip):
    pairs, _, _ = load_merges()
    assert len(pairs) == MERGES and sorted(pairs.values()) == list(range(512, 512 + MERGES))
    assert sorted(byte_ids()) == list(range(256)) and byte_ids()[ord("!")] == 0
    assert (clip.vocab_size, clip.sot_id, clip.eot_id, clip.pad_id) == (49_408, 49_406, 49_407, 0)
    assert all(
        new > max(pair) for pair, new in pairs.items()
    )  # what makes the heap equal to passes


def test_known_row(clip):
    row = clip(["a diagram"])[0]  # the example of the CLIP repository's README
    assert row.dtype == np.int32 and row.shape == (77,)
    assert row[:4].tolist() == [49_406, 320, 22_697, 49_407] and not row[4:].any()


def test_merge_prefers_the_earliest_then_the_leftmost():
    assert merge([0, 1, 0, 1], {(0, 1): 512}) == [512, 512]
    assert merge([0, 0, 0], {(0, 0): 512}) == [512, 0]
    assert merge([0, 0, 0, 0, 0], {(0, 0): 512, (512, 512): 513}) == [513, 0]
    assert merge([0, 1, 2], {(1, 2): 512, (0, 1): 513}) == [0, 512]


@pytest.mark.parametrize(
    "text", ["a" * 10_000, "你" * 10_000, "word " * 2_000, "Ã©" * 5_000, "&amp;" * 2_000]
)
def test_10000_characters_are_no_burden_and_end_with_the_end(clip, text):
    started = time.process_time()
    row = clip([text])[0]
    assert time.process_time() - started < 5, "a merge that is quadratic takes far longer"
    assert row[0] == clip.sot_id and row[-1] == clip.eot_id and (row[1:-1] < 49_406).all()


def test_argmax_finds_the_end(clip, golden):
    rows = clip([text for text, ids in golden[:200]])
    assert (rows.max(-1) == clip.eot_id).all()


def test_decode_gives_the_words_back(clip):
    for text in ("a photo of a dog", "una niña", "你好 世界", "😀"):
        assert clip.decode(clip([text])[0]) == text
    assert clip.decode(clip.encode("it's 42!")) == "it 's 4 2 !"


def test_short_context_cuts_with_the_end_last():
    short = load_tokenizer("clip", 5)
    assert short(["one two three four five"]).tolist() == [[49_406, 637, 1_237, 2_097, 49_407]]
    with pytest.raises(UserError, match=r"data\.context_length=2"):
        load_tokenizer("clip", 2)


def test_encode_stops_at_the_limit(clip):
    whole = clip.encode("five little ducks went swimming " * 50)
    some = clip.encode("five little ducks went swimming " * 50, limit=7)
    assert len(whole) == 250 and some == whole[:7]


def test_clean_options_change_the_ids_and_the_fingerprint(clip):
    kept = load_tokenizer("clip", clean="canonicalize")
    assert kept.encode("A dog's_life!") == clip.encode("a dogs life")
    assert kept.fingerprint != clip.fingerprint
    with pytest.raises(UserError, match=r"clean='lowre'.*did you mean 'lower'"):
        load_tokenizer("clip", clean="lowre")


def test_pickles_by_name(clip):
    data = pickle.dumps(clip)
    again = pickle.loads(data)
    assert len(data) < 500 and again.fingerprint == clip.fingerprint
    assert again.encode("two dogs") == clip.encode("two dogs")


def test_ids_above_the_models_vocabulary_are_refused(clip):
    check_vocab(clip, 49_408)
    with pytest.raises(
        UserError, match="'clip' has ids up to 49,407, but the model's vocab_size is 1,000"
    ):
        check_vocab(clip, 1_000)
