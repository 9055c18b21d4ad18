"""Tokenizers' files beside a run: what is copied, how it is named, what is not touched."""

import shutil
from pathlib import Path

import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.data.text.carried import carried, carry, found_in


def test_files_go_below_the_folder_under_names_of_their_content(tmp_path):
    """A folder, any .txt, a file of any name and a SentencePiece model; equal ones lie once."""
    for name, file, content in (
        ("t", "tokenizer.json", b"{}"), ("t", "tokenizer_config.json", b"[]"),
        ("u", "odd.txt", b"a"), ("u", "b.model", b"b"), ("v", "x.json", b"{}"),
    ):  # fmt: skip
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_bytes(content)
    named = {
        "folder": tmp_path / "t", "file": tmp_path / "t" / "tokenizer.json",
        "alone": tmp_path / "v" / "x.json", "words": tmp_path / "u" / "odd.txt",
        "pieces": f"spm:{tmp_path}/u/b.model", "built": "bytes", "in": "clip",
    }  # fmt: skip
    found = {key: one for key, name in named.items() if (one := carried(str(name)))}
    assert found.keys() == named.keys() - {"built", "in"}
    assert found["folder"] == found["file"] != found["alone"], "what lies beside it counts"
    ends = {key: one.name.rpartition("/")[2] for key, one in found.items()}
    assert ends["words"] == "vocab.txt" and ends["pieces"] == "tokenizer.model"
    assert ends["alone"] == ends["folder"] == "tokenizer.json"
    assert found["pieces"].name.startswith("spm:tokenizers/")
    run = tmp_path / "run"
    carry(run, found)
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert len(stamps) == 5
    carry(run, found)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    there = found_in(str(run), {key: one.name for key, one in found.items()})
    assert there["pieces"] == f"spm:{run}/{found['pieces'].name.removeprefix('spm:')}"
    assert Path(there["words"]).read_bytes() == b"a"
    assert found_in(str(run), {"text": "tokenizers/gone/vocab.txt"}) == {}


def test_files_that_changed_in_the_folder_are_not_read(tmp_path):
    """The content, or what says that letters keep their case."""
    words = tmp_path / "t" / "vocab.txt"
    words.parent.mkdir()
    words.write_text("a\nb\n")
    (tmp_path / "t" / "tokenizer_config.json").write_text("{}")
    one, run = carried(str(words)), tmp_path / "run"
    for change in (
        lambda place: (place / "vocab.txt").write_text("b\na\n"),
        lambda place: (place / "tokenizer_config.json").unlink(),
    ):
        shutil.rmtree(run, ignore_errors=True)
        carry(run, {"text": one})
        names = {"text": one.name}
        assert found_in(str(run), names) == {"text": str(run / one.name)}
        change((run / one.name).parent)
        with pytest.raises(UserError, match=f"{one.name}: is not the tokenizer that this run was"):
            found_in(str(run), names)
