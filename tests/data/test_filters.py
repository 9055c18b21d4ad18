"""data.filters: each rule at its edge, what it counts, and that a run reads what is left."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.filters import ALIGN, Filtered, Filters, apply_filters, grams
from vlp_jax.data.mixture import open_mixture
from vlp_jax.data.open import open_source


def png(width, height, shade=0):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def corpus(folder, samples):
    """A folder of (picture, captions) samples, in their order."""
    folder.mkdir(exist_ok=True)
    for number, (picture, captions) in enumerate(samples):
        (folder / f"{number:03}.png").write_bytes(picture)
        (folder / f"{number:03}.json").write_text(json.dumps({"captions": list(captions)}))
        (folder / f"{number:03}.txt").write_text(captions[0])
    return open_source(f"captions:{folder}")


def left(source, **rules):
    found = apply_filters(source, rules)
    return [found.metadata(i)["text"] for i in range(len(found))], getattr(found, "counts", {})


def test_pictures_by_their_shorter_side_and_their_shape(tmp_path):
    sizes = ((200, 400), (201, 400), (201, 603), (602, 201), (900, 300))
    source = corpus(tmp_path / "a", [(png(*size), [f"{size}"]) for size in sizes])
    texts, counts = left(source, side=200, aspect=3.0)
    assert texts == [["(201, 400)"], ["(602, 201)"]]
    assert counts == {"small_picture": 1, "long_picture": 2}


def test_texts_by_their_words(tmp_path):
    source = corpus(tmp_path / "a", [(png(4, 4, n), ["w " * n]) for n in (1, 2, 3, 20, 21)])
    texts, counts = left(source, words=(3, 20))
    assert [len(t[0].split()) for t in texts] == [3, 20]
    assert counts == {"short_text": 2, "long_text": 1, "no_text_left": 3}


def test_texts_of_many_pictures_and_pictures_of_many_texts(tmp_path):
    shared = [(png(4, 4, n), ["the same words"]) for n in range(3)]
    twice = [
        (png(4, 4, 9), ["one copy"]),
        (png(4, 4, 9), ["one copy"]),
        (png(4, 4, 8), ["one copy"]),
    ]
    many = [(png(4, 4, 7), [f"text {n}"]) for n in range(3)]
    source = corpus(tmp_path / "a", shared + twice + many)
    texts, counts = left(source, pictures=2, texts=2)
    assert texts == [["one copy"]] * 3  # three samples, two pictures
    assert counts == {"many_texts": 3, "shared_text": 3, "no_text_left": 3}
    assert left(source, pictures=3, texts=3)[1] == {}


def test_rare_words_and_rare_neighbours(tmp_path):
    assert grams("A red Dog") == ["a", "red", "dog", "a red", "red dog"]
    captions = ["a dog", "a dog", "a cat", "a cat", "dog a"]  # a 5, dog 3, cat 2, "a dog" 2, ...
    source = corpus(tmp_path / "a", [(png(4, 4, n), [c]) for n, c in enumerate(captions)])
    texts, counts = left(source, vocabulary=5)
    assert texts == [["a dog"], ["a dog"], ["a cat"], ["a cat"]]
    assert counts == {"rare_word": 1, "no_text_left": 1}
    assert len(left(source, vocabulary=6)[0]) == 5


def test_pictures_of_a_test_set_go(tmp_path):
    source = corpus(tmp_path / "a", [(png(4, 4, n), ["a b"]) for n in range(3)])
    corpus(tmp_path / "test", [(png(4, 4, 1), ["other words"])])
    texts, counts = left(source, exclude=(f"captions:{tmp_path / 'test'}",))
    assert len(texts) == 2 and counts == {"test_picture": 1}


def test_a_run_reads_what_is_left(tmp_path, capsys):
    captions = (["a b c", "a"], ["a"], ["d e f"])
    corpus(tmp_path / "a", [(png(4, 4, n), c) for n, c in enumerate(captions)])
    path, rules = f"captions:{tmp_path / 'a'}", {"words": (3, 20)}
    whole, _ = open_mixture(path, (), 0, "global")
    source, order = open_mixture(path, (), 0, "global", 0.0, rules)
    assert isinstance(source, Filtered) and (len(whole), len(source), order.n) == (3, 2, 2)
    assert source.fingerprint != whole.fingerprint and source[0]["text"] == ["a b c"]
    assert np.array_equal(source.rows, [0, 2])
    other, _ = open_mixture(path, (), 0, "global", 0.0, {"words": (3, 30)})
    assert other.fingerprint != source.fingerprint


def test_off_is_off_and_typos_are_named(tmp_path):
    source = corpus(tmp_path / "a", [(png(4, 4), ["a"])])
    assert apply_filters(source, dataclasses.asdict(Filters())) is source and ALIGN.on
    with pytest.raises(UserError, match=r"data\.filters\.sied: unknown key; did you mean 'side'"):
        apply_filters(source, {"sied": 3})
    with pytest.raises(UserError, match=r"data\.filters\.side=-1 is out of range"):
        apply_filters(source, {"side": -1})
    with pytest.raises(UserError, match="leave nothing of 1 samples: short_text 1"):
        apply_filters(source, {"words": (3, 0)})
