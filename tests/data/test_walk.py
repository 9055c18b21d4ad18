"""One rule for a folder: what is read, what is left out by which word, what is lost."""

import io
import os
from collections import Counter

import numpy as np
import pytest
from generated import PICTURE, fill
from PIL import Image

from vlp_jax.api.pictures import list_pictures
from vlp_jax.core.errors import UserError, printable
from vlp_jax.data.decode import FORMATS, decode_image
from vlp_jax.data.open import open_source
from vlp_jax.data.walk import IMAGE_SUFFIXES, told, walk


def test_suffixes_are_those_of_the_formats_that_are_read():
    Image.init()
    pillow = {s[1:] for s, form in Image.registered_extensions().items() if form in FORMATS}
    assert pillow - IMAGE_SUFFIXES == {"pfm"} and pillow >= IMAGE_SUFFIXES
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO"):
        out = io.BytesIO()
        Image.new("RGB", (5, 6), "red").save(out, form)
        red = decode_image(out.getvalue(), 2, "squash")
        assert np.abs(red.astype(int) - (255, 0, 0)).max() < 4, form


def test_what_systems_leave_behind_is_no_class(tmp_path):
    fill(tmp_path, "bee/1.png", "ant/0.png", "cow/deep/2.png")
    plain = [("ant/0", 0), ("bee/1", 1), ("cow/deep/2", 2)]
    left = ["@eaDir/bee/1.png", "ant/@EADIR/0.png/SYNO.png", "__MACOSX/ant/._0.png",
            "#recycle/a.png", "ant/.ipynb_checkpoints/0.png", "$RECYCLE.BIN/a.png",
            "lost+found/a.png", ".cache/a.png", "System Volume Information/a.png",
            "__pycache__/a.png", "ant/._0.png"]  # fmt: skip
    fill(
        tmp_path, *left, "ant/Thumbs.db", "desktop.ini", "bee/notes.md", "bee/a.heic", "bee/1.xmp~"
    )
    (tmp_path / "dig").mkdir()
    source = open_source(str(tmp_path))
    assert [(e["key"], e["meta"]["label"]) for e in map(source.metadata, range(3))] == plain
    assert len(source) == 3 and not source.damage
    found = walk(str(tmp_path)).left_out
    assert found == {
        "hidden": 3,
        "@eaDir": 1,
        "@EADIR": 1,
        **dict.fromkeys(("__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found", "__pycache__"), 1),
        **dict.fromkeys(("System Volume Information", "Thumbs.db", "desktop.ini"), 1),
        **dict.fromkeys((".md", ".heic", ".xmp~"), 1),
    }
    assert source.notes[0].startswith(
        f"{tmp_path}: 3 pictures in 3 class folders; left out: hidden 3, #recycle 1, "
    )
    assert source.notes[0].endswith(", ...")


def test_counts_are_told_the_largest_first_and_not_without_end():
    counts = dict(b=1, a=1, c=2, none=0)
    assert told(Counter(counts)) == "c 2, a 1, b 1"
    many = {f"{i:02d}": 1 for i in range(9)}
    assert told(Counter(many)).endswith("07 1, ...")
    many.pop("08")
    assert told(Counter(many)).endswith("07 1")


def test_links_to_files_and_folders_are_followed(tmp_path):
    fill(tmp_path / "far", "ant/0.png", "more/3.png")
    root = fill(tmp_path / "set", "bee/1.png", "cow/2.png")
    (root / "ant").symlink_to(tmp_path / "far" / "ant")
    (root / "cow" / "linked").symlink_to(tmp_path / "far" / "more")
    (root / "cow" / "4.png").symlink_to(root / "bee" / "1.png")
    source = open_source(str(root))
    assert [(e["key"], e["meta"]["label"]) for e in map(source.metadata, range(5))] == [
        ("ant/0", 0),
        ("bee/1", 1),
        ("cow/2", 2),
        ("cow/4", 2),
        ("cow/linked/3", 2),
    ]
    assert len(source) == 5 and source[4]["image"] == PICTURE


def test_links_that_go_round_end(tmp_path):
    root = fill(tmp_path, "ant/0.png", "bee/1.png", "ant/x/2.png")
    (root / "ant" / "up").symlink_to(root)
    (root / "ant" / "x" / "here").symlink_to(root / "ant")
    (root / "ant" / "y").symlink_to(root / "ant" / "x")
    (root / "cow").symlink_to(root / "bee")  # the same pictures as another class: it is asked for
    (root / "self").symlink_to(root)
    (root / "own.png").symlink_to(root / "own.png")
    found = walk(str(root))
    assert list(found.pictures) == ["ant/0.png", "ant/x/2.png", "bee/1.png", "cow/1.png"]
    assert found.left_out == {"linked again": 4}
    assert found.lost == {"own.png": "missing_file"}


def test_what_cannot_be_opened_is_damage(tmp_path, monkeypatch):
    root = fill(tmp_path, "ant/0.png", "cow/1.png", "bee/2.png", "dog/3.png", "dog/in/4.png")
    (root / "bee" / "2.png").unlink()
    (root / "bee" / "2.png").symlink_to("nowhere")
    os.mkfifo(root / "dog" / "pipe.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith(("ant", "in")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = open_source(str(root))
    assert sorted((d.where, d.reason) for d in source.damage) == [
        (f"{root}/ant/", "unreadable_folder"),
        (f"{root}/bee/2.png", "missing_file"),
        (f"{root}/dog/in/", "unreadable_folder"),
        (f"{root}/dog/pipe.png", "missing_file"),
    ]
    found = [(e["key"], e["meta"]["label"]) for e in map(source.metadata, range(len(source)))]
    assert found == [("cow/1", 2), ("dog/3", 3)]  # classes keep their numbers


def test_a_root_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def denied(path="."):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"cannot read folder '.*': Permission denied"):
        walk(str(tmp_path))
    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(UserError, match=r"cannot read folder '.*': Permission denied"):
        open_source(str(tmp_path))


def test_embed_and_training_see_the_same_pictures(tmp_path):
    names = [f"in/{i}.{s}" for i, s in enumerate(sorted(IMAGE_SUFFIXES))] + ["A.PNG", "in/B.TIFF"]
    fill(tmp_path, *names, ".hidden.png", "@eaDir/x.png", "in/notes.md")
    source = open_source(f"pictures:{tmp_path}")
    seen = [os.path.relpath(source.where(i), tmp_path) for i in range(len(source))]
    assert sorted(seen) == list_pictures([str(tmp_path)])[1] == sorted(names)


def test_names_of_any_bytes_fit_a_line(tmp_path):
    assert printable("naïve\u3000日本.png") == "naïve\u3000日本.png"
    assert printable("a\nb\u2028\x7f\udcff") == r"a\nb\u2028\x7f\udcff"
    for name in (b"caf\xe9", b"two\nlines", b"plain"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), name))
        with open(os.path.join(os.fsencode(tmp_path), name, b"\xff\n.png"), "wb") as file:
            file.write(PICTURE)
    source = open_source(str(tmp_path))
    for i, name in enumerate((r"caf\udce9", "plain", r"two\nlines")):
        example = source[i]
        assert example["key"] == name + r"/\udcff\n" and example["image"] == PICTURE
        assert example["meta"] == {"class": name, "label": i} and example["text"] == [name]
        assert source.where(i) == rf"{tmp_path}/{name}/\udcff\n.png"
