"""The converted folder: whole or not at all, proven on every read; golden inputs and preprocessing
files."""

import json
import os

import numpy as np
import pytest

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.interop import folder, preprocess
from vlp_jax.interop.golden import TOLERANCE, compare, golden_inputs

MANIFEST = {"arch": "x", "method": {}, "preprocessing": {}, "tokenizer": {}, "golden": {}}
ARRAYS = {"image/a": np.arange(4, dtype=np.float32), "logit_scale": np.float32(2)}


@pytest.fixture
def out(tmp_path):
    folder.write_folder(str(tmp_path / "out"), ARRAYS, MANIFEST)
    return tmp_path / "out"


def test_there_and_back(out, tmp_path):
    arrays, manifest = folder.read_folder(str(out))
    assert manifest["arch"] == "x" and manifest["format"] == folder.FORMAT
    for key, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[key], value)
    assert os.listdir(tmp_path) == ["out"]
    folder.write_folder(str(out), {"b": np.ones(1, np.float32)}, MANIFEST | {"arch": "y"})
    arrays, manifest = folder.read_folder(str(out))
    assert list(arrays) == ["b"] and manifest["arch"] == "y" and os.listdir(tmp_path) == ["out"]


def test_what_a_check_refuses_leaves_the_older_folder(out, tmp_path):
    seen = []

    def check(folder):
        seen.append(sorted(os.listdir(folder)))
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        folder.write_folder(str(out), {"b": np.ones(1, np.float32)}, MANIFEST, check=check)
    assert seen == [["vlp_jax.json", "weights.safetensors"]] and os.listdir(tmp_path) == ["out"]
    assert folder.read_folder(str(out))[0].keys() == ARRAYS.keys()


def test_a_link_is_followed(out, tmp_path):
    (tmp_path / "link").symlink_to(out)
    folder.write_folder(str(tmp_path / "link"), {"b": np.ones(1, np.float32)}, MANIFEST)
    assert list(folder.read_folder(str(out))[0]) == ["b"]
    assert sorted(os.listdir(tmp_path)) == ["link", "out"] and (tmp_path / "link").is_symlink()


def test_large_weights_are_written_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "LIMIT", 20)
    path, arrays = tmp_path / "out", ARRAYS | {"b": np.ones(9, np.float16), "c": np.float32(1)}
    folder.write_folder(str(path), arrays, MANIFEST)
    files = [f"weights-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(os.listdir(path)) == ["vlp_jax.json", *files]
    found, _ = folder.read_folder(str(path))
    assert found.keys() == arrays.keys() and found["b"].dtype == np.float16
    for key, value in arrays.items():
        np.testing.assert_array_equal(found[key], value)
    whole = (path / files[1]).read_bytes()
    folder.write_folder(str(tmp_path / "other"), arrays | {"b": np.zeros(9, np.float16)}, MANIFEST)
    for content, message in (
        ((path / files[2]).read_bytes(), "damaged, or a file of another model"),
        ((tmp_path / "other" / files[1]).read_bytes(), "damaged, or a file of another model"),
        (whole[:-2], rf".*this one is cut short at {len(whole) - 2}"),
        (None, "missing, vlp_jax.json lists 3 files of weights"),
    ):
        (path / files[1]).unlink() if content is None else (path / files[1]).write_bytes(content)
        with pytest.raises(UserError, match=f"{files[1]}: {message}") as caught:
            folder.read_folder(str(path))
        assert "\n" not in str(caught.value)


def test_a_folder_is_none_until_all_its_weights_are_written(tmp_path, monkeypatch):
    """A conversion that is killed leaves a hidden folder that nothing opens."""
    real, seen = folder.write_safetensors, []

    def write(path, arrays):
        found = real(path, arrays)
        seen.append([folder.is_folder(str(one)) for one in tmp_path.iterdir()])
        return found

    monkeypatch.setattr(folder, "LIMIT", 20)
    monkeypatch.setattr(folder, "write_safetensors", write)
    arrays = ARRAYS | {"b": np.ones(9, np.float16)}
    more = lambda weights: {"golden": {"b": float(weights["b"][0])}}  # noqa: E731
    folder.write_folder(str(tmp_path / "out"), arrays, MANIFEST, more=more)
    assert seen == [[False], [False]]
    assert folder.read_folder(str(tmp_path / "out"))[1]["golden"] == {"b": 1.0}


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, message in (("mine", "is not a converted checkpoint"), ("file", "is not a folder")):
        with pytest.raises(UserError, match=message):
            folder.write_folder(str(tmp_path / name), ARRAYS, MANIFEST)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    folder.write_folder(str(tmp_path / "empty"), ARRAYS, MANIFEST)
    assert folder.is_folder(str(tmp_path / "empty"))


def test_a_failing_write_leaves_nothing_and_keeps_the_old(out, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_json", full)
    for name in ("new", "out"):
        with pytest.raises(RunError, match=rf"{name}: cannot be written \(No space left"):
            folder.write_folder(str(tmp_path / name), ARRAYS, MANIFEST)
    assert os.listdir(tmp_path) == ["out"]
    assert folder.read_folder(str(out))[1]["arch"] == "x"


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_byte_is_found(out, where):
    weights = out / folder.WEIGHTS
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[{"first": start, "middle": (start + len(data)) // 2, "last": -1}[where]] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"weights\.safetensors: damaged"):
        folder.read_folder(str(out))


def test_another_vocabulary_beside_the_weights_is_found(tmp_path):
    """Its words have other ids; one that is gone is told where texts are read."""
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    out = tmp_path / "out"
    folder.write_folder(str(out), ARRAYS, MANIFEST, {"vocab.txt": str(tmp_path / "vocab.txt")})
    folder.read_folder(str(out))
    (out / "vocab.txt").write_text("b\na\n")
    with pytest.raises(UserError, match=r"out/vocab\.txt: changed since .* convert it again"):
        folder.read_folder(str(out))
    (out / "vocab.txt").unlink()
    folder.read_folder(str(out))


def test_manifests_that_lack_something(out):
    content = json.loads((out / folder.MANIFEST).read_text())
    for change, message in (
        ({"format": 9}, "format 9, we read 1"),
        ({"golden": None}, "lacks golden"),
    ):
        new = {key: value for key, value in (content | change).items() if value is not None}
        (out / folder.MANIFEST).write_text(json.dumps(new))
        with pytest.raises(UserError, match=message):
            folder.read_folder(str(out))


def test_golden_inputs_are_what_they_were():
    """Stored embeddings hang on these numbers: they may never change."""
    batch = golden_inputs(5, 8, 50)
    assert batch["image"].shape == (1, 5, 5, 3) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(
        batch["image"][0, 2],
        [[26, 55, 84], [33, 62, 91], [40, 69, 98], [48, 77, 106], [55, 84, 113]],
    )
    np.testing.assert_array_equal(batch["text"], [[1, 48, 47, 46, 49, 0, 0, 0]])
    large = golden_inputs(224, 77, 49408)
    assert (
        large["text"].max() == 49407
        and (large["text"] == 49407).sum() == 1
        and large["text"].min() == 0
    )
    assert len(np.unique(large["image"])) == 256


def test_compare_names_tower_and_difference():
    want = {"image": [0.6, 0.8], "text": [1.0, 0.0]}
    compare(
        want,
        {"image": np.float32([0.6, 0.8 + 0.5 * TOLERANCE]), "text": np.float32([1, 0])},
        "here",
    )
    for value, message in (
        (0.81, r"here: the golden image embedding differs by 0\.01"),
        (np.nan, "differs by nan"),
    ):
        with pytest.raises(UserError, match=message):
            compare(want, {"image": np.float32([0.6, value]), "text": np.float32([1, 0])}, "here")
    with pytest.raises(UserError, match=r"ours \(3,\)"):
        compare(want, {"image": np.zeros(3), "text": np.zeros(2)}, "here")


def test_preprocessing_files_both_ways():
    for how, kind in ((preprocess.HF_CLIP, "CLIP"), (preprocess.SIGLIP, "Siglip")):
        said = preprocess.from_hf(preprocess.to_hf(how, 224, kind), "x")
        assert said == how | {"image_size": 224}
    for how in (preprocess.OPEN_CLIP, preprocess.SIGLIP):
        assert preprocess.from_open_clip(preprocess.to_open_clip(how), "x") == how
    with pytest.raises(UserError, match="resampling 'lanczos'"):
        preprocess.from_open_clip({"interpolation": "lanczos"}, "x")
