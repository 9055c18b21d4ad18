"""`embed`: what the file holds, in which order, and what is refused with nothing written."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from vlp_jax.api.model import load_model
from vlp_jax.api.pictures import list_pictures, read_texts
from vlp_jax.cli import embed
from vlp_jax.core.errors import RunError, UserError

PATHS = ["a.jpg", "b.webp", "c.png", "e.gif", "sub/d.png"]


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text(
        "a cat\n\nnaïve café 🙂\r\n" + "word " * 2000 + "\n\n", encoding="utf-8"
    )
    return tmp_path / "texts.txt"


def run(tiny_model, out, **flags):
    return embed.main(
        [f"--checkpoint={tiny_model}", f"--out={out}", *(f"--{k}={v}" for k, v in flags.items())]
    )


def test_the_file(tiny_model, pictures, texts, tmp_path, capsys):
    out = tmp_path / "e.npz"
    args = [
        f"--checkpoint={tiny_model}",
        f"--out={out}",
        f"--images={pictures}",
        f"--texts={texts}",
        "--batch-size=2",
    ]
    assert embed.main([*args, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert (report["images"], report["texts"], report["dim"], report["skipped"]) == (5, 4, 12, 0)
    with np.load(out) as found:
        assert sorted(found.files) == ["image", "image_paths", "logit_scale", "text", "texts"]
        assert list(found["image_paths"]) == PATHS
        assert list(found["texts"]) == ["a cat", "", "naïve café 🙂", "word " * 2000]
        image, text = found["image"], found["text"]
        assert found["logit_scale"].dtype == np.float32 and found["logit_scale"].shape == ()
        scale = float(found["logit_scale"])
    assert (
        image.dtype == text.dtype == np.float32 and image.shape == (5, 12) and text.shape == (4, 12)
    )
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-6)
    model = load_model(str(tiny_model))
    assert scale == pytest.approx(float(np.exp(model.params["logit_scale"])))
    for path, row in zip(PATHS, image, strict=True):  # one by one gives what batches gave
        picture = model.decode((pictures / path).read_bytes())
        np.testing.assert_allclose(
            model.embedders()["image"]({"image": picture[None]})[0], row, atol=1e-6
        )
    ids = model.tokenizer()(["naïve café 🙂"])
    np.testing.assert_allclose(model.embedders()["text"]({"text": ids})[0], text[2], atol=1e-6)


def test_only_pictures_or_only_texts(tiny_model, pictures, texts, tmp_path):
    assert run(tiny_model, tmp_path / "i.npz", images=pictures) == 0
    assert run(tiny_model, tmp_path / "t.npz", texts=texts) == 0
    both = np.load(tmp_path / "i.npz"), np.load(tmp_path / "t.npz")
    assert both[0]["image"].shape == (5, 12) and both[0]["text"].shape == (0, 12)
    assert both[1]["image"].shape == (0, 12) and both[1]["text"].shape == (4, 12)


def test_a_damaged_picture_is_named_or_skipped(tiny_model, pictures, tmp_path):
    (pictures / "bad.png").write_bytes((pictures / "c.png").read_bytes()[:60])
    out = tmp_path / "e.npz"
    with pytest.raises(UserError, match=r"--images: bad\.png: .*--skip-damaged"):
        run(tiny_model, out, images=pictures)
    assert not out.exists()
    assert (
        embed.main(
            [f"--checkpoint={tiny_model}", f"--images={pictures}", f"--out={out}", "--skip-damaged"]
        )
        == 0
    )
    assert list(np.load(out)["image_paths"]) == PATHS


def test_the_rule_of_training_finds_the_pictures(tiny_model, pictures, tmp_path, capsys):
    Image.open(pictures / "c.png").save(pictures / "f.JFIF", "JPEG")
    (pictures / "@eaDir").mkdir()
    (pictures / "@eaDir" / "c.png").write_bytes((pictures / "c.png").read_bytes())
    (tmp_path / "far").mkdir()
    (pictures / "c.png").rename(tmp_path / "far" / "c.png")
    (pictures / "linked").symlink_to(tmp_path / "far")
    odd = os.fsencode(pictures) + b"/g\xff.png"
    with open(odd, "wb") as file:
        file.write((tmp_path / "far" / "c.png").read_bytes())
    out = tmp_path / "e.npz"
    assert run(tiny_model, out, images=pictures) == 0
    assert f"{pictures}: 7 pictures; left out: @eaDir 1, hidden 1" in capsys.readouterr().err
    found = list(np.load(out)["image_paths"])
    assert found == [
        "a.jpg",
        "b.webp",
        "e.gif",
        "f.JFIF",
        "g\udcff.png",
        "linked/c.png",
        "sub/d.png",
    ]


def test_what_is_no_file_is_named_or_skipped(tiny_model, pictures, tmp_path, capsys):
    (pictures / "sub" / "gone.png").symlink_to("nowhere")
    os.mkfifo(pictures / "pipe.png")
    out = tmp_path / "e.npz"
    with pytest.raises(UserError, match=r"--images: pipe\.png: missing_file .*--skip-damaged"):
        run(tiny_model, out, images=pictures)
    words = [f"--checkpoint={tiny_model}", f"--images={pictures}", f"--out={out}", "--json"]
    assert embed.main([*words, "--skip-damaged"]) == 0
    assert list(np.load(out)["image_paths"]) == PATHS
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == 2


@pytest.mark.parametrize(
    "flags,message",
    [
        ({}, "nothing to embed"),
        ({"images": "NONE"}, "--images: .*no such file or folder"),
        ({"images": "EMPTY"}, "holds no pictures"),
        ({"texts": "NONE"}, "--texts: .*cannot be read"),
        ({"texts": "BLANK"}, "holds no text"),
        ({"texts": "BINARY"}, "cannot be read"),
        ({"texts": "TEXTS", "batch-size": "0"}, "at least 1"),
        ({"texts": "TEXTS", "out": "e.npy"}, r"must end with \.npz"),
        ({"texts": "TEXTS", "out": "none/e.npz"}, "no such folder"),
        ({"texts": "TEXTS", "checkpoint": "NONE"}, "--checkpoint: .*no such folder"),
    ],
)
def test_mistakes(tiny_model, texts, tmp_path, flags, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    names = {
        "NONE": "nothing-here",
        "EMPTY": "empty",
        "TEXTS": "texts.txt",
        "BLANK": "blank.txt",
        "BINARY": "binary.txt",
    }
    flags = {
        key: tmp_path / names[value] if value in names else value for key, value in flags.items()
    }
    flags = {"checkpoint": tiny_model} | flags | {"out": tmp_path / flags.get("out", "e.npz")}
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        embed.main([f"--{key}={value}" for key, value in flags.items()])
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_one_picture_and_texts_on_the_command_line(tiny_model, pictures, tmp_path, monkeypatch):
    out, home = tmp_path / "e.npz", tmp_path / "home"
    monkeypatch.chdir(pictures)
    run(tiny_model, out, images=pictures)
    whole = dict(np.load(out))
    for name in (pictures / "sub" / "d.png", "c.png"):
        assert run(tiny_model, out, images=name, texts=" a cat, a dog on 1/2 mat.,") == 0
        with np.load(out) as found:
            assert list(found["image_paths"]) == [os.path.basename(name)]
            row = whole["image"][list(whole["image_paths"]).index(os.path.relpath(name, pictures))]
            np.testing.assert_allclose(found["image"][0], row, atol=1e-6)
            assert list(found["texts"]) == ["a cat", "a dog on 1/2 mat."]
    home.symlink_to(pictures)
    monkeypatch.setenv("HOME", str(home))
    args = embed.parser().parse_args(["--checkpoint=x", "--out=~/e.npz", "--images=~/a.jpg"])
    assert list_pictures(args.images) == (str(home), ["a.jpg"])
    assert list_pictures(["~/a.jpg,sub/d.png"])[1] == ["home/a.jpg", "pictures/sub/d.png"]
    assert args.out == str(home / "e.npz")


@pytest.mark.parametrize("name", ["texts.txt", "/no/such/file", "dir/captions", "a.csv"])
def test_what_looks_like_a_file_is_no_text(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--texts: {name!r} cannot be read"):
        read_texts(name)


def test_what_looks_like_none_is_text():
    assert read_texts("cat") == ["cat"]
    assert read_texts("a/b cat, e.g. this") == ["a/b cat", "e.g. this"]
    assert read_texts("and/or,a.png") == ["and/or", "a.png"]
    for texts in ("", " , ", "  "):
        with pytest.raises(UserError, match=r"--texts: .*cannot be read"):
            read_texts(texts)


def test_only_texts_need_a_tokenizer(tiny_model, pictures, texts, tmp_path):
    manifest = json.loads((tiny_model / "vlp_jax.json").read_text())
    manifest["tokenizer"]["name"] = ""
    (tiny_model / "vlp_jax.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match="carries no tokenizer; convert it again with --tokenizer=FILE"
    ):
        run(tiny_model, tmp_path / "e.npz", texts=texts)
    assert run(tiny_model, tmp_path / "e.npz", images=pictures) == 0
    assert len(np.load(tmp_path / "e.npz")["text"]) == 0


def test_a_full_disk_is_a_failure_and_leaves_nothing(tiny_model, texts, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(RunError, match="cannot be written"):
        run(tiny_model, tmp_path / "e.npz", texts=texts)
    assert sorted(os.listdir(tmp_path)) == before


def test_transparent_pictures_follow_the_checkpoint(tiny_model, tmp_path):
    """A converted model drops the alpha; told to lay on white, it does that."""
    folder = tmp_path / "clear"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8)
    image = Image.fromarray(pixels)
    ground = Image.new("RGBA", image.size, "white")
    image.save(folder / "a.png")
    image.convert("RGB").save(folder / "b.png")
    Image.alpha_composite(ground, image).convert("RGB").save(folder / "c.png")
    assert run(tiny_model, tmp_path / "drop.npz", images=folder) == 0
    a, b, c = np.load(tmp_path / "drop.npz")["image"]
    assert np.array_equal(a, b) and np.abs(a - c).max() > 1e-3
    manifest = json.loads((tiny_model / "vlp_jax.json").read_text())
    manifest["preprocessing"]["alpha"] = "white"
    (tiny_model / "vlp_jax.json").write_text(json.dumps(manifest))
    assert run(tiny_model, tmp_path / "white.npz", images=folder) == 0
    a, b, c = np.load(tmp_path / "white.npz")["image"]
    assert np.array_equal(a, c) and np.abs(a - b).max() > 1e-3
