"""Text trimming: counts of the run's own tokenizer, a bucket per global batch, replacements that
fit."""

import itertools
import json
import logging
import os
import pickle
from collections import Counter

import numpy as np
import pytest
from generated import encode, tar_bytes

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.fields import Picture, Text
from vlp_jax.data import lengths
from vlp_jax.data.array_record import write_array_record
from vlp_jax.data.caption import CaptionSpec
from vlp_jax.data.lengths import Buckets, LengthCounter, check_buckets, load_lengths
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.open import open_source
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.subset import Subset
from vlp_jax.data.text import load_tokenizer

N, CONTEXT = 24, 40
TOKENIZER = load_tokenizer("bytes", CONTEXT)
SHORT = TOKENIZER.length("00 c")  # the first bucket holds a short caption exactly
PICTURE = encode(np.zeros((8, 8, 3), np.uint8))


def words(i):
    """Some captions are long, some one token longer than the short ones, the last too long."""
    ends = {5: "ab " * 8, 11: "ab " * 8, 17: "cc", 8: "cc"}
    return "x" * 50 if i == N - 1 else f"{i:02d} " + ends.get(i, "c")


def write(folder, broken=()):
    members = []
    for i in range(N):
        picture = b"<html>" if i in broken else PICTURE
        members += [(f"{i:02d}.png", picture), (f"{i:02d}.txt", words(i).encode())]
    (folder / "x.tar").write_bytes(tar_bytes(members))
    return str(folder / "x.tar")


def pipeline(path, process=(0, 1), **config):
    return TrainPipeline(
        {"path": path, "buckets": (SHORT, 32), "damage_budget": 0.5, "threads": 2, **config},
        {"image": Picture(8), "text": Text(CONTEXT, 259, cut=True)},
        batch_size=4,
        seed=3,
        tokenizers={"text": TOKENIZER},
        process_index=process[0],
        process_count=process[1],
    )


def take(p, count, start=0):
    return list(itertools.islice(p.batches(start), count))


def counter(path, **spec):
    return LengthCounter(open_source(path), TOKENIZER, CaptionSpec(**spec))


def test_batches_are_the_full_ones_cut_at_the_shortest_bucket_that_holds_them(tmp_path):
    path = write(tmp_path)
    whole, cut = take(pipeline(path, buckets=()), 12), take(pipeline(path), 12)
    widths = []
    for a, b in zip(whole, cut, strict=True):
        width = b["text"].shape[1]
        used = (a["text"] != TOKENIZER.pad_id).sum(1).max()
        assert width == min(w for w in (SHORT, 32, CONTEXT) if w >= used)
        assert np.array_equal(a["text"][:, :width], b["text"])
        assert np.array_equal(a["image"], b["image"])
        widths.append(width)
    assert set(widths) == {SHORT, 32, CONTEXT}


@pytest.mark.parametrize("count", [2, 4])
def test_processes_agree_and_a_resume_finds_the_same_lengths(tmp_path, count):
    path = write(tmp_path)
    whole = take(pipeline(path), 6, start=2)
    parts = [take(pipeline(path, (i, count)), 6, start=2) for i in range(count)]
    for step, batch in enumerate(whole):
        joined = np.concatenate([part[step]["text"] for part in parts])  # fails where widths differ
        assert np.array_equal(joined, batch["text"])


def test_a_replacement_fits_the_batch_and_is_never_cut(tmp_path):
    path = write(tmp_path, broken=range(0, N, 4))
    p = pipeline(path, shuffle="none")
    batches = take(p, 12)
    assert p.dropped == {"unreadable_picture": 6}
    for batch in batches:
        ends = (batch["text"] == TOKENIZER.eot_id).sum(1)
        assert (ends == 1).all(), "a caption lost its end"
    assert {b["text"].shape[1] for b in batches} == {SHORT, 32, CONTEXT}
    again = take(pipeline(path, shuffle="none", workers=1), 12)
    assert all(np.array_equal(a["text"], b["text"]) for a, b in zip(batches, again, strict=True))


def test_a_caption_longer_than_it_was_counted_is_replaced_and_reported(tmp_path, monkeypatch):
    path = write(tmp_path)
    count = LengthCounter.length
    monkeypatch.setattr(
        LengthCounter, "length", lambda self, i: SHORT if i == 5 else count(self, i)
    )
    p = pipeline(path, shuffle="none")
    second = take(p, 2)[1]
    assert second["text"].shape == (4, SHORT) and (second["text"] == TOKENIZER.eot_id).sum() == 4
    assert p.dropped == {"caption_changed": 1}
    assert p.log.last.where == f"{path}: '05' (the next start counts it anew)"


def test_lengths_are_the_longest_of_all_captions_and_templates(tmp_path):
    captions = b'{"captions": ["b", "ccc"], "title": ["eeeee", "f"]}'
    members = [("0.png", PICTURE), ("0.txt", b"aa"), ("0.json", captions)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    edges = TOKENIZER.length("")
    for spec, longest in (
        ({"choice": "random"}, 3),
        ({"choice": "first"}, 2),
        ({"choice": "all"}, len("aa b ccc")),
        ({"choice": "title"}, 5),
        ({"choice": "lacking"}, -edges),
        ({"choice": "random", "templates": ("{c}", "{c} or {c}")}, len("ccc or ccc")),
    ):
        found = load_lengths(counter(str(tmp_path / "x.tar"), **spec))
        assert found.dtype == np.int16 and found.tolist() == [edges + longest], spec


def test_word_dropout_never_outgrows_the_count(tmp_path):
    p = pipeline(write(tmp_path), word_dropout=0.5)
    take(p, 12)
    assert not p.dropped


def test_counts_are_kept_by_data_tokenizer_and_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lengths, "_KEPT", 1)
    path = write(tmp_path)
    first = load_lengths(counter(path))
    monkeypatch.setattr(lengths, "count_lengths", lambda c: np.zeros(len(c.source), np.int16))
    assert np.array_equal(load_lengths(counter(path)), first) and first.any()
    assert not load_lengths(counter(path, choice="first")).any(), "another choice is counted anew"
    (kept,) = [f for f in (tmp_path / "cache").rglob("*.npy") if np.load(f).any()]
    kept.write_bytes(kept.read_bytes()[:-7])
    assert not load_lengths(counter(path)).any(), "a torn file is counted anew"
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    kept.write_bytes(pickle.dumps(Counter()))
    with monkeypatch.context() as patched:
        patched.setattr("pickle.load", lambda *a, **k: pytest.fail("a kept file was unpickled"))
        assert not load_lengths(counter(path)).any()


def captions(folder, changed=(), suffix="txt"):
    """A folder of N pictures; `changed` ones have a caption of another length."""
    folder.mkdir(exist_ok=True)
    for i in range(N):
        text = "much longer than it was" if i in changed else f"{i:02d} c"
        (folder / f"{i:02d}.png").write_bytes(PICTURE)
        data = json.dumps({"caption": text}) if suffix == "json" else text
        (folder / f"{i:02d}.{suffix}").write_text(data)
    return str(folder)


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_edited_captions_are_counted_anew_at_the_next_start(tmp_path, monkeypatch, caplog, suffix):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lengths, "_KEPT", 1)
    caplog.set_level(logging.INFO, "vlp_jax.data.lengths")
    path = captions(tmp_path / "set", suffix=suffix)
    first = load_lengths(counter(path))
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    running = pipeline(path, shuffle="none")
    caplog.clear()  # of the folder's own line
    captions(tmp_path / "set", changed=(1, 2, 3), suffix=suffix)
    take(running, 1)
    assert running.dropped == {"caption_changed": 3}, "a change during a run is noticed"
    again = pipeline(path, shuffle="none")
    take(again, 6)
    assert not again.dropped
    lines = [r.getMessage() for r in caplog.records if r.name.endswith("lengths")]
    assert lines == [f"captions changed since their tokens were counted ({kept}): counting anew"]
    new = load_lengths(counter(path))
    assert np.flatnonzero(new != first).tolist() == [1, 2, 3] and new[1] == 25
    assert first.max() == SHORT
    caplog.clear()
    (tmp_path / "set" / f"04.{suffix}").unlink()  # the listing changes: another data set
    load_lengths(counter(path))
    assert not [r for r in caplog.records if r.name.endswith("lengths")]


def _stamp(source):
    return getattr(source, "stamp", "")


def test_mixtures_and_parts_have_the_stamps_of_their_sources(tmp_path):
    folders = [captions(tmp_path / name) for name in "ab"]
    mixed = open_pool(",".join(folders))
    tar = open_pool(f"{write(tmp_path)},{tmp_path / 'x.tar'}")
    assert not _stamp(tar) and not _stamp(tar.sources[0]), "an index knows the captions"
    part = Subset(mixed, np.arange(3))
    before = _stamp(mixed)
    assert before == _stamp(part) == _stamp(open_pool(",".join(folders))) != ""
    captions(tmp_path / "b", changed=(7,))
    assert _stamp(mixed) == _stamp(part) != before
    bare = tmp_path / "flat"
    bare.mkdir()
    (bare / "a.png").write_bytes(PICTURE)
    assert not _stamp(open_source(str(bare)))


def test_rewritten_records_have_another_stamp(tmp_path):
    path = str(tmp_path / "x.array_record")
    stamps = []
    for text in ("abc d", "a b c"):
        write_array_record(path, [{"key": "a", "text": [text], "meta": {}}])
        os.utime(path, ns=(len(stamps), len(stamps)))
        source = open_source(path)
        stamps.append((source.fingerprint, _stamp(source)))
    assert stamps[0][0] == stamps[1][0] and stamps[0][1] != stamps[1][1]


def test_counting_in_processes_gives_the_same(tmp_path, monkeypatch):
    c = counter(write(tmp_path))
    plain = lengths.count_lengths(c)
    monkeypatch.setattr(lengths, "_PROCESSES", 1)
    assert np.array_equal(lengths.count_lengths(c), plain)


def test_a_mapped_file_travels_by_name(tmp_path):
    np.save(tmp_path / "n.npy", np.arange(50_000, dtype=np.int16) % 30)
    mapped = np.load(tmp_path / "n.npy", mmap_mode="r")
    sent = pickle.dumps(Buckets(mapped, (8, 40), None, 4))
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).lengths, mapped)


def test_fitting_goes_around_the_end_and_says_when_nothing_fits():
    buckets = Buckets(np.int16([3, 0, 9, 9]), (8, 40), None, 4)
    assert [buckets.fitting(i, 8) for i in range(4)] == [0, 0, 0, 0]
    assert [buckets.fitting(i, 40) for i in range(4)] == [0, 2, 2, 3]
    with pytest.raises(RunError, match="no caption of the data fits 2 tokens"):
        buckets.fitting(0, 2)


def test_a_bucket_is_that_of_the_examples_of_its_step():
    order = type("Order", (), {"index": lambda _, positions: positions})()
    lengths = np.int16([9, 1, 1, 1, 20, 1, 1, 1])
    assert [Buckets(lengths, (8, 16, 40), order, 2).at(step) for step in range(4)] == [16, 8, 40, 8]
    moved = Buckets(lengths, (8, 16, 40), order, 2, offset=-3)  # step 2 starts at position 1
    assert [moved.at(step) for step in (2, 3, 4)] == [8, 40, 8]


def test_buckets_are_ordered_cut_and_checked(tmp_path):
    assert check_buckets((64, 16, 77, 16), 77) == (16, 64, 77)
    assert check_buckets((64, 16), 32) == (16, 32)
    with pytest.raises(UserError, match=r"data.buckets=\(16, 0\): 0 is no positive whole number"):
        pipeline(write(tmp_path), buckets=(16, 0))
    assert pipeline(write(tmp_path), buckets=(CONTEXT, 77)).buckets is None, "nothing to choose"


def test_padding_that_argmax_would_pool_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(TOKENIZER, "pad_id", TOKENIZER.eot_id + 1)
    assert pipeline(write(tmp_path)).buckets is None
