"""Folders that open, what they answer, and folders that are refused (R26)."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.staging import file_facts
from vlp_jax.serve.index import Index
from vlp_jax.serve.metadata import Metadata
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


def test_parts_that_do_not_belong_together(foreign):
    """Their rows add up, yet a vector would get another picture's words."""
    parts = foreign / "metadata"
    for one, other in (("0", "x"), ("11", "0"), ("x", "11")):  # of five and of four rows
        (parts / f"metadata_{one}.parquet").rename(parts / f"metadata_{other}.parquet")
    with pytest.raises(UserError, match=r"img_emb_0\.npy: 5 vectors, the metadata of its part 4"):
        Index.open(str(foreign))
    (parts / "metadata_0.parquet").rename(parts / "metadata_12.parquet")
    with pytest.raises(UserError, match="img_emb has a part 0, metadata has none"):
        Index.open(str(foreign))


def test_thumbnails_are_in_the_order_of_the_numbers(foreign):
    import tarfile

    (foreign / "thumbnails").mkdir()
    for part, ids in enumerate(np.array_split(np.arange(50), 12)):
        with tarfile.open(foreign / "thumbnails" / f"thumbnails_{part}.tar", "w") as tar:
            for at, row in enumerate(ids):
                entry = tarfile.TarInfo(f"{at:07d}.jpg")
                entry.size = 1
                tar.addfile(entry, io.BytesIO(bytes([row])))
    index = Index.open(str(foreign))
    assert [index.thumbnail(row) for row in range(50)] == [bytes([row]) for row in range(50)]
    first, last = (foreign / "thumbnails" / f"thumbnails_{part}.tar" for part in (0, 11))
    (foreign / "first").write_bytes(first.read_bytes())
    first.write_bytes(last.read_bytes()), last.write_bytes((foreign / "first").read_bytes())
    for lost in ((), (last,)):  # of five and four rows swapped, then one missing
        [path.unlink() for path in lost]
        index = Index.open(str(foreign))
        assert {index.thumbnail(row) for row in (0, 30, 49)} == {None}


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


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A table of every kind of column, in two files: `mixed` holds numbers in one, texts in the
    other, `late` is nothing but missing in one."""
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, D = tmp_path_factory.mktemp("typed"), decimal.Decimal
    day, hour = datetime.date(2020, 1, 3), datetime.datetime(2020, 1, 3, 9, 30)
    columns = {
        "i": pa.array([2**53, 2**53 + 1, None, 7]),
        "u": pa.array([2**64 - 1, 2**64 - 2, 1, None], pa.uint64()),
        "f32": pa.array([0.1, 0.5, float("nan"), None], pa.float32()),
        "f16": pa.array([0.1, 0.5, 1, None], pa.float16()),
        "dec": pa.array([D("9.50"), D("10.00"), D("100.00"), None]),
        "b": pa.array([True, False, None, True]),
        "s": pa.array(["noto", 'tw"em', ">5", None]),
        "bin": pa.array([b"abc", b"\xff", None, b""]),
        "day": pa.array([day, datetime.date(2020, 1, 4), None, day]),
        "ts": pa.array([hour, hour.replace(day=4), None, hour.replace(hour=0, minute=0)]),
        "ns": pa.array([1, 10**18 + 1, None, 10**18], pa.timestamp("ns", "UTC")),
        "time": pa.array([hour.time(), datetime.time(3), None, datetime.time(0)]),
        "fsl": pa.array([[1, 2], [3, 4], None, [1, 9]], pa.list_(pa.int64(), 2)),
        "lst": pa.array([["a", "b"], [], None, ["B"]]),
        "dict": pa.array(["x", "y", None, "x"]).dictionary_encode(),
        "far": pa.array([2**60, -(2**60), None, 0], pa.timestamp("ms")),
        "berlin": pa.array([0, 82_800, None, 90_000], pa.timestamp("s", "Europe/Berlin")),
        "zoned": pa.array([[1], [10**6], None, []], pa.list_(pa.timestamp("us", "+02:00"))),
        "t9": pa.array([1, 1000, None, 0], pa.time64("ns")),
        "dur": pa.array([1000, 1500, None, 0], pa.duration("ms")),
        "huge": pa.array([1e38, float("inf"), None, 0], pa.float32()),
        "st": pa.array([{"a": 1}, {"a": 2}, None, None]),
        "": pa.array([1, 2, None, 4]),
        " sp ": pa.array([1, 2, None, 4]),
        "a=b": pa.array([1, 2, None, 4]),
        "mixed": pa.array([9, 10, None, 2]),
        "late": pa.nulls(4),
    }
    pq.write_table(pa.table(columns), folder / "m_0.parquet")
    other = {"mixed": pa.array(["10", "9.5", None]), "late": pa.array([3, 10, None])}
    pq.write_table(pa.table(other), folder / "m_1.parquet")
    return Metadata(str(folder))


TYPED = {
    **{"i=9007199254740993": [1], "i>9007199254740992": [1], "i>=9007199254740993.0": [1]},
    **{"i<1e1": [3], "u=18446744073709551615": [0], "u>18446744073709551614": [0]},
    **{"f32=.1": [0], "f32>=.1": [0, 1], "f16=.1": [0], "f32<inf": [0, 1], "f32>1e99": []},
    **{"dec=9.5": [0], "dec<100": [0, 1], "dec>10": [2]},
    **{"b=1": [0, 3], "b==Yes": [0, 3], "b=no": [1], "b>false": [0, 3], "b~tr": [0, 3]},
    **{"s==noto": [0], "s<>noto": [1, 2, 3, 4, 5, 6], "s='noto'": [0], 's="tw"em"': [1]},
    **{"s='>5'": [2], "s>=no": [0, 1], "bin=abc": [0], "bin~B": [0]},
    **{"day=2020-01-03": [0, 3], "day>20200103": [1], "ts=2020-01-03": [0, 3]},
    **{"ts>2020-01-03": [1], "ts<2020-01-03T10:30+01:00": [3], "ns>2001-09-09 01:46:39": [1, 3]},
    **{"time>=03:00": [0, 1], "fsl=1": [0, 3], "fsl>3": [1, 3], "lst=a": [0], "lst~b": [0, 3]},
    **{"lst!=a": [1, 2, 3, 4, 5, 6], "dict=x": [0, 3], "mixed=10": [1, 4], "mixed>2": [0, 5]},
    **{"late<10": [4], "late!=3": [0, 1, 2, 3, 5, 6]},
    **{"ns=1970-01-01T00:00:00.000000001": [0], "ns<=1970-01-01T00:00:00.0000000010": [0]},
    **{
        "ns>2001-09-09T01:46:40.000000000Z": [1],
        "t9=00:00:00.000001": [1],
        "t9<00:00:01": [0, 1, 3],
    },
    **{"far>9999-12-31": [0], "far<0001-01-01T00:00:00+05:00": [1], "far=1970-01-01": [3]},
    **{"far>9999-12-31T23:00:00-05:00": [0], "far~1970": [3]},
    **{"berlin=1970-01-01": [0], "berlin=1970-01-02": [1, 3], "berlin<1970-01-02T00:00": [0]},
    **{"berlin=1970-01-01T23:00Z": [1], "zoned=1970-01-01T02:00:01": [1]},
    **{"dur=1": [0], "dur>=1.5": [1], "huge>1e39": [1], "huge=1e39": [], "huge<1e-50": [3]},
    **{"huge>1e-50": [0, 1], "st~2": [1], "''=2": [1], "' sp '>1": [1, 3], '"a=b"<2': [0]},
}


@pytest.mark.parametrize("condition", TYPED)
def test_columns_of_every_kind(typed, condition):
    assert np.flatnonzero(typed.where(condition)).tolist() == TYPED[condition]


@pytest.mark.parametrize(
    "condition, message",
    [
        ("stile=noto", "no column 'stile'"),
        ("s", "is no condition like"),
        (7, "is no condition like"),
        ("i>wide", "the column holds numbers, 'wide' is none"),
        ("i=", "the column holds numbers, '' is none"),
        ("f32=nan", "the column holds numbers, 'nan' is none"),
        ("s=>5", "=> is no comparison"),
        ("s!=~5", "!=~ is no comparison"),
        ("b=maybe", "holds true and false, 'maybe' is none"),
        ("day>=2020-1-3", "holds dates like 2020-01-31, '2020-1-3' is none"),
        ("ts=yesterday", "holds times like 2020-01-31 or"),
        ("time>9", "holds times like 18:30, '9' is none"),
        ("time<18:30+02:00", "holds times like 18:30, '18:30.02:00' is none"),
        ("ns=1970-01-01T00:00:00.0000000001", "is none"),
        ("dur=1s", "holds durations, compared in seconds, '1s' is none"),
        ("st=1", "holds structures, which have no comparison but ~"),
        ("s~=noto", "~= is no comparison"),
    ],
)
def test_conditions_that_are_none(typed, condition, message):
    with pytest.raises(UserError, match=message) as error:
        typed.where((condition,))
    assert "\n" not in str(error.value)


def test_times_that_python_cannot_hold_are_texts(typed):
    row, other = typed.take([0, 1], ("far", "ns", "t9", "zoned"))
    assert row["ns"].endswith("00:00:00.000000001Z") and row["t9"] == "00:00:00.000000001"
    assert isinstance(row["far"], str) and str(other["zoned"][0]) == "1970-01-01 02:00:01+02:00"


def test_what_no_library_compares_is_a_mistake_of_the_asker(typed, monkeypatch):
    from vlp_jax.serve import metadata

    def fails(*args):
        raise TypeError("can't compare")

    monkeypatch.setattr(metadata, "rows_of", fails)
    with pytest.raises(UserError, match="'i=1': cannot be compared with the column"):
        typed.where(("i=1",))


def test_damaged_pages_are_named(foreign):
    path = foreign / "metadata" / "metadata_3.parquet"
    data = bytearray(path.read_bytes())
    pages = slice(4, -8 - int.from_bytes(data[-8:-4], "little"))  # its footer is sound
    data[pages] = b"\xff" * len(data[pages])
    path.write_bytes(data)
    index = Index.open(str(foreign))
    for ask in (lambda: index.table.where("width>3"), lambda: index.metadata(range(50))):
        with pytest.raises(UserError, match=r"metadata_3\.parquet: row group 0 is damaged"):
            ask()


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
    for what, wrong in (("rows", 51), ("dim", 8)):
        (foreign / "manifest.json").write_text(json.dumps({**manifest, what: wrong}))
        with pytest.raises(UserError, match=f"the manifest says {what} {wrong}, the vectors"):
            Index.open(str(foreign))
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    (foreign / "thumbnails").mkdir()
    for kind, suffix in (("img_emb", "npy"), ("metadata", "parquet"), ("thumbnails", "tar")):
        other = foreign / kind / f"{kind}_12.{suffix}"
        other.write_bytes(b"")
        with pytest.raises(UserError, match=f"{kind}_12.*: the manifest does not name it"):
            Index.open(str(foreign))
        other.unlink()
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
    name = names[0]
    for wrong in (
        *({"files": {name: facts}} for facts in ([], [1], ["a", 2], None, "ab", [1.5, 2])),
        *(
            {"files": []},
            {"files": None},
            {"plan": 3},
            {"plan": {"digests": []}},
            {"checkpoint": {"path": 3}},
        ),
    ):
        (foreign / "manifest.json").write_text(json.dumps({**manifest, **wrong}))
        with pytest.raises(UserError, match=r"manifest.json: damaged \("):
            Index.open(str(foreign))
    for text in ("{", "[]", "{}"):
        (foreign / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"manifest.json: damaged"):
            Index.open(str(foreign))
