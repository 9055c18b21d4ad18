"""What a folder is: stated in its path, judged from its texts and sub-folders, or refused."""

import logging
import os

import pytest
from generated import fill

from vlp_jax.core.errors import UserError
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.open import open_source
from vlp_jax.data.per_caption import PerCaption
from vlp_jax.data.source import pictures_stamp
from vlp_jax.data.subset import Subset


def texts(source):
    return [example["text"] for example in map(source.metadata, range(len(source)))]


def numbered(count, suffix="png", folder=""):
    return [f"{folder}{i:02d}.{suffix}" for i in range(count)]


def test_suffixes_of_texts_count_in_any_case(tmp_path):
    fill(tmp_path, "A.PNG", "A.TXT", "b.Jpg", "c.png", "c.TXT", "c.txt", "left.txt", "left.JSON")
    (tmp_path / "b.JSON").write_text('{"caption": "yes", "n": 3}')
    source = open_source(str(tmp_path))
    assert texts(source) == [["A.TXT"], ["yes"], ["c.txt"]] and source.metadata(1)["meta"]["n"] == 3
    assert source.notes == (
        f"{tmp_path}: 3 pictures with captions in texts of their names; left out: .json 1, .txt 1",
    )


def test_a_text_that_leads_nowhere_is_none(tmp_path):
    fill(tmp_path, "a.png", "a.txt", "b.png", "c.png", "c.txt", "x.superlongsuffix", "y.superlong")
    (tmp_path / "b.txt").symlink_to("nowhere")
    source = open_source(str(tmp_path))
    assert texts(source) == [["a.txt"], ["c.txt"]]
    assert source.damage == [("no_caption", f"{tmp_path}/b.png")]
    assert source.notes[0].endswith("; left out: other files 2, .txt 1")


def test_a_folder_whose_name_looks_like_a_kind(tmp_path, monkeypatch):
    fill(tmp_path / "classes:x", "a.png")
    fill(tmp_path / "x", "ant/a.png", "bee/a.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("classes:x")) == 1 and len(open_source("pictures:x")) == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("classes:~/x")) == 2


@pytest.mark.parametrize(
    "captioned,kind",
    [(0, "classes"), (1, "classes"), (2, ""), (9, ""), (10, "captions"), (20, "captions")],
)
def test_half_of_the_pictures_or_only_strays_have_texts(tmp_path, captioned, kind):
    fill(tmp_path, *numbered(10, folder="ant/"), *numbered(10, folder="bee/"))
    names = [*numbered(10, "txt", "ant/"), *numbered(10, "txt", "bee/")][:captioned]
    fill(tmp_path, *names)
    if not kind:
        message = f"'{tmp_path}': {captioned} of 20 pictures have a text of their name, such as "
        message += f"'ant/00.png': give captions:{tmp_path} for those alone, classes:{tmp_path} "
        with pytest.raises(UserError) as caught:
            open_source(str(tmp_path))
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
        assert texts(open_source(f"captions:{tmp_path}")) == [[name] for name in names]
        assert texts(open_source(f"classes:{tmp_path}")) == [["ant"]] * 10 + [["bee"]] * 10
        assert texts(open_source(f"pictures:{tmp_path}")) == [[]] * 20
        return
    source = open_source(str(tmp_path))
    assert source.kind == kind
    if kind == "classes":
        assert len(source) == 20 and hasattr(source, "classes") and not source.damage
        assert source.notes[0].endswith(f"; left out: .txt {captioned}") == bool(captioned)
    else:
        assert [d.reason for d in source.damage] == ["no_caption"] * (20 - captioned)
        assert texts(source) == [[name] for name in names] and not hasattr(source, "classes")


@pytest.mark.parametrize("outside,kind", [(3, "classes"), (4, "pictures")])
def test_classes_where_half_of_the_pictures_are_in_folders(tmp_path, outside, kind):
    fill(tmp_path, *numbered(outside), "ant/a.png", "bee/a.png", "bee/b.png")
    source = open_source(str(tmp_path))
    assert source.kind == kind
    assert [d.reason for d in source.damage] == ["no_class"] * (3 if kind == "classes" else 0)
    assert len(source) == (3 if kind == "classes" else 7)


SPLITS = {
    "flat": ["train/a.png", "test/a.png"],
    "with classes": ["train/ant/a.png", "train/bee/a.png", "Val/ant/a.png", "Val/bee/a.png"],
    "beside others": ["ant/a.png", "train2017/a.png", "val2017/a.png"],
    "one alone": ["train/ant/a.png", "train/bee/a.png"],
    "captioned": ["train/a.png", "train/a.txt", "validation/a.png", "validation/a.txt"],
}


@pytest.mark.parametrize("kind", SPLITS)
def test_parts_of_a_set_are_no_classes(tmp_path, kind):
    fill(tmp_path, *SPLITS[kind])
    parts = sorted({n.split("/")[0] for n in SPLITS[kind]} - {"ant"})
    what = "captions" if kind == "captioned" else "classes"
    paths = " or ".join(f"{tmp_path}/{part}" for part in parts)
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == (
        f"'{tmp_path}' holds the parts of a data set: give {paths} ({what}:{tmp_path} takes it "
        "whole)"
    )
    assert len(open_source(f"{what}:{tmp_path}")) == sum(n.endswith("png") for n in SPLITS[kind])
    assert len(open_source(f"{tmp_path}/{parts[0]}")) > 0


def test_classes_that_sound_like_parts_are_classes(tmp_path):
    fill(tmp_path, "bus/a.png", "train/a.png", "test tube/a.png", "training shoe/a.png")
    fill(tmp_path, "train station/a.png")
    assert open_source(str(tmp_path)).classes[1] == "test tube"
    fill(tmp_path / "x", "train/a.png", "train/a.txt")  # captions: there is nothing to mix up
    assert len(open_source(str(tmp_path / "x"))) == 1


def test_one_class_gives_no_caption(tmp_path):
    fill(tmp_path, "images/a.png", "images/b.png")
    source = open_source(str(tmp_path))
    assert texts(source) == [[], []]
    assert source.metadata(0)["meta"] == {"class": "images", "label": 0}


def test_a_kind_that_does_not_fit_is_refused(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    for kind, lack in (("captions", "a text of its name"), ("classes", "a sub-folder")):
        with pytest.raises(UserError, match=rf"{kind}:.*: none of 2 pictures has {lack}"):
            open_source(f"{kind}:{tmp_path}")
        with pytest.raises(UserError, match=f"{kind}:nowhere: no such folder"):
            open_source(f"{kind}:nowhere")
    fill(tmp_path / "no", "a.heic", "b.heic", "c.pdf")
    with pytest.raises(UserError, match=r"no pictures in .*; it holds \.heic 2, \.pdf 1$"):
        open_source(str(tmp_path / "no"))


def test_empty_class_folders_are_told(tmp_path):
    fill(tmp_path, "ant/a.png", "cow/a.png")
    (tmp_path / "bee").mkdir()
    source = open_source(str(tmp_path))
    assert source.classes == ["ant", "cow"]
    assert source.notes[0].endswith("2 pictures in 2 class folders; left out: empty folders 1")


def test_the_line_is_logged_once(tmp_path, caplog):
    fill(tmp_path, "a.png", "b.png", "x.md")
    with caplog.at_level(logging.INFO, "vlp_jax"):
        notes = [open_source(str(tmp_path)).notes[0] for _ in range(3)]
    line = f"{tmp_path}: 2 pictures without captions; left out: .md 1"
    assert notes == [line] * 3 and caplog.messages == [line]


@pytest.mark.parametrize("kind, alone", [("captions", "b.png"), ("classes", "b.png")])
def test_all_pictures_of_a_folder(tmp_path, kind, alone):
    inside = "" if kind == "captions" else "ant/"
    fill(
        tmp_path, f"{inside}a.png", alone, f"{inside}c.png", *["a.txt", "c.txt"][: 2 - len(inside)]
    )
    some = open_source(str(tmp_path))
    every = some.all_pictures()
    assert some.kind == kind and (len(some), len(every)) == (2, 3) and every.all_pictures() is every
    assert every.damage == [] and [d.where for d in some.damage] == [f"{tmp_path}/{alone}"]
    said = {every.metadata(i)["key"]: every.metadata(i)["text"] for i in range(3)}
    assert (
        said["b"] == []
        and "label" not in every.metadata(every.all_pictures()._names.index(alone))["meta"]
    )
    assert every.fingerprint != some.fingerprint


@pytest.mark.parametrize("table", [False, True])
def test_a_picture_of_the_same_size_has_another_stamp(tmp_path, table):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "t.csv").write_text("image,caption\n./a.png,x\nb.png,y\n")
    path = str(tmp_path / "t.csv") if table else str(tmp_path)

    def stamps():
        source = open_source(path)
        pool = open_pool(f"{path},{path}")
        wrapped = (source, Subset(source, [0]), PerCaption(source, 2), pool)
        return source.fingerprint, [pictures_stamp(one) for one in wrapped]

    before = stamps()
    os.utime(tmp_path / "a.png", ns=(1, 1))
    after = stamps()
    assert before[0] == after[0] and all(before[1]) and stamps() == after
    assert all(one != two for one, two in zip(before[1], after[1], strict=True))


def test_pictures_of_a_captioned_one_are_its_members(tmp_path):
    fill(tmp_path, "a.png", "a.txt", "a.edge.png", "a.seg.PNG", "b.png", "b.txt", "b.c.png")
    fill(tmp_path, "b.c.txt", "d.1.png")
    source = open_source(str(tmp_path))
    assert texts(source) == [["a.txt"], ["b.c.txt"], ["b.txt"]]
    assert source.damage == [("no_caption", f"{tmp_path}/d.1.png")]
    assert source.notes[0].endswith("; left out: further pictures of the same 2")
    assert list(source.metadata(0)["members"]) == ["edge.png", "seg.PNG"]
    assert source.metadata(0)["members"]["edge.png"] and not list(source.metadata(2)["members"])
    assert len(source.all_pictures()) == 4
