"""What is certain is decoded, what is not is counted or refused with its place."""

import json

import numpy as np
import pytest
from generated import encode, tar_bytes

from vlp_jax.api.pictures import read_texts
from vlp_jax.core.errors import UserError
from vlp_jax.data.array_record import write_array_record
from vlp_jax.data.caption import CaptionSpec, choose_caption
from vlp_jax.data.check import check
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.encoding import BadText, decode, decode_json, read_text
from vlp_jax.data.open import open_source
from vlp_jax.data.source import captions_of
from vlp_jax.data.tfds import _plain
from vlp_jax.evals.kits.samples import class_names

PICTURE = encode(np.zeros((4, 4, 3), np.uint8))
TEXT = "a naïve café 🙂"
CERTAIN = {
    "utf-8": TEXT.encode(),
    "utf-8 with its mark": TEXT.encode("utf-8-sig"),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16-be": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "utf-32": TEXT.encode("utf-32"),
    "utf-32-be": b"\0\0\xfe\xff" + TEXT.encode("utf-32-be"),
}
WEST = "perhaps Windows-1252 or Latin-1"
BAD = {
    "latin-1": ("un café noir".encode("latin-1"), f"byte 0xe9 is not UTF-8; {WEST}"),
    "windows-1252": ("“hi” there".encode("cp1252"), f"byte 0x93 is not UTF-8; {WEST}"),
    "shift-jis": ("日本語".encode("shift-jis"), "byte 0x93 is not UTF-8"),
    "cut": ("a 🙂".encode()[:-1], "byte 0xf0 is not UTF-8; perhaps cut in a character"),
    "utf-16 unmarked": ("a dog".encode("utf-16-le"), "a NUL character; perhaps UTF-16 without"),
    "utf-16 accents": ("é dog".encode("utf-16-le"), "byte 0xe9 .* perhaps UTF-16 without its mark"),
    "utf-16 cut": (TEXT.encode("utf-16")[:-1], "UTF-16.* cut or broken"),
    "surrogate": ("a \ud83d".encode("utf-8", "surrogatepass"), "byte 0xed is not UTF-8"),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_certain_text_is_decoded(name):
    assert decode(CERTAIN[name]) == TEXT


@pytest.mark.parametrize("name", BAD)
def test_uncertain_text_is_refused_with_a_guess(name):
    data, hint = BAD[name]
    with pytest.raises(BadText, match=hint) as found:
        decode(data)
    assert found.value.line == 1
    assert ("Windows" in str(found.value)) == (name in ("latin-1", "windows-1252"))


@pytest.mark.parametrize("head", [b"a\nb\n", b"\xef\xbb\xbfa\nb\n"])
def test_the_line_is_told(head):
    for wrong in (b"caf\xe9\n", b"x\0\n"):
        with pytest.raises(BadText) as found:
            decode(head + wrong)
        assert found.value.line == 3
    broken = "a\nb\nc".encode("utf-16-le") + b"\x3d\xd8"  # half of a pair
    with pytest.raises(BadText) as found:
        decode(b"\xff\xfe" + broken)
    assert found.value.line == 3


def write_both(folder, members):
    """The same members as a folder and as a tar in it."""
    for name, data in members:
        (folder / name).write_bytes(data)
    (folder / "tar").mkdir()
    (folder / "tar" / "x.tar").write_bytes(tar_bytes(members))
    return [str(folder), str(folder / "tar" / "x.tar")]


def outcome(source, i):
    try:
        return source[i]["text"]
    except DamagedSample as damage:
        return damage.reason


def test_captions_of_folders_and_tars(tmp_path):
    members = []
    files = {**CERTAIN, **{name: data for name, (data, _) in BAD.items()}}
    for number, data in enumerate(files.values()):
        members += [(f"{number:02d}.png", PICTURE), (f"{number:02d}.txt", data)]
    for path in write_both(tmp_path, members):
        source = open_source(path)
        found = [outcome(source, i) for i in range(len(source))]
        assert found == [[TEXT]] * len(CERTAIN) + ["bad_text"] * len(BAD), path
        listed = [d for d in check(source) if d.reason == "bad_text"]
        assert len(listed) == len(BAD) and WEST in listed[0].where and "06" in listed[0].where


def test_metadata_is_read_by_the_same_rule(tmp_path):
    certain = [json.dumps({"caption": TEXT}, ensure_ascii=False).encode(n) for n in
               ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32-le")]  # fmt: skip
    bad = [(b'{"caption": "caf\xe9 x"}', "bad_text"), (b'{"caption": "\\ud83d x"}', "bad_text"),
           (b'{"caption": "\\u0000"}', "bad_text"), (b"[1]", "bad_json"), (b"{", "bad_json"),
           (b'{"caption": "a\xed\xa0\xbd"}', "bad_text"), (b"[" * 9999, "bad_json")]  # fmt: skip
    members = []
    for number, data in enumerate([*certain, *(data for data, _ in bad)]):
        members += [(f"{number:02d}.png", PICTURE), (f"{number:02d}.json", data)]
    for path in write_both(tmp_path, members):
        source = open_source(path)
        found = [outcome(source, i) for i in range(len(source))]
        assert found == [[TEXT]] * len(certain) + [reason for _, reason in bad], path
    assert decode_json(b'{"a": "\\ud83d"}', "x") == {"a": "\ud83d"}, "no caption: nothing is lost"


def test_half_characters_of_any_source_are_bad_text(tmp_path):
    with pytest.raises(DamagedSample, match="bad_text"):
        choose_caption({"text": [], "meta": {"k": ["\ud83d"]}}, CaptionSpec("k"), None)
    with pytest.raises(DamagedSample, match="bad_text"):
        captions_of(None, {"captions": _plain([b"caf\xe9 x"])})
    assert captions_of(None, {"captions": _plain([TEXT.encode()])}) == [TEXT]
    path = tmp_path / "x.array_record"
    write_array_record(str(path), [{"key": "a", "text": ["a \ud83d"], "meta": {}}])
    with pytest.raises(DamagedSample, match="record 0: bad_text"):
        open_source(str(path)).metadata(0)


def test_what_stands_for_no_value_is_no_caption():
    for value in ("nan", "NaN", "None", "null", "NULL", "<NA>", " ", float("nan"), None, [None]):
        assert captions_of(None, {"caption": value}) == [], value
        assert captions_of("nan", {"captions": value}) == []
    assert captions_of(None, {"caption": ["a", None, "nan", "b ", 3]}) == ["a", "b"]
    assert captions_of(" ", {"caption": "c"}) == ["c"]
    assert captions_of(None, {"captions": "one"}) == ["one"]
    with pytest.raises(DamagedSample, match="no_caption"):
        choose_caption({"text": [], "meta": {"k": float("nan")}}, CaptionSpec("k"), None)


def test_whole_files_name_file_and_line(tmp_path):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_bytes("katze\r\nhäuser".encode("utf-16"))
    bad.write_bytes("katze\nhäuser".encode("latin-1"))
    assert read_text(str(good)) == "katze\nhäuser"
    assert read_texts(str(good)) == ["katze", "häuser"]
    assert class_names([1, 0], str(good)) == {0: "katze", 1: "häuser"}
    assert read_text(str(good), newline="") == "katze\r\nhäuser"
    message = rf"bad\.txt' cannot be read \(line 2: byte 0xe4 .*{WEST}\); save it as UTF-8$"
    for read in (read_text, read_texts, lambda path: class_names([0], path)):
        with pytest.raises(UserError, match=message) as found:
            read(str(bad))
        assert "\n" not in str(found.value)
    with pytest.raises(UserError, match=r"none\.txt' cannot be read \(No such file"):
        read_text(str(tmp_path / "none.txt"))
