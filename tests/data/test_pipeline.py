"""The training stream: exact, elastic, resumable from the step; damage replaced and budgeted."""

import io
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from generated import NumberTokenizer, encode, photo, sample, tar_bytes
from PIL import Image

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.fields import Label, Picture, Text
from vlp_jax.data.decode import Shown
from vlp_jax.data.evaluation import eval_batches
from vlp_jax.data.fields import picture as picture_module
from vlp_jax.data.fields.base import Setup, make_readers
from vlp_jax.data.open import open_source
from vlp_jax.data.pipeline import DataSpec, TrainPipeline

N, BATCH = 30, 8
FIELDS = {"image": Picture(8, tell=("aspect",)), "text": Text(1, 1000), "label": Label(1000)}
NUMBERS = {"text": NumberTokenizer()}


def pipeline(path, batch_size=BATCH, process=(0, 1), fields=FIELDS, **config):
    config = {"path": str(path), "caption": "first", "label": "label", "threads": 2, **config}
    return TrainPipeline(
        config,
        fields,
        batch_size=batch_size,
        seed=3,
        tokenizers=NUMBERS,
        process_index=process[0],
        process_count=process[1],
    )


def take(stream, count):
    return list(itertools.islice(stream, count))


def numbers(batches):
    return [batch["text"][:, 0].tolist() for batch in batches]


def test_batches_have_the_promised_form(shards):
    (batch,) = take(pipeline(shards).batches(0), 1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((BATCH, 8, 8, 3), "uint8"),
        "image_aspect": ((BATCH,), "float32"),
        "text": ((BATCH, 1), "int32"),
        "label": ((BATCH,), "int32"),
    }
    assert np.array_equal(batch["text"][:, 0], batch["label"])
    assert np.array_equal(batch["image"][:, 4, 4, 0], batch["label"])  # rows stay together


@pytest.mark.parametrize("shuffle", ["global", "block", "none"])
def test_every_example_once_per_epoch_across_batches(shards, shuffle):
    stream = itertools.chain.from_iterable(
        numbers(take(pipeline(shards, shuffle=shuffle).batches(0), 15))
    )
    seen = list(stream)  # four epochs of 30 in 15 batches of 8
    for epoch in range(4):
        assert sorted(seen[epoch * N : (epoch + 1) * N]) == list(range(N))
    assert (seen[:N] == list(range(N))) == (shuffle == "none")


def test_keys_tell_the_global_batch(shards):
    p = pipeline(shards)
    for step, batch in enumerate(take(p.batches(2), 3), start=2):
        assert p.keys(step) == [f"s{i:04d}" for i in batch["label"]]


def test_words_that_are_drawn_move_no_crop(shards, monkeypatch):
    """Pictures of the numbers that crops are drawn from, over two epochs."""

    def drawn(data, size, framing, rng):
        return rng.integers(256, size=(size, size, 3), dtype=np.uint8), Shown(1, 1, None)

    monkeypatch.setattr(picture_module, "decode_framed", drawn)
    words = {"caption": "random", "word_dropout": 0.5, "templates": ("{c}", "{c} 7")}
    plain, changed = (take(pipeline(shards, **c).batches(0), 8) for c in ({}, words))
    pictures = np.concatenate([batch["image"] for batch in plain])
    assert np.array_equal(pictures, np.concatenate([batch["image"] for batch in changed]))
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == 8 * BATCH


def test_resume_at_any_step_is_exact(shards):
    config = {"caption": "random", "word_dropout": 0.3, "image": {"crop": "random"}}
    whole = take(pipeline(shards, **config).batches(0), 9)
    for start in (1, 4, 8):
        again = take(pipeline(shards, **config).batches(start), 9 - start)
        for a, b in zip(whole[start:], again, strict=True):
            assert all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_gives_the_same_global_batches(shards, count):
    whole = take(pipeline(shards).batches(1), 5)
    parts = [take(pipeline(shards, process=(i, count)).batches(1), 5) for i in range(count)]
    for step, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([part[step][name] for part in parts])
            assert np.array_equal(joined, batch[name])


def test_elastic_resume_repeats_and_skips_nothing(shards):
    """Two epochs: seven steps on one process, four on four, the rest on two."""
    seen = []
    for start, stop, count in ((0, 3, 1), (3, 5, 4), (5, 15, 2)):
        parts = [
            take(pipeline(shards, 4, process=(i, count)).batches(start), stop - start)
            for i in range(count)
        ]
        for step in range(stop - start):
            seen += [n for part in parts for n in numbers(part)[step]]
    assert Counter(seen) == Counter({i: 2 for i in range(N)})


def test_worker_processes_give_the_same_batches_as_threads(shards):
    config = {"caption": "random", "image": {"crop": "random"}}
    threads = take(pipeline(shards, **config).batches(3), 4)
    workers = take(pipeline(shards, workers=2, **config).batches(3), 4)
    for a, b in zip(threads, workers, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_number_of_threads_changes_nothing(shards):
    one = take(pipeline(shards, 12, threads=1).batches(0), 5)
    for threads in (3, 5):
        other = take(pipeline(shards, 12, threads=threads).batches(0), 5)
        assert all(np.array_equal(a["label"], b["label"]) for a, b in zip(one, other, strict=True))


def test_host_randomness_changes_with_the_epoch_and_seed(tmp_path):
    members = []
    for i in range(4):
        members += [(f"{i}.png", encode(photo(40, 40, i))), (f"{i}.txt", b"number 1")]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    fields = {"image": Picture(8)}
    config = dict(shuffle="none", label=None, image={"scale": (0.2, 0.5)})
    p = pipeline(tmp_path / "x.tar", 4, fields=fields, **config)
    first, second = take(p.batches(0), 2)
    assert not np.array_equal(first["image"], second["image"])


def broken_shards(folder: Path, broken: dict[int, bytes], count: int = 40) -> str:
    members = [m for i in range(count) for m in sample(i)]
    members = [(n, broken.get(int(n[1:5]), d) if n.endswith("png") else d) for n, d in members]
    (folder / "b.tar").write_bytes(tar_bytes(members))
    return str(folder / "b.tar")


def test_damage_is_replaced_deterministically_and_counted_once(tmp_path):
    path = broken_shards(tmp_path, {7: b"<html>", 21: b"\x89PNG cut"})
    p = pipeline(path)
    batches = take(p.batches(0), 15)  # three epochs
    assert p.dropped == {"unreadable_picture": 2}
    seen = Counter(itertools.chain.from_iterable(numbers(batches)))
    assert seen[7] == seen[21] == 0 and sum(seen.values()) == 15 * BATCH
    again = take(pipeline(path).batches(4), 11)
    assert numbers(again) == numbers(batches)[4:]
    assert all((b["image"] == b["label"][:, None, None, None]).all() for b in batches)


def test_damage_above_the_budget_stops_and_names_shard_and_key(tmp_path):
    path = broken_shards(tmp_path, {i: b"x" for i in range(5, 17)})
    p = pipeline(path)
    with pytest.raises(RunError, match=r"damage_budget=0.001: 1[12] of 40 .*b.tar: 's00\d\d'"):
        take(p.batches(0), 10)
    take(pipeline(path, damage_budget=0.4).batches(0), 10)
    one = broken_shards(tmp_path, {9: b"x"})
    with pytest.raises(RunError, match=r"b.tar: 's0009': unreadable_picture"):
        take(pipeline(one, damage_budget=0.0).batches(0), 10)


def test_nothing_but_damage_ends_instead_of_looping(tmp_path):
    with pytest.raises(RunError, match="in a row are damaged"):
        pipeline(broken_shards(tmp_path, {i: b"x" for i in range(40)}), damage_budget=1.0)


def test_worker_processes_report_damage_too(tmp_path):
    p = pipeline(broken_shards(tmp_path, {7: b"<html>"}), workers=1)
    take(p.batches(0), 5)
    assert p.dropped == {"unreadable_picture": 1}


class Lengths(NumberTokenizer):
    def __call__(self, texts):
        return np.asarray([[len(text)] for text in texts])


def test_long_captions_are_counted(tmp_path):
    members = sample(0) + sample(1)
    members = [(n, b"word " * 4000 + b"7" if n == "s0001.txt" else d) for n, d in members]
    (tmp_path / "l.tar").write_bytes(tar_bytes(members))
    p = TrainPipeline(
        {"path": str(tmp_path / "l.tar"), "caption": "first"},
        {"text": Text(1, 10_001)},
        batch_size=2,
        seed=0,
        tokenizers={"text": Lengths()},
    )
    (batch,) = take(p.batches(0), 1)
    assert sorted(batch["text"][:, 0]) == [8, 10_000]
    assert p.clipped == {"long_caption": 1} and not p.dropped


MISTAKES = {
    "batch_size=8 cannot be shared by 3 processes": {"process": (0, 3)},
    "data.shuffle='globa'.*did you mean 'global'": {"shuffle": "globa"},
    "data.image.crop='middle'": {"image": {"crop": "middle"}},
    "data.image.alpha='clear'": {"image": {"alpha": "clear"}},
    r"data.weights=\(1, 2\)": {"weights": (1, 2)},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_refused_before_any_batch(shards, message):
    with pytest.raises(UserError, match=message):
        pipeline(shards, **MISTAKES[message])


def test_spec_reads_config_dicts():
    from ml_collections import ConfigDict

    image = {"crop": "pad", "eval_crop": "squash", "scale": (0.5, 1.0)}
    config = ConfigDict({"path": "p", "image": image, "weights": ()})
    spec = DataSpec.from_config(config)
    assert (spec.path, spec.weights, spec.threads) == ("p", (), 4)
    for train, crop in ((True, "pad"), (False, "squash")):
        (reader,) = make_readers({"image": Picture(8)}, Setup(config, train=train)).values()
        assert (reader.framing.crop, reader.framing.scale) == (crop, (0.5, 1.0))


def readers(*names, **data):
    data = {"image": {"eval_crop": "center"}, "label": "label", **data}
    fields = {name: FIELDS[name] for name in names}
    return make_readers(fields, Setup(data, NUMBERS, train=False))


def test_sizes_and_fingerprint(shards):
    p = pipeline(shards)
    assert p.num_examples == N and p.steps_per_epoch == N / BATCH
    assert p.fingerprint == open_source(shards).fingerprint


@pytest.mark.parametrize("count", [1, 2, 4])
def test_eval_batches_show_each_row_once_padded_and_masked(shards, count):
    source = open_source(shards)
    read, rows = readers("image", "text", "label"), []
    for i in range(count):
        place = dict(process_index=i, process_count=count)
        for batch in eval_batches(source, read, batch_size=8, **place):
            assert batch["image"].shape == (8 // count, 8, 8, 3)
            assert batch["image"].dtype == np.uint8
            real = batch["index"] >= 0
            assert np.array_equal(batch["index"][real], batch["label"][real])
            assert np.array_equal(batch["index"][real], batch["text"][real, 0])
            assert np.array_equal(batch["index"][real], batch["image"][real, 4, 4, 0])
            assert not batch["image"][~real].any() and not batch["text"][~real].any()
            rows += batch["index"].tolist()
    assert Counter(rows) == Counter([*range(N), -1, -1])


def test_every_process_sees_the_same_number_of_eval_batches(shards):
    source = open_source(shards)
    counts = {
        sum(1 for _ in eval_batches(source, readers("image"), batch_size=20, process_index=i,
                                    process_count=4)) for i in range(4)
    }  # fmt: skip
    assert counts == {2}


def test_damaged_eval_rows_are_masked_and_counted(tmp_path):
    source = open_source(broken_shards(tmp_path, {5: b"x"}, count=10))
    dropped: Counter = Counter()
    batches = list(eval_batches(source, readers("image"), batch_size=4, dropped=dropped))
    index = np.concatenate([b["index"] for b in batches])
    assert index.tolist() == [0, 1, 2, 3, 4, -1, 6, 7, 8, 9, -1, -1]
    assert dropped == {"unreadable_picture": 1}


def test_eval_text_only_reads_no_pictures(tmp_path):
    source = open_source(broken_shards(tmp_path, dict.fromkeys(range(10), b"x"), count=10))
    (batch,) = eval_batches(source, readers("text"), batch_size=10)
    assert batch["text"][:, 0].tolist() == list(range(10)) and "image" not in batch


def test_a_batch_above_the_data_repeats_examples_and_warns(shards, caplog):
    batches = take(pipeline(shards, batch_size=45).batches(0), 2)
    assert Counter(itertools.chain.from_iterable(numbers(batches))) == {
        number: 3 for number in range(N)
    }
    assert "batch_size=45 is above the 30 examples" in caplog.text


def test_training_lays_transparency_on_white_unless_told(tmp_path):
    clear = io.BytesIO()
    Image.new("RGBA", (12, 6), (200, 0, 0, 0)).save(clear, "PNG")
    (tmp_path / "a.png").write_bytes(clear.getvalue())
    (tmp_path / "a.txt").write_text("number 1")

    def first(**image):
        spec = dict(batch_size=1, label=None, image={"crop": "pad", **image})
        (batch,) = take(pipeline(tmp_path, fields={"image": Picture(8)}, **spec).batches(0), 1)
        return batch["image"][0, 0, 0].tolist(), batch["image"][0, 4, 4].tolist()

    assert first() == ([255] * 3, [255] * 3)
    assert first(alpha="drop", fill=7) == ([7] * 3, [200, 0, 0])
