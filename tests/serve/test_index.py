"""Folders that open, what they answer, and folders that are refused (R26)."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.serve.index import Index, file_facts
from vlp_jax.serve.vectors import place


def test_a_folder_of_clip_retrieval_as_it_is(foreign, rows):
    index = Index.open(str(foreign))
    assert (index.rows, index.width, index.modalities) == (50, 16, ["image", "text"])
    assert index.columns == ["image_path", "caption", "width", "style"] and index.manifest == {}
    ids = [49, 3, 3, 0]
    found = index.vectors(ids)
    np.testing.assert_allclose(found, rows[ids], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    said = index.metadata(ids, ["style", "caption", "nothing"])
    assert [row["caption"] for row in said] == ["picture 49", "picture 3", "picture 3", "picture 0"]
    assert said[0]["style"] == "noto" and "style" not in said[3] and "nothing" not in said[0]
    assert index.metadata([7])[0]["image_path"] == "/data/07.jpg"
    assert index.thumbnail(3) is None


def test_pictures_that_the_metadata_names(foreign):
    """As clip-retrieval shows them: from the file, where it is there and is a picture."""
    index = Index.open(str(foreign))
    for name, content in (("ok.png", None), ("no.png", b"no picture")):
        path = foreign / name
        Image.new("RGB", (600, 300), (9, 99, 200)).save(path) if content is None else (
            path.write_bytes(content)
        )
    names = {0: "ok.png", 1: "no.png"}
    index.metadata = lambda ids, _: [{"image_path": str(foreign / names.get(ids[0], "gone.png"))}]
    assert Image.open(io.BytesIO(index.thumbnail(0))).size == (256, 128)
    assert index.thumbnail(1) is None and index.thumbnail(2) is None


def test_order_is_by_number():
    names = ["img_emb_10.npy", "img_emb_2.npy", "img_emb_1.npy"]
    assert sorted(names, key=place) == ["img_emb_1.npy", "img_emb_2.npy", "img_emb_10.npy"]


@pytest.mark.parametrize("ids", [[-1], [50], [0, 10**12]])
def test_rows_that_are_none(foreign, ids):
    index = Index.open(str(foreign))
    for ask in (index.vectors, index.metadata, lambda ids: index.thumbnail(ids[-1])):
        with pytest.raises(UserError, match=r"no row .* in an index of 50 rows"):
            ask(ids)


CONDITIONS = {
    ("style=noto",): lambda i: i % 2 == 1 and i > 4,
    ("style!=noto",): lambda i: i % 2 == 0 or i <= 4,
    ("width>=40", "style=twemoji"): lambda i: i >= 40 and i % 2 == 0,
    ("caption ~ TURE 1",): lambda i: str(i).startswith("1"),
    ("width<2.5",): lambda i: i < 2.5,
}


@pytest.mark.parametrize("conditions", CONDITIONS)
def test_conditions(foreign, conditions):
    found = np.flatnonzero(Index.open(str(foreign)).table.where(conditions))
    assert found.tolist() == [i for i in range(50) if CONDITIONS[conditions](i)]


@pytest.mark.parametrize(
    "condition, message",
    [
        ("stile=noto", "no column 'stile'; did you mean 'style'"),
        ("style", "is no condition like"),
        ("width>wide", "the column holds numbers, 'wide' is none"),
    ],
)
def test_conditions_that_are_none(foreign, condition, message):
    with pytest.raises(UserError, match=message):
        Index.open(str(foreign)).table.where((condition,))


def test_folders_that_are_no_index(foreign, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no such folder"):
        Index.open(str(tmp_path / "gone"))
    with pytest.raises(UserError, match="holds no index"):
        Index.open(str(tmp_path / "empty"))
    for side in ("img_emb", "text_emb"):
        shutil.rmtree(foreign / side)
        (foreign / side).mkdir()
        np.save(foreign / side / "x_0.npy", np.zeros((0, 16), np.float16))
    shutil.rmtree(foreign / "metadata")
    with pytest.raises(UserError, match="is empty"):
        Index.open(str(foreign))


def damaged(folder, how):
    part = folder / "img_emb" / "img_emb_3.npy"
    if how == "rows":
        (folder / "metadata" / "metadata_11.parquet").unlink()
    elif how == "width":
        np.save(part, np.zeros((4, 8), np.float16))
    elif how == "dtype":
        np.save(part, np.zeros((4, 16), np.int32))
    elif how == "cut":
        part.write_bytes(part.read_bytes()[:150])
    elif how == "parquet":
        (folder / "metadata" / "metadata_3.parquet").write_bytes(b"PAR1 no")
    elif how == "text":
        (folder / "text_emb" / "text_emb_0.npy").unlink()


@pytest.mark.parametrize(
    "how, message",
    [
        ("rows", "50 image vectors of 16 numbers but 46 rows of metadata"),
        ("width", r"img_emb_3.npy: its vectors have 8 numbers, those of .*img_emb_0.npy 16"),
        ("dtype", r"img_emb_3.npy: int32\[4, 16\]; vectors are float16 or float32"),
        ("cut", "img_emb_3.npy: is no array or cut short"),
        ("parquet", "metadata_3.parquet: is no Parquet file"),
        ("text", "45 text vectors"),
    ],
)
def test_damage_is_named(foreign, how, message):
    damaged(foreign, how)
    with pytest.raises(UserError, match=message) as error:
        Index.open(str(foreign))
    assert "\n" not in str(error.value)


def test_files_of_another_index_are_refused(foreign, rows):
    """A manifest knows its files: one that was swapped for another of the same size is named."""
    names = sorted(str(path.relative_to(foreign)) for path in foreign.rglob("*_*.*"))
    facts = {name: file_facts(str(foreign / name)) for name in names}
    manifest = {"format": 1, "files": facts}
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    assert Index.open(str(foreign)).rows == 50
    part = foreign / "img_emb" / "img_emb_3.npy"
    np.save(part, -np.load(part))
    with pytest.raises(
        UserError, match=r"img_emb_3.npy: is not the file .*digest [0-9a-f]{8}, the"
    ):
        Index.open(str(foreign))
    part.unlink()
    with pytest.raises(UserError, match=r"img_emb_3.npy: is missing"):
        Index.open(str(foreign))
    (foreign / "manifest.json").write_text(json.dumps({**manifest, "format": 9}))
    with pytest.raises(UserError, match="format 9, we read 1"):
        Index.open(str(foreign))
    (foreign / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: damaged"):
        Index.open(str(foreign))
