"""Which members of a tar make a sample: dotted names, WebDataset's further fields, odd members."""

import logging
import os

import numpy as np
import pytest
from generated import headers, keys_and_texts, read, sample

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data import index as index_module
from vlp_jax.data import tar_members as members_module
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.source import label_of
from vlp_jax.data.tar import TarSource
from vlp_jax.data.walk import tell

P = sample(0)[0][1]


def test_names_with_dots_are_samples(tmp_path):
    """Two of one WebDataset key, a number, a dotted folder, a suffix in capitals, an empty part."""
    names = ("my.cat.v2", "my.dog.v2", "x/img_0.5", "v1.0/y", "a..b.", "Mr. T")
    members = [m for n in names for m in ((f"{n}.jpg", P), (f"{n}.TXT", n.encode()))]
    source = read(tmp_path / "d.tar", members)
    assert keys_and_texts(source) == [(n, n) for n in names]
    assert not source.damage and not source.notes and source[0]["image"] == P


def test_further_members_of_a_sample_are_listed_and_told(tmp_path, caplog):
    """WebDataset's convention: a key ends at the first dot."""
    members = [("000.seg.png", b"s"), ("000.jpg", P), ("000.txt", b"zero"), ("000.en.txt", b"nil"),
               ("my.cat.jpg", P), ("my.cat.txt", b"cat"), ("my.cat.seg.png", b"s"),
               ("001.jpg", P), ("001.png", b"s"), ("001.txt", b"one"),
               ("001.pth", b"p")]  # fmt: skip
    source = read(tmp_path / "d.tar", members)
    assert keys_and_texts(source) == [("000", "zero"), ("my.cat", "cat"), ("001", "one")]
    assert [source[i]["image"] for i in range(3)] == [P] * 3 and not source.damage
    counts = "seg.png 2, en.txt 1, png 1, pth 1"
    assert source.notes == (f"{tmp_path}/d.tar: 3 samples; further members: {counts}",)
    assert [dict(source[i]["members"]) for i in range(3)] == [
        {"en.txt": b"nil", "seg.png": b"s"},
        {"seg.png": b"s"},
        {"png": b"s", "pth": b"p"},
    ]
    members = source.metadata(0)["members"]
    assert (members["jpg"], members["txt"]) == (P, b"zero"), "those of the sample itself, too"
    assert "png" not in members
    with caplog.at_level(logging.INFO, "vlp_jax"):
        caplog.clear()
        tell.cache_clear()
        assert TarSource(str(tmp_path / "d.tar")).notes == source.notes  # of the stored index
    assert tuple(caplog.messages) == source.notes


@pytest.mark.parametrize("text", ["txt", "json", "cls"])
def test_a_dotted_name_beside_its_beginning_needs_a_text_of_its_own(tmp_path, text):
    members = [("a.jpg", P), ("a.txt", b"whole"), ("a.2.jpg", P), (f"a.2.{text}", b"{}"),
               ("a.3.jpg", P), ("a.2.seg.png", b"s")]  # fmt: skip
    source = read(tmp_path / "d.tar", members)
    assert [source[i]["key"] for i in range(len(source))] == ["a", "a.2"]
    assert [dict(source[i]["members"]) for i in (0, 1)] == [{"3.jpg": P}, {"seg.png": b"s"}]
    alone = read(tmp_path / "e.tar", [("a.2.jpg", P), ("a.txt", b"x"), ("a.2.txt", b"two")])
    assert keys_and_texts(alone) == [("a.2", "two")]
    assert [(d.reason, d.where[-4:]) for d in alone.damage] == [("no_image", " 'a'")]


def test_all_of_a_repeated_sample_is_left_out(tmp_path):
    """Two numberings joined: nothing of the second `0` may join the first."""
    first = [("0.jpg", P), ("0.txt", b"one"), ("1.jpg", P), ("1.txt", b"two")]
    again = [("0.jpg", b"x"), ("0.txt", b"x"), ("0.en.txt", b"x"), ("0.npy", b"x"), ("0.cls", b"9")]
    source = read(tmp_path / "d.tar", [*first, *again, ("2.jpg", P), ("2.cls", b"4")])
    assert [(d.reason, d.where[-3:]) for d in source.damage] == [("duplicate_key", "'0'")]
    assert keys_and_texts(source)[:2] == [("0", "one"), ("1", "two")]
    assert dict(source[0]["members"]) == {} and source[0]["meta"] == source[1]["meta"]
    assert source[2]["meta"]["cls"] == 4


def rot(path, data):
    """Other bytes, of which the file's time says nothing."""
    was = path.stat().st_mtime_ns
    path.write_bytes(bytes(data))
    os.utime(path, ns=(was, was))


def test_dotted_names_are_checked_like_others(tmp_path):
    pairs = (("jpg", P), ("txt", b"number two"))
    members = [(f"a.{i}.{s}", d) for i in range(30) for s, d in pairs]
    source = read(tmp_path / "d.tar", [*members, ("a.4.txt", b"again")])
    assert [(d.reason, d.where[-5:]) for d in source.damage] == [("duplicate_key", "'a.4'")]
    assert source.shards[0][1].tokens.tolist() == [2] * 30
    data = bytearray((tmp_path / "d.tar").read_bytes())
    data[headers(bytes(data))["a.3.jpg"][0] + 512 + 60] ^= 1
    rot(tmp_path / "d.tar", data)
    with pytest.raises(DamagedSample, match=r"'a\.3': checksum"):
        TarSource(str(tmp_path / "d.tar"))[3]


def test_what_systems_leave_behind_is_left_out_of_tars_too(tmp_path):
    members = [("./a.jpg", P), ("./a.txt", b"one"), ("__MACOSX/a.jpg", P), ("x/@eaDir/a.jpg", P),
               ("._a.jpg", P), (".x/a.jpg", P), ("__meta__/a.jpg", P), ("README", b"r"),
               ("__own.jpg", P), ("__own.txt", b"two")]  # fmt: skip
    source = read(tmp_path / "d.tar", members)
    assert keys_and_texts(source) == [("./a", "one"), ("__own", "two")] and not source.damage
    assert source.shards[0][1].left_out == {
        "__MACOSX": 1,
        "@eaDir": 1,
        "hidden": 2,
        "metadata": 1,
        "other files": 1,
    }


def test_a_tar_without_samples_says_what_it_holds(tmp_path):
    with pytest.raises(UserError, match=r"no samples in .*d\.tar.*; it holds \.heic 2, \.md 1$"):
        read(tmp_path / "d.tar", [("a.heic", b"x"), ("b.heic", b"x"), ("c.md", b"x")])


def test_indices_of_the_older_rule_are_built_again(tmp_path, monkeypatch, caplog):
    members = [("a.jpg", P), ("a.txt", b"one"), ("b.c.jpg", P), ("b.c.txt", b"two")]
    path = tmp_path / "d.tar"
    assert len(read(path, members)) == 2
    good = (tmp_path / "d.index").read_bytes()
    older = index_module.load(str(tmp_path / "d.index"), str(path))
    monkeypatch.setattr(index_module, "VERSION", 2)
    for name in ("offset", "length", "crc", "tokens", "picture"):
        setattr(older, name, getattr(older, name)[:1])
    older.keys = ["a"]
    index_module.save(older, str(tmp_path / "d.index"), str(path))
    monkeypatch.undo()
    tell.cache_clear()
    with caplog.at_level(logging.INFO, "vlp_jax"):
        assert keys_and_texts(TarSource(str(path))) == [("a", "one"), ("b.c", "two")]
        TarSource(str(path))
    assert caplog.messages == [
        "indices of tars made by an older version are built again: all members are listed"
    ]
    assert (tmp_path / "d.index").read_bytes() == good
    index_module.save(older, str(tmp_path / "d.index"), str(path))
    path.write_bytes(path.read_bytes()[:400])  # the older one still tells what a damaged tar lost
    with pytest.raises(RunError, match="no sample left"):
        TarSource(str(path))
    lost = index_module.load(str(tmp_path / "d.index"), str(path)).damage
    assert [d.where.rsplit(": ")[-1] for d in lost if d.reason == "missing"] == ["'a'"]


TAMPERED = {
    "picture": (np.int32([-1, 0]), np.float64([0.5, 0]), np.int32([0, 99]), np.int32([0])),
    "further": (np.int64([[-1], [0], [0], [0], [0]]), np.int64([[0], [-1], [0], [0], [0]]),
                np.int64([[2], [0], [0], [0], [0]]), np.int64([[0], [99], [0], [0], [0]]),
                np.float64([[0.5], [0], [0], [0], [0]]), np.int64([[0], [0]])),
    "tokens": (np.int32([1]), np.float32([1, 1])),
    "left_out": ({"other files": "2"}, [1]),
    "suffixes": ([1, 2, 3],),
    "size": ("1",),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_an_index_that_was_tampered_with_is_built_again(name, tmp_path, monkeypatch):
    """By someone who made its digest fit."""
    members = [("a.jpg", P), ("a.txt", b"one"), ("a.npy", b"x"), ("b.jpg", P), ("b.txt", b"two")]
    tar, index = str(tmp_path / "d.tar"), str(tmp_path / "d.index")
    read(tmp_path / "d.tar", members)
    good = (tmp_path / "d.index").read_bytes()
    assert index_module.load(index, tar) is not None
    for value in TAMPERED[name]:
        other = index_module.load(index, tar)
        setattr(other, name, value)
        with monkeypatch.context() as patch:
            if name == "suffixes":
                patch.setattr(type(other), "digest", "0" * 32)
            index_module.save(other, index, tar)
            assert index_module.load(index, tar) is None, value
        TarSource(tar)
        assert (tmp_path / "d.index").read_bytes() == good


def test_members_that_cannot_be_read_are_told_or_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(members_module, "MAX_MEMBER", 1000)
    members = [*sample(0), ("s0000.npy", b"x" * 10), ("s0000.NPY", b"y"), ("s0000.pt", bytes(1001)),
               *sample(1), ("other.npy", b"z")]  # fmt: skip
    source = read(tmp_path / "d.tar", members)
    left = {"repeated .npy": 1, "too large .pt": 1, ".npy": 1}
    assert source.shards[0][1].left_out == left and not source.damage
    assert source[0]["members"]["npy"] == b"x" * 10
    assert TarSource(str(tmp_path / "d.tar")).fingerprint == source.fingerprint
    other = [(name, b"z" * 10 if name == "s0000.npy" else data) for name, data in members]
    assert read(tmp_path / "e.tar", other).fingerprint != source.fingerprint
    data = bytearray((tmp_path / "d.tar").read_bytes())
    data[headers(bytes(data))["s0000.npy"][0] + 512 + 3] ^= 1
    rot(tmp_path / "d.tar", data)
    broken = TarSource(str(tmp_path / "d.tar"))[0]["members"]
    with pytest.raises(DamagedSample, match=r"'s0000': checksum"):
        broken["npy"]


def test_odd_class_files_are_words_or_damage(tmp_path):
    found = {b"7": 7, b" -3\n": -3, b"+4": 4, b"\xef\xbb\xbf5\r\n": 5, b"6\0": 6, b"--3": "--3",
             b"\xc2\xb2": "\u00b2", b"9" * 19: "9" * 19, b"9" * 18: int("9" * 18),
             b"9" * 5000: "9" * 5000, b"a cat": "a cat", "\u0663".encode(): "\u0663"}  # fmt: skip
    bad = (b"", b" \n", b"\xff\xfe")
    members = [(f"{i}.{s}", d) for i, c in enumerate((*found, *bad)) for s, d in
               (("jpg", P), ("cls", c))]  # fmt: skip
    source = read(tmp_path / "d.tar", members)
    assert [source.metadata(i)["meta"]["cls"] for i in range(len(found))] == list(found.values())
    for i in range(len(found), len(source)):
        with pytest.raises(DamagedSample, match=rf"d\.tar: '{i}': bad_class"):
            source.metadata(i)
    assert label_of({"meta": {"cls": 2**31 - 1}}, "cls") == 2**31 - 1
    for value in (2**31, -(2**31) - 1):
        with pytest.raises(DamagedSample, match="unknown_class"):
            label_of({"meta": {"cls": value}}, "cls")
