"""Fields of any name: their readers, draws, tokenizers and places in a data set."""

import dataclasses
import io
import itertools
import json
from collections import Counter

import numpy as np
import pytest
from generated import encode, photo, tar_bytes

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Label, Numbers, Picture, Text, batch_spec, present
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.evaluation import eval_batches
from vlp_jax.data.export import export
from vlp_jax.data.fields.base import Setup, make_readers
from vlp_jax.data.open import open_source
from vlp_jax.data.order import example_rng
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.text import load_tokenizer
from vlp_jax.data.text.named import open_tokenizers, spec_of

N = 6
FIELDS = {
    "image": Picture(8),
    "control": Picture(4, of="image"),
    "text": Text(12, 259, cut=True),
    "question": Text(6, 259, tokenizer="short", cut=True),
    "kind": Label(3),
    "latent": Numbers((2, 2)),
    "count": Numbers((), "int32"),
    "noise": Numbers((4,), optional=True),
}
DATA = {
    "tokenizer": "bytes",
    "tokenizers": {"short": {"name": "bytes", "clean": "lower"}},
    "image": {"scale": (0.2, 0.5)},
    "threads": 1,
    "fields": {
        "control": {"member": "map.png"},
        "question": {"key": "asked"},
        "kind": {"key": "shape"},
        "latent": {"member": "npy"},
    },
}


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.fixture
def path(tmp_path):
    members = []
    for i in range(N):
        meta = {"asked": f"Q{i}", "shape": "abc"[i % 3], "count": i, "noise": [i, 0, 0, 0.5]}
        picture = encode(photo(40, 40, i))
        members += [(f"{i}.png", picture), (f"{i}.map.png", picture), (f"{i}.txt", b"text %d" % i)]
        members += [(f"{i}.json", json.dumps(meta).encode())]
        members += [(f"{i}.npy", array(np.full((2, 2), i, np.float64)))]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    return str(tmp_path / "x.tar")


def stream(path, fields=FIELDS, where=DATA["fields"], **config):
    data = {**DATA, "path": path, "fields": where, **config}
    return TrainPipeline(data, fields, batch_size=3, seed=1)


def batches(*args, count=1, **config):
    return list(itertools.islice(stream(*args, **config).batches(0), count))


def test_any_number_of_fields_of_any_name(path):
    found, spec = batches(path, count=2), batch_spec(present(FIELDS), 3)
    rows = {k: np.concatenate([batch[k] for batch in found]) for k in found[0]}
    assert {k: (v.shape, v.dtype) for k, v in found[0].items()} == {
        k: (s.shape, s.dtype) for k, s in spec.items()
    }
    assert "noise" not in found[0]
    number = stream(path).order.index(np.arange(6))
    assert rows["count"].tolist() == number.tolist() == rows["latent"][:, 1, 1].tolist()
    assert rows["kind"].tolist() == (number % 3).tolist()
    words = [f"text {i}" for i in number], [f"q{i}" for i in number]  # the short one lowers
    assert np.array_equal(rows["text"], load_tokenizer("bytes", 12)(words[0]))
    assert np.array_equal(rows["question"], load_tokenizer("bytes", 6)(words[1]))
    (batch,) = batches(path, FIELDS, {**DATA["fields"], "noise": {}})
    assert batch["noise"][:, 3].tolist() == [0.5] * 3, "asked for, an optional field is read"


def test_a_map_is_cut_as_its_picture_and_others_by_draws_of_their_own(path):
    """Files, crops and sizes are the same, so the pixels are."""
    (alone,) = batches(path, {"image": Picture(8)}, {})
    for of, same in (("image", True), ("", False)):
        fields = {"image": Picture(8), "control": Picture(8, of=of)}
        (batch,) = batches(path, fields, {"control": {"member": "map.png"}})
        assert np.array_equal(batch["image"], batch["control"]) == same
        assert np.array_equal(alone["image"], batch["image"]), "another field moved the crop"


def test_all_texts_are_cut_to_one_bucket(path):
    for buckets, widths in (((3,), (12, 6)), ((4, 9), (9, 6)), ((), (12, 6))):
        (batch,) = batches(path, buckets=buckets)
        found = batch["text"].shape[1], batch["question"].shape[1]
        assert found == widths, "'text N' and its edges are 8 ids, 'QN' 4"
    where = {"q": {"key": "asked"}}
    (batch,) = batches(path, {"q": Text(6, 259, cut=True)}, where, buckets=(4,))
    assert batch["q"].shape == (3, 4)


def test_evaluation_reads_by_the_rule_of_training(path):
    source, tokenizers = open_source(path), open_tokenizers(FIELDS, DATA)
    readers = make_readers(FIELDS, Setup(DATA, tokenizers, train=False))
    for reader in readers.values():
        reader.prepare(source, path)
    found = list(eval_batches(source, readers, batch_size=4))
    rows = {k: np.concatenate([batch[k] for batch in found]) for k in found[0]}
    assert rows["index"].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    assert rows["kind"].tolist() == [0, 1, 2, 0, 1, 2, 0, 0], "words are ranked, as in training"
    assert rows["latent"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert rows["text"].shape == (8, 12) and not rows["text"][6:].any()


def test_members_travel_to_other_forms(path, tmp_path):
    source = open_source(path)
    for form in ("tar", "array_record"):
        export(source, str(tmp_path / form), form)
    (folder := tmp_path / "folder").mkdir()
    (folder / "a.png").write_bytes(source[2]["image"])
    (folder / "a.npy").write_bytes(source[2]["members"]["npy"])
    table = {"image": "folder/a.png", "latent": "folder/a.npy"}
    (tmp_path / "t.jsonl").write_text(json.dumps(table))
    for other in (open_source(str(tmp_path / form)) for form in ("tar", "array_record")):
        assert [dict(other[i]["members"]) for i in range(N)] == [
            dict(source[i]["members"]) for i in range(N)
        ]
        assert other[0]["image"] == source[0]["image"]
    for place, member in ((str(folder), "npy"), (str(tmp_path / "t.jsonl"), "latent")):
        where = {"fields": {"latent": {"member": member}}}
        fields = {"latent": Numbers((2, 2))}
        pipeline = TrainPipeline({"path": place, **where}, fields, batch_size=1, seed=0)
        assert next(pipeline.batches(0))["latent"].ravel().tolist() == [2] * 4


DAMAGE = {
    "no_numbers": {"v": None},
    "bad_shape": {"v": [1, 2, 3]},
    "bad_dtype": {"v": ["a", "b"]},
    "bad_numbers": {"v": [[1], [2, 3]]},
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_numbers_that_do_not_fit_are_damage(reason, tmp_path):
    lines = [{"image": "a.png", **values} for values in ({"v": [1, 2]}, DAMAGE[reason])]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = {"path": str(tmp_path / "t.jsonl"), "damage_budget": 1.0}
    pipeline = TrainPipeline(data, {"v": Numbers((2,), "int32")}, batch_size=2, seed=0)
    assert next(pipeline.batches(0))["v"].tolist() == [[1, 2]] * 2
    assert dict(pipeline.dropped) == {reason: 1}


def test_whole_numbers_are_kept_whole(tmp_path):
    line = {"image": "a.png", "big": 2**40, "half": [0.5], "yes": True, "mixed": [1, True]}
    line |= {"odd": 2**24 + 1, "even": 2**24}
    (tmp_path / "t.jsonl").write_text(json.dumps(line))
    source = open_source(str(tmp_path / "t.jsonl"))
    for name, shape, dtype in (
        ("big", (), "int32"),
        ("half", (1,), "int32"),
        ("yes", (), "float32"),
        ("mixed", (2,), "int32"),
        ("odd", (), "float32"),
        ("odd", (), "bfloat16"),
    ):
        (reader,) = make_readers({name: Numbers(shape, dtype)}, Setup({})).values()
        with pytest.raises(DamagedSample, match="bad_dtype"):
            reader.read(source.metadata(0), None, None)
    for name, dtype, wanted in (("yes", "bool", True), ("even", "float32", 2**24)):
        (reader,) = make_readers({name: Numbers((), dtype)}, Setup({})).values()
        assert reader.read(source.metadata(0), None, None) == wanted


def test_nan_is_no_number(tmp_path):
    np.save(tmp_path / "n.npy", np.array([0.5, np.nan]))
    np.save(tmp_path / "i.npy", np.array([0.5, np.inf]))
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "a.png", "n": "n.npy", "i": "i.npy"}))
    example = open_source(str(tmp_path / "t.jsonl")).metadata(0)
    read = {}
    for name in "ni":
        setup = Setup({"fields": {name: {"member": name}}})
        (read[name],) = make_readers({name: Numbers((2,))}, setup).values()
    assert read["i"].read(example, None, None).tolist() == [0.5, np.inf]
    with pytest.raises(DamagedSample, match="bad_numbers"):
        read["n"].read(example, None, None)


MISTAKES = {
    "data.fields.contrl: no field of the method; did you mean 'control'": {"contrl": {}},
    "data.fields.control.membr: unknown key; did you mean 'member'": {"control": {"membr": "a"}},
    "data.fields.control.crop='squish' is unknown; did you mean": {"control": {"crop": "squish"}},
    "data.fields.control.member='mp.png': no sample has such a file; did you mean 'map.png'": {
        "control": {"member": "mp.png"}
    },
    "data.fields.question.key='askd': no sample has this JSON key; did you mean 'asked'": {
        "question": {"key": "askd"}
    },
    "data.fields.kind.key='asked' has 6 classes but the method's kind has 3": {
        "kind": {"key": "asked"}
    },
    "data.label: this method learns from labels": {"kind": {}},
    "data.fields.image.eval_crop='middle' is unknown": {"image": {"eval_crop": "middle"}},
    "data.fields.image.eval_crop='random': evaluation draws nothing; valid: center": {
        "image": {"eval_crop": "random"}
    },
    "data.fields.image.eval_crop='squash_random': evaluation draws nothing; did you mean": {
        "image": {"eval_crop": "squash_random"}
    },
    "data.fields.control.share=2 is out of range; it must be from 0.01 to 1": {
        "control": {"share": 2}
    },
    "data.fields.control.fill=256 is out of range; it must be from 0": {"control": {"fill": 256}},
    "data.fields.image.scale=(0.9, 0.1) must be (low, high)": {"image": {"scale": (0.9, 0.1)}},
    "data.fields.text.word_dropout=2 is out of range": {"text": {"word_dropout": 2}},
    "data.fields.text.templates: 'a {d}' has no {c}": {"text": {"templates": ("a {d}",)}},
    "data.fields.latent.key: numbers have a key or a member": {
        "latent": {"key": "a", "member": "b"}
    },
    "data.tokenizers: no 'shrt' for the method's question; did you mean 'short'": {
        "question": {"tokenizer": "shrt"}
    },
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_by_their_key(message, path):
    with pytest.raises(UserError) as caught:
        stream(path, where={**DATA["fields"], **MISTAKES[message]})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"tokenizer": "clip"},
            "data.tokenizer=clip: has 49408 ids but the method's a has 259; it takes 49408",
        ),
        ({"context_length": 7}, "data.context_length=7 but the method's a has 9; make them equal"),
        (
            {"tokenizers": {"b": "clip"}},
            "data.tokenizers.b=clip: has 49408 ids but m.vocab_size=259",
        ),
        (
            {"tokenizers": {"b": {"name": "bytes", "context_length": 4}}},
            "data.tokenizers.b.context_length=4 but m.context_length=5; make them equal",
        ),
        (
            {"tokenizers": {"b": "byts"}},
            "data.tokenizers.b='byts' is unknown; did you mean 'bytes'",
        ),
        ({"tokenizers": {}}, "data.tokenizers: no 'b' for the method's b; valid: text"),
        ({"tokenizers": "bytes"}, "data.tokenizers is 'bytes', it must be a section; set data.tok"),
        ({"tokenizer_options": "x"}, "data.tokenizer_options is 'x', it must be a section"),
        ({"fields": {"b": 3}}, "data.fields.b is 3, it must be a section; set data.fields.b.NAME"),
        ({"fields": "x"}, "data.fields is 'x', it must be a section; set data.fields.NAME"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told_by_its_key(change, message):
    fields = {"a": Text(9, 259), "b": Text(5, 259, tokenizer="b", key="m"), "n": Numbers(())}
    data = {"tokenizer": "bytes", "tokenizers": {"b": "bytes"}}
    assert {k: t.context_length for k, t in open_tokenizers(fields, data).items()} == {
        "a": 9,
        "b": 5,
    }
    with pytest.raises(UserError) as caught:
        open_tokenizers(fields, {**data, **change})
    assert message in str(caught.value)


def test_a_method_with_ids_and_keys_of_its_own_is_told_by_them():
    fields = {"a": Text(9, 257, own=2, keys=("m.v", "m.l"))}
    with pytest.raises(UserError) as caught:
        open_tokenizers(fields, {"tokenizer": "bytes"})
    own = "has 259 ids but m.v=259, of which 2 are the method's own; it takes 261"
    assert str(caught.value) == f"data.tokenizer=bytes: {own}"
    fields = {"a": dataclasses.replace(fields["a"], vocab_size=259)}
    with pytest.raises(UserError, match=r"data\.context_length=7 but m\.l=9; make them equal"):
        open_tokenizers(fields, {"tokenizer": "bytes", "context_length": 7})


def text_reader(train=False, cut=True, mask=False, **where):
    fields = {"text": Text(12, 259, cut=cut, mask=mask)}
    setup = Setup({"tokenizer": "bytes", "fields": {"text": where}}, {}, train)
    setup = dataclasses.replace(setup, tokenizers=open_tokenizers(fields, setup.data))
    return make_readers(fields, setup)["text"]


def test_evaluation_takes_the_first_caption_whole():
    example = {"key": "k", "text": ["one two three", "four"], "meta": {}}

    def draws(seed):
        return lambda draw: example_rng(seed, 0, 0, draw)

    for train, wanted in ((False, {"one two three"}), (True, {"", "four"})):
        reader = text_reader(train, word_dropout=0.999)
        found = {reader.read(example, draws(seed), Counter()) for seed in range(20)}
        assert (found == wanted) is not train and (len(found) > 1) is train


def test_only_texts_that_may_be_cut_keep_to_a_limit():
    free, cut = text_reader(cut=False), text_reader()
    assert free.fits("seven letters", 4) and not cut.fits("seven letters", 4)
    rows = ["abc", "abcdefghijklmnop"]
    assert free.arrays(rows, 5)["text"].shape == (2, 12)
    assert cut.arrays(rows, 5)["text"].shape == (2, 5)
    masked = text_reader(mask=True).arrays(rows, 6)
    real = (masked["text"][0] != cut.tokenizer.pad_id).sum()
    assert masked["text_mask"].sum(1).tolist() == [real, 6]
    tokenizer = text_reader().tokenizer
    tokenizer.pad_id = 300  # above the end: argmax over ids would pool it
    setup = Setup({"tokenizer": "bytes"}, {"text": tokenizer}, False)
    assert not make_readers({"text": Text(12, 259, cut=True)}, setup)["text"].cut


def test_what_uses_a_run_later_has_its_tokenizer():
    named = {"tokenizer": "clip", "context_length": 0, "fields": {"text": {"tokenizer": "short"}}}
    data = {**DATA, **named}
    spec = {"name": "bytes", "context_length": 12, "options": {"clean": "lower"}}
    assert spec_of("text", FIELDS["text"], data) == spec
    plain = {"tokenizer": "clip", "tokenizer_options": {"clean": ""}, "context_length": 9}
    wanted = {"name": "clip", "context_length": 9, "options": {"clean": ""}}
    assert spec_of("text", Text(9, 49408), plain) == wanted


@pytest.mark.parametrize("shape", [(2**70,), ("a",), (True,)])
def test_a_damaged_header_is_damage(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    example = {"key": "k", "meta": {}, "members": {"npy": file.getvalue() + bytes(8)}}
    data = {"fields": {"latent": {"member": "npy"}}}
    (reader,) = make_readers({"latent": Numbers((2,))}, Setup(data)).values()
    with pytest.raises(DamagedSample, match="bad_numbers"):
        reader.read(example, None, None)
    with pytest.raises(DamagedSample, match="no_member"):
        reader.read({**example, "members": {}}, None, None)


def test_numbers_are_found_under_their_key_and_may_be_infinite():
    (reader,) = make_readers({"v": Numbers((2,))}, Setup({"fields": {"v": {"key": "w"}}})).values()
    rows = reader.read({"meta": {"v": [1, 2], "w": [3.5, float("inf")]}}, None, None)
    assert rows.tolist() == [3.5, float("inf")]
    with pytest.raises(DamagedSample, match="bad_dtype"):
        reader.read({"meta": {"w": [0.0, 1e300]}}, None, None)
