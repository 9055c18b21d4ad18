"""Sources agree with each other, keep what they are given, and refuse bad paths in one line."""

import csv
import json
import logging
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from generated import encode, sample, write_shards
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.array_record import write_array_record
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.export import export
from vlp_jax.data.mixture import Concat, open_mixture, open_pool, split_paths
from vlp_jax.data.open import open_source
from vlp_jax.data.source import Source, check_captions, check_key


@pytest.fixture
def forms(tmp_path):
    """The same six samples as tar, folder, CSV, TSV, JSONL and ArrayRecord."""
    (tmp_path / "tar").mkdir()
    write_shards(tmp_path / "tar", shards=2, per_shard=3)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(6):
        for name, data in sample(i):
            (folder / name).write_bytes(data)
    rows = [{"filepath": f"folder/s{i:04d}.png", "title": f"number {i}", "n": i} for i in range(6)]
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    lines = [json.dumps({**row, "caption": [row["title"], f"also {row['n']}"]}) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    source = open_source(str(folder))
    write_array_record(str(tmp_path / "t.array_record"), (source[i] for i in range(6)))
    names = ("tar", "folder", "t.csv", "t.tsv", "t.jsonl", "t.array_record")
    return {name: str(tmp_path / name) for name in names}


def test_sources_agree(forms):
    for path in forms.values():
        source = open_source(path)
        assert isinstance(source, Source) and len(source) == 6 and not source.damage
        for i in range(6):
            example = source[i]
            members = dict(sample(i))
            assert example["image"] == members[f"s{i:04d}.png"]
            assert example["key"].endswith(f"s{i:04d}")
            assert example["text"][0] == f"number {i}"
            plain = source.metadata(i)
            assert "image" not in plain and plain == {
                k: v for k, v in example.items() if k != "image"
            }
        twin = pickle.loads(pickle.dumps(source))
        assert twin[4] == source[4] and twin.fingerprint == source.fingerprint
        with pytest.raises(IndexError):
            source[6]


def test_json_is_kept_whole(forms):
    for name in ("tar", "folder", "t.array_record"):
        example = open_source(forms[name])[2]
        assert example["text"] == ["number 2", "also 2"]
        assert example["meta"]["label"] == 2 and example["meta"]["captions"] == example["text"]
    assert open_source(forms["t.jsonl"])[2]["text"] == ["number 2", "also 2"]


def test_class_folders_give_label_and_caption(tmp_path):
    for name in ("tabby_cat", "golden-retriever", "tabby_cat/deep"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "a.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    source = open_source(str(tmp_path))
    found = [(e["key"], e["text"], e["meta"]["label"]) for e in map(source.metadata, range(3))]
    assert found == [
        ("golden-retriever/a", ["golden retriever"], 0),
        ("tabby_cat/a", ["tabby cat"], 1),
        ("tabby_cat/deep/a", ["tabby cat"], 1),
    ]


def test_upper_case_suffixes_and_text_left_out(tmp_path):
    picture = encode(np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "A.PNG").write_bytes(picture)
    (tmp_path / "A.txt").write_text("a")
    (tmp_path / "lonely.png").write_bytes(picture)
    source = open_source(str(tmp_path))
    assert len(source) == 1 and [d.reason for d in source.damage] == ["no_caption"]


TFDS = """
import io, sys, numpy as np, PIL.Image, tensorflow_datasets as tfds

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["cat", "big_dog"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for i in range(6):
            out = io.BytesIO()
            PIL.Image.fromarray(np.full((8, 9, 3), i, np.uint8)).save(out, "PNG")
            out.seek(0)
            yield i, {"image": out, "label": i % 2}

Tiny(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()

from vlp_jax.core.fields import Label, Picture
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.open import open_source
from vlp_jax.data.source import check_captions
source = open_source("tfds:" + sys.argv[1] + "/tiny/1.0.0:train")
names = [(e["text"][0], e["meta"]["label"]) for e in map(source.__getitem__, range(len(source)))]
print(sorted(set(names)), len(source))
config = {"path": "tfds:" + sys.argv[1] + "/tiny/1.0.0", "label": "label", "threads": 1}
fields = {"image": Picture(8), "label": Label(2)}
pipeline = TrainPipeline(config, fields, batch_size=3, seed=0)
print(next(pipeline.batches(0))["image"].shape)
print("tensorflow" in sys.modules)
"""


def test_tfds_is_read_without_tensorflow(tmp_path):
    command = [sys.executable, "-c", TFDS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-3:] == [
        "[('big dog', 1), ('cat', 0)] 6",
        "(3, 8, 8, 3)",
        "False",
    ]


BAD_PATHS = {
    "": "data.path is empty",
    "nowhere": "no such file or folder: 'nowhere'",
    "nowhere.tar": "no such shard: 'nowhere.tar'",
    "nowhere-*.tar": "no such shard",
    "no/emoji_scenes-val-*.tar": "no such shard: .*; `python -m vlp_jax data prepare emoji_scenes "
    "--out=no` writes such",
    "nowhere.csv": "no such file: 'nowhere.csv'",
    "nowhere.array_record": "no such ArrayRecord file",
    "builtin:emoji/nothing": "no embedded data set 'builtin:emoji/nothing'; known: noto-test",
    "tfds:no_such_set": "TFDS cannot open 'no_such_set'",
    "notes.md": "is no data set",
    "empty": "no pictures in 'empty'",
    "bare.csv": "has no picture column .* it has: a, b",
    "rows.csv": "no rows in",
    "classes:nowhere": "classes:nowhere: no such folder",
    "x" * 5000: "no such file or folder",
    "x" * 5000 + ".tar": "no such shard",
    "nul\0.tar": "no such shard",
    "nul\0": "no such file or folder",
}


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths_are_one_line_errors(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "bare.csv").write_text("a,b\n1,2\n")
    (tmp_path / "rows.csv").write_text("image,caption\n")
    with pytest.raises(UserError, match=BAD_PATHS[path]) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["[photos]", "{a}", "{x,y}", "a*b?", "plain"])
def test_what_exists_is_no_pattern(forms, tmp_path, name):
    """Folders and files whose names would be patterns, beside what those would name."""
    decoys = [tmp_path / decoy for decoy in ("p", "a", "x", "y", "aab1")]
    home = tmp_path / name
    for folder in (home, *decoys):
        folder.mkdir()
        shutil.copy(tmp_path / "tar" / "x-001.tar", folder / "t-0.tar")
    shutil.copy(tmp_path / "tar" / "x-000.tar", home / "t-1.tar")
    shutil.copy(tmp_path / "tar" / "x-000.tar", home / "t[0].tar")
    (home / "pictures").mkdir()
    shutil.copy(tmp_path / "folder" / "s0002.png", home / "pictures")
    (home / "records").mkdir()
    shutil.copy(forms["t.array_record"], home / "records" / "r[1].array_record")
    for path, count in (("", 9), ("t-{0..1}.tar", 6), ("t-*.tar", 6), ("t[0].tar", 3),
                        ("pictures", 1), ("records", 6), ("records/r[1].array_record", 6),
                        ("records/*.array_record", 6)):  # fmt: skip
        assert len(open_source(str(home / path))) == count, path
    assert open_source(str(home / "t[0].tar"))[0]["key"] == "s0000"
    with pytest.raises(UserError, match="no such shard"):
        open_source(str(home / "u-*.tar"))


def test_a_folder_named_as_a_tar_is_a_folder(forms, tmp_path):
    (tmp_path / "tar" / "x-002.tar").mkdir()
    assert len(open_source(forms["tar"])) == len(open_source(forms["tar"] + "/x-*.tar")) == 6
    shutil.copy(tmp_path / "folder" / "s0002.png", tmp_path / "tar" / "x-002.tar")
    assert open_source(forms["tar"] + "/x-002.tar")[0]["key"] == "s0002"
    (tmp_path / "alone").mkdir()
    (tmp_path / "tar" / "x-002.tar").rename(tmp_path / "alone" / "x.tar")
    assert open_source(str(tmp_path / "alone"))[0]["key"] == "x.tar/s0002"


def test_pictures_beside_tars_are_told(forms, tmp_path):
    folder = tmp_path / "tar"
    assert open_source(str(folder)).notes == ()
    (folder / "x-000.tar").rename(folder / "X-000.TAR")
    (folder / "._x-001.tar").write_bytes(b"x")
    for name in ("s0001.png", "s0002.png"):
        shutil.copy(tmp_path / "folder" / name, folder)
    (folder / ".s.png").write_bytes(b"x")
    source = open_source(str(folder))
    assert len(source) == 6 and len(open_source(str(folder / "X-000.TAR"))) == 3
    assert source.notes == (f"{folder}: read as tars; left out: 2 pictures beside them",)


def test_a_flat_folder_is_pictures_alone(tmp_path):
    (tmp_path / "b.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "a.png").write_bytes(encode(np.ones((4, 4, 3), np.uint8)))
    source = open_source(str(tmp_path))
    assert len(source) == 2 and not source.damage
    assert source[0]["key"] == "a" and source[0]["text"] == [] and source[0]["image"]
    with pytest.raises(UserError, match=r"no captions in 'here': put NAME\.txt beside each"):
        check_captions(source, "here")


class Late:
    """A source whose last sample alone has a label and a caption; the third is damaged."""

    damage, fingerprint = (), "late"

    def __init__(self, count):
        self.count, self.asked = count, []

    def __len__(self):
        return self.count

    def metadata(self, i):
        self.asked.append(i)
        if i == 2:
            raise DamagedSample("bad_json")
        last = i == self.count - 1
        return {
            "key": str(i),
            "text": ["a"] * last,
            "meta": {"label": 1} if last else {"labels": 1},
        }


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2003, 5000])
def test_what_first_appears_late_is_found(count, caplog):
    caplog.set_level(logging.INFO, "vlp_jax.data.source")
    source = Late(count)
    check_key(source, "label", "data.label")
    check_captions(source, "here")
    with pytest.raises(UserError, match=r"data\.x='lable': no sample has this JSON key; did you"):
        check_key(source, "lable", "data.x")
    assert set(source.asked) == set(range(count)), "all were looked at before it was refused"
    lines = [r.getMessage() for r in caplog.records if "lable" in r.getMessage()]
    line = f"looking for data.x='lable' in {count:,} samples"
    assert lines == ([line] if count > 1000 else []), "a long search is told once"
    source.asked.clear()
    check_key(source, "labels" if count > 1 else "label", "data.x")
    assert len(source.asked) == 1


def test_very_large_sets_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr("vlp_jax.data.source._MOST", 4096)
    source = Late(10_000)
    with pytest.raises(UserError, match="no sample has this JSON key"):
        check_key(source, "absent", "data.x")
    assert len(set(source.asked)) > 3000 and len(source.asked) < 5100


def test_a_set_that_is_all_damaged_is_not_called_uncaptioned(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
        (tmp_path / f"{name}.txt").write_bytes(b"caf\xe9")
    source = open_source(str(tmp_path))
    check_captions(source, "here")
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(UserError, match="no captions in 'here'"):
        check_captions(source, "here")


def test_what_a_listing_lost_is_logged_once(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    path = tmp_path / "t.csv"
    path.write_text("image,caption\na.png,x\nb.png\n,y\nc.png,z,z\n")
    for _ in range(2):
        open_pool(str(path))
    lines = [r.getMessage() for r in caplog.records]
    assert lines == [
        f"{path}: lost: bad_row 2, no_image 1; first {path}: line 3 (1 cells for 2 columns) "
        "(`data check` names all)"
    ]


def test_damaged_rows_are_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "t.jsonl").write_text('{"image": "a.png", "caption": "a"}\n{"image": \n[1]\n')
    source = open_source(str(tmp_path / "t.jsonl"))
    assert [d.where.rsplit(": ")[-1] for d in source.damage] == ["line 2", "line 3"]
    (tmp_path / "t.csv").write_text("image,caption\na.png,a\nb.png\ngone.png,b\n")
    source = open_source(str(tmp_path / "t.csv"))
    assert [d.reason for d in source.damage] == ["bad_row"] and len(source) == 2
    with pytest.raises(DamagedSample, match=r"gone.png.*missing_file"):
        source[1]


def test_a_flipped_array_record_is_damage(forms):
    path = pathlib.Path(forms["t.array_record"])
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF  # inside the first record
    path.write_bytes(bytes(data))
    source = open_source(str(path))
    with pytest.raises(DamagedSample, match=r"t.array_record: record 0: unreadable_record"):
        source[0]
    assert [source[i]["key"] for i in range(1, 6)] == [f"s{i:04d}" for i in range(1, 6)]


def test_mixture_without_weights_is_one_pool(forms):
    source, order = open_mixture(f"{forms['tar']},{forms['folder']}", (), 0, "global")
    assert len(source) == 12 and sorted(order.index(np.arange(12, 24))) == list(range(12))
    assert source.metadata(7)["meta"]["source"] == 1 and source[7]["key"] == "s0001"


def test_mixture_mistakes_are_refused(forms):
    paths = f"{forms['tar']},{forms['folder']}"
    for weights in ((1,), (1, 2, 3), (-1, 2), (0, 0), (1, 1e-6)):
        with pytest.raises(UserError, match=r"data\.weights"):
            open_mixture(paths, weights, 0, "global")
    assert split_paths("a-{0,1}.tar, b ,c") == ["a-{0,1}.tar", "b", "c"]


def test_concat_finds_its_parts(forms):
    both = Concat([open_source(forms["tar"]), open_source(forms["t.csv"])])
    assert [both[i]["key"][-5:] for i in (0, 5, 6, 11)] == ["s0000", "s0005", "s0000", "s0005"]
    assert "t.csv" in both.where(6)
    with pytest.raises(IndexError):
        both[12]


@pytest.mark.parametrize("form", ["tar", "array_record"])
def test_export_keeps_everything(forms, tmp_path, form):
    source = open_source(forms["folder"])
    report = export(source, str(tmp_path / "out"), form, per_shard=4)
    assert report["samples"] == 6 and len(report["shards"]) == 2
    again = open_source(str(tmp_path / "out"))
    for i in range(6):
        assert again[i]["image"] == source[i]["image"] and again[i]["text"] == source[i]["text"]
        assert again[i]["meta"]["key"] == source[i]["key"] and again[i]["meta"]["label"] == i
    with pytest.raises(UserError, match="not an empty folder"):
        export(source, str(tmp_path / "out"))


def test_export_leaves_damage_out(forms, tmp_path):
    (tmp_path / "folder" / "s0002.png").write_bytes(b"<html>")
    (tmp_path / "folder" / "s0003.json").write_bytes(b"[")
    report = export(open_source(forms["folder"]), str(tmp_path / "out"))
    assert report["samples"] == 4
    assert report["damaged"] == {"unknown_format": 1, "bad_json": 1}


def test_export_keeps_every_format(tmp_path):
    (tmp_path / "in").mkdir()
    kinds = ("bmp", "gif", "jpg", "pbm", "pgm", "png", "ppm", "tif", "webp")
    for kind in kinds:
        mode = {"pbm": "1", "pgm": "L"}.get(kind, "RGB")
        Image.new(mode, (5, 4)).save(tmp_path / "in" / f"{kind}.{kind}")
    source = open_source(str(tmp_path / "in"))
    report = export(source, str(tmp_path / "out"))
    assert report["samples"] == 9 and report["damaged"] == {}
    again = open_source(str(tmp_path / "out"))
    assert [again[i]["meta"]["key"] for i in range(9)] == list(kinds)
    assert [again[i]["image"] for i in range(9)] == [source[i]["image"] for i in range(9)]
