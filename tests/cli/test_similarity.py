"""`vlp_jax.load` and `similarity`: pictures however they are given, the softmax over texts, the
files."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

import vlp_jax
from vlp_jax.__main__ import main
from vlp_jax.api.embed import Batching
from vlp_jax.api.placement import choose_mesh
from vlp_jax.core.errors import UserError

PATHS = ["a.jpg", "b.webp", "c.png", "e.gif", "sub/d.png"]
TEXTS = ["a cat", 'a "red", dog', "naïve café 🙂"]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return vlp_jax.load(tiny_folder)


def test_paths_open_pictures_and_arrays_give_the_same_rows(model, pictures):
    """Also one by one out of a generator, and in batches that do not divide."""
    paths = [pictures / path for path in PATHS]
    rows = model.embed_images(paths)
    assert rows.dtype == np.float32 and rows.shape == (5, 12)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    opened = model.embed_images(Image.open(path) for path in paths)
    np.testing.assert_allclose(opened, rows, atol=1e-5)
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    np.testing.assert_allclose(model.embed_images(arrays), rows, atol=1e-5)
    mixed = [str(paths[0]), Image.open(paths[1]), *arrays[2:]]
    np.testing.assert_allclose(model.embed_images(mixed, Batching(size=2)), rows, atol=1e-5)
    assert model.embed_images([]).shape == model.embed_texts(iter(())).shape == (0, 12)


def test_open_pictures_are_turned_and_laid_as_files(model, tmp_path):
    rng = np.random.default_rng(0)
    clear = Image.fromarray(rng.integers(0, 256, (20, 30, 4), np.uint8))
    turn = Image.Exif()
    turn[274] = 6
    clear.save(tmp_path / "clear.png", exif=turn)
    clear.convert("RGB").save(tmp_path / "turned.jpg", exif=turn, quality=95)
    Image.fromarray(rng.integers(0, 2**16, (20, 30), np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (30, 20), "red").save(tmp_path / "turned.tif", exif=turn)
    for alpha in ("drop", "white"):
        model.preprocessing["alpha"] = alpha
        for name in ("clear.png", "turned.jpg", "deep.png", "turned.tif"):
            with Image.open(tmp_path / name) as picture:
                for _ in range(2):  # the picture itself stays as it is
                    framed = model.decode(picture)
                    np.testing.assert_array_equal(framed, model.decode(tmp_path / name), name)
    model.preprocessing["alpha"] = "drop"
    upright = np.rot90(model.decode(clear), -1).astype(int)  # in memory: no EXIF says otherwise
    turned = model.decode(tmp_path / "clear.png")
    np.testing.assert_allclose(upright, turned, atol=6)  # resized before the turn, not after


def test_the_softmax_is_over_the_texts_at_the_models_scale(model, pictures):
    paths = [pictures / path for path in PATHS[:3]]
    image, text = model.embed_images(paths), model.embed_texts(TEXTS)
    scale = float(np.exp(np.asarray(model.params["logit_scale"])))
    for given, used in ((None, scale), (7, 7.0)):
        powers = np.exp(used * image.astype(np.float64) @ text.astype(np.float64).T)
        share = model.similarity(paths, iter(TEXTS), scale=given)
        assert share.dtype == np.float32
        np.testing.assert_allclose(share, powers / powers.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    "pictures, message",
    [
        ("a.jpg", "pictures: must be a list, not 'a.jpg'"),
        (Image.new("RGB", (8, 8)), "pictures: must be a list, not a Image"),
        (["none.png"], r"pictures\[0\]: none.png: missing_file"),
        ([np.zeros((8, 8), np.uint8)], r"pictures\[0\]: uint8\[8, 8\]; a picture is .*\[H, W, 3\]"),
        ([np.zeros((8, 8, 3))], r"pictures\[0\]: float64\[8, 8, 3\]; a picture is"),
        ([b"", 3], r"pictures\[0\]: empty_file"),
        ([3], r"pictures\[0\]: int; a picture is a path"),
    ],
)
def test_what_is_no_picture_is_named(model, pictures, message):
    with pytest.raises(UserError, match=message):
        model.embed_images(pictures)


def test_other_mistakes_in_python(model, tiny_folder):
    for texts, message in (("a cat", "must be a list, not 'a cat'"), ([3], r"texts\[0\]: must be")):
        with pytest.raises(UserError, match=message):
            model.embed_texts(texts)
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"scale=.*: must be a positive number"):
            model.similarity([], ["a"], scale=scale)
    for wrong in ("100", [100], None):
        with pytest.raises(UserError, match=r"scale=.*100.*: must be a positive number"):
            model.similarity([], ["a"], scale=wrong or np.array([100.0]))
    assert model.scale_of(np.array(3)) == 3
    for key in ("size", "threads"):
        for count, message in ((-1, "out of range"), (0, "out of range"), (1.5, "of type int")):
            with pytest.raises(UserError, match=rf"Batching\.{key}.*{message}"):
                Batching(**{key: count})
    for path in (None, b"x", 3, ["x"]):
        with pytest.raises(UserError, match=r"--checkpoint: .* is no path of a folder"):
            vlp_jax.load(path)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = vlp_jax.lode
    with pytest.raises(UserError, match="--sharding: unknown preset 'fdsp'; did you mean 'fsdp'"):
        vlp_jax.load(tiny_folder, sharding="fdsp")


@pytest.mark.parametrize(
    "sharding, mesh, found",
    [
        ("fsdp", {"data": 8}, (8, 1, 1)),
        ("fsdp", {"data": -1, "fsdp": 2}, (4, 2, 1)),
        ("fsdp", None, (1, 8, 1)),
        ("replicated", {}, (8, 1, 1)),
        ("fsdp", {"bogus": 3}, r"mesh\.bogus: unknown axis; valid: data, fsdp, tensor"),
        ("fsdp", {"data": 4}, "does not cover 8 devices"),
        ("", {"data": 8}, r"mesh=\{'data': 8\}: needs a sharding; valid: fsdp"),
    ],
)
def test_a_mesh_that_is_given_is_kept_or_refused(sharding, mesh, found):
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            choose_mesh(sharding, mesh)
    else:
        assert choose_mesh(sharding, mesh).devices.shape == found


@pytest.mark.parametrize("sharding", ["replicated", "fsdp_tensor"])
def test_presets_place_weights_on_all_devices(model, tiny_folder, pictures, sharding):
    split = vlp_jax.load(tiny_folder, sharding=sharding)
    kernel = split.params["image"]["head"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    whole = kernel.sharding.is_fully_replicated
    assert whole == (sharding == "replicated")
    paths = [pictures / path for path in PATHS]
    np.testing.assert_allclose(split.embed_images(paths), model.embed_images(paths), atol=1e-5)


def similarity(capsys, folder, out, *words):
    """Runs the command; (exit code, its last line: JSON, or the error)."""
    code = main(["similarity", f"--checkpoint={folder}", f"--out={out}", *map(str, words)])
    text = capsys.readouterr()
    return code, (text.err if code else text.out).strip().splitlines()[-1]


def test_the_files_of_the_command(model, tiny_folder, pictures, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    words = [f"--images={pictures}", f"--texts={tmp_path / 'texts.txt'}", "--json"]
    code, line = similarity(capsys, tiny_folder, tmp_path / "r", *words)
    assert code == 0 and json.loads(line)["images"] == 5
    names = ["report.json", "space.png", "table.csv", "table.png"]
    assert sorted(os.listdir(tmp_path / "r")) == names
    with open(tmp_path / "r" / "table.csv", newline="", encoding="utf-8") as file:
        (head, *rows) = csv.reader(file)
    assert head == ["image", *TEXTS] and [row[0] for row in rows] == PATHS
    share = model.similarity([pictures / path for path in PATHS], TEXTS)
    told = np.array([row[1:] for row in rows], float)
    np.testing.assert_allclose(told, share, rtol=1e-6)
    assert all(len(cell.replace(".", "").lstrip("0")) >= 6 for cell in rows[0][1:])
    report = json.loads((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    assert report["images"] == PATHS and report["texts"] == TEXTS
    assert report["scale"] == pytest.approx(model.scale_of())
    np.testing.assert_allclose(report["similarity"], share, rtol=1e-6)
    for name in names[1::2]:
        assert min(Image.open(tmp_path / "r" / name).size) > 300


def test_blank_lines_are_no_texts_and_long_ones_are_told(
    tiny_folder, pictures, tmp_path, capsys, caplog
):
    (tmp_path / "texts.txt").write_text("a cat\n\n  \n" + "word " * 2000 + "\n")
    words = [f"--images={pictures}", f"--texts={tmp_path / 'texts.txt'}"]
    main(["similarity", f"--checkpoint={tiny_folder}", f"--out={tmp_path / 'r'}", *words])
    told = capsys.readouterr()
    assert "texts.txt: 2 texts; left out: 2 blank lines" in told.err
    assert "5 pictures x 2 texts" in told.out
    with open(tmp_path / "r" / "table.csv", newline="") as file:
        assert next(csv.reader(file)) == ["image", "a cat", "word " * 2000]
    assert "1 text cut at 16 tokens" in caplog.text


def test_one_picture_one_text_and_another_scale(tiny_folder, pictures, tmp_path, capsys):
    words = ["--images", pictures / "c.png", pictures / "sub" / "d.png", "--texts=a/cat, a dog.,"]
    assert similarity(capsys, tiny_folder, tmp_path / "r", *words, "--scale=100")[0] == 0
    lines = (tmp_path / "r" / "table.csv").read_text().splitlines()
    assert lines[0] == "image,a/cat,a dog." and [x.split(",")[0] for x in lines[1:]] == [
        "c.png",
        "sub/d.png",
    ]
    assert json.loads((tmp_path / "r" / "report.json").read_text())["scale"] == 100
    words = [f"--images={pictures / 'c.png'}", "--texts=cat"]
    assert similarity(capsys, tiny_folder, tmp_path / "one", *words)[0] == 0
    assert (tmp_path / "one" / "table.csv").read_text() == "image,cat\nc.png,1.00000000\n"


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"images": "nowhere"}, "--images: nowhere: no such file or folder"),
        ({"images": "PICTURES,PICTURES"}, "is a folder; give one folder, or files"),
        ({"images": ","}, "--images: names no picture"),
        ({"texts": "none.txt"}, "--texts: 'none.txt' cannot be read (No such file"),
        ({"texts": " , "}, "--texts: ' , ' cannot be read"),
        ({"scale": "-3"}, "--scale=-3: must be a positive number"),
        ({"out": "PICTURES/c.png"}, "c.png is a file, not a folder"),
        ({"out": "/proc/none"}, "--out=/proc/none: /proc cannot be written (No such file"),
        ({"sharding": "fdsp"}, "--sharding: unknown preset 'fdsp'; did you mean 'fsdp'"),
        ({"checkpoint": "nowhere"}, "--checkpoint: nowhere: no such folder"),
    ],
)
def test_mistakes(tiny_folder, pictures, tmp_path, capsys, flags, message):
    good = {"checkpoint": tiny_folder, "images": pictures, "texts": "a cat", "out": tmp_path / "r"}
    words = {k: str(v).replace("PICTURES", str(pictures)) for k, v in {**good, **flags}.items()}
    assert main(["similarity", *(f"--{key}={value}" for key, value in words.items())]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()  # after what the folder holds
    assert message in line and not (tmp_path / "r").exists()


def test_many_pictures_and_texts_are_drawn_in_part():
    from vlp_jax.report.similarity import COLUMNS, ROWS, shown

    share = np.random.default_rng(0).dirichlet(np.ones(100), size=90).astype(np.float32)
    rows, columns = shown(share)
    assert len(rows) == ROWS == len(set(rows)) and len(columns) == COLUMNS
    assert set(share[rows].argmax(1)) & set(columns) and list(columns) == sorted(columns)
    assert share[rows].max() in share[rows][:, columns]
    few = shown(share[:3, :2])
    assert few[0].tolist() == [0, 1, 2] and few[1].tolist() == [0, 1]
