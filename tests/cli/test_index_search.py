"""`index` and `search`: rows in the order of the data, what is remembered, what is refused."""

import io
import json
import re
import shutil
import signal
import tarfile

import numpy as np
import pytest
from forks import ends, job
from PIL import Image

from vlp_jax.__main__ import main
from vlp_jax.api.model import load_model
from vlp_jax.serve.index import Index

pytest.importorskip("pyarrow", reason="pyarrow (extra `search`) is not installed")
ORDER = ["a", "b", "sub/d", "z"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Captioned pictures of which the sub-folder's sorts between the others, and one that is
    damaged."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for key in ORDER:
        pixels = rng.integers(0, 256, (300, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{key}.png")
        (folder / f"{key}.txt").write_text(f"the letter {key}\nsecond line")
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "c.txt").write_text("cut")
    (folder / "z.json").write_text('{"year": 1999, "tags": ["x", "y"]}')
    return folder


@pytest.fixture(scope="module")
def indexed(tiny_folder, data, tmp_path_factory):
    """(folder of the index, its checkpoint beside it)."""
    folder = tmp_path_factory.mktemp("indexed")
    shutil.copytree(tiny_folder, folder / "model")
    words = [f"--checkpoint={folder / 'model'}", f"--data={data}", f"--out={folder / 'index'}"]
    assert main(["index", *words, "--batch-size=2", "--part=3"]) == 0
    return folder / "index"


def asked(capsys, index, *words):
    capsys.readouterr()
    assert main(["search", f"--index={index}", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["results"]


def refused(capsys, *words):
    capsys.readouterr()
    code = main([str(word) for word in words])
    error = capsys.readouterr().err.strip()
    assert code == 2 and error.startswith("error: ") and "\n" not in error, error
    return error


def test_rows_are_the_pictures_in_order(indexed, data):
    index = Index.open(str(indexed))
    model = load_model(str(indexed.parent / "model"))
    wanted = model.embed_images([data / f"{key}.png" for key in ORDER])
    np.testing.assert_allclose(index.vectors(range(4)), wanted, atol=1e-3)
    said = index.metadata(range(4))
    assert [row["key"] for row in said] == ORDER
    captions = [row["caption"] for row in said]
    np.testing.assert_allclose(
        index.vectors(range(4), "text"), model.embed_texts(captions), atol=1e-3
    )
    assert (said[0]["width"], said[0]["height"]) == (40, 300)
    assert (said[3]["year"], said[3]["tags"]) == (1999, '["x", "y"]')
    assert said[2]["path"] == str(data / "sub/d.png")
    manifest = index.manifest
    assert (manifest["rows"], manifest["skipped"]) == (4, {"unreadable_picture": 1})
    small = Image.open(io.BytesIO(index.thumbnail(2)))
    assert small.size == (34, 256) and index.thumbnail(3) != index.thumbnail(2)


def test_the_json_of_a_search(indexed, data, capsys):
    found = asked(capsys, indexed, f"--image={data / 'sub' / 'd.png'}", "--k=3")
    assert [list(row) for row in found] == [["id", "key", "caption", "score"]] * 3
    assert (found[0]["id"], found[0]["key"]) == (2, "sub/d")
    assert found[0]["score"] == pytest.approx(1, abs=1e-5)
    assert found[0]["caption"].startswith("the letter sub/d")
    model = load_model(str(indexed.parent / "model"))
    cosine = Index.open(str(indexed)).vectors(range(4)) @ model.embed_texts(["a letter"])[0]
    found = asked(capsys, indexed, "--text=a letter")
    assert [row["id"] for row in found] == np.argsort(-cosine, kind="stable").tolist()
    np.testing.assert_allclose([row["score"] for row in found], np.sort(cosine)[::-1], atol=1e-5)


def test_a_sum_of_queries(indexed, data, tmp_path, capsys):
    index = Index.open(str(indexed))
    np.save(tmp_path / "v.npy", 7 * index.vectors([1])[0])
    words = (f"--image={data / 'a.png'}", f"--vector=-0.5*{tmp_path / 'v.npy'}")
    found = asked(capsys, indexed, *words, "--k=4")
    rows = index.vectors(range(4))
    query = rows[0] - 0.5 * rows[1]
    scores = rows @ (query / np.linalg.norm(query))
    assert [row["id"] for row in found] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([row["score"] for row in found], np.sort(scores)[::-1], atol=1e-3)


def test_conditions_captions_and_a_sheet(indexed, tmp_path, capsys):
    found = asked(capsys, indexed, "--text=x", "--where=year>1990")
    assert [row["key"] for row in found] == ["z"]
    caption = Index.open(str(indexed)).metadata([1])[0]["caption"]
    found = asked(capsys, indexed, f"--text={caption}", "--modality=text", "--k=1")
    assert found[0]["key"] == "b" and found[0]["score"] == pytest.approx(1, abs=1e-5)
    words = ("--text=x", "--k=9", "--safe", "--deduplicate", f"--out={tmp_path / 'o'}")
    assert main(["search", f"--index={indexed}", *words]) == 0
    said = capsys.readouterr()
    assert "--k=9: the index has no more than 4 rows" in said.err and "never measured" in said.err
    assert re.search(r"near duplicates left out: \d\ncalled unsafe and left out: \d\n", said.err)
    assert Image.open(tmp_path / "o" / "found.png").width > 300


def test_the_same_command_finds_it_done(indexed, data, tmp_path, capsys):
    copy = shutil.copytree(indexed.parent, tmp_path / "copy")  # its checkpoint lies beside it
    words = (f"--checkpoint={copy / 'model'}", f"--out={copy / 'index'}", "--part=3", "--json")
    before = {p: p.stat().st_mtime_ns for p in (copy / "index").rglob("*") if p.is_file()}
    report = build(capsys, *words, f"--data={data}")
    assert (report["embedded"], report["rows"]) == (0, 4)
    assert before == {p: p.stat().st_mtime_ns for p in (copy / "index").rglob("*") if p.is_file()}
    more = shutil.copytree(data, tmp_path / "more")
    shutil.copy(more / "a.png", more / "e.png"), shutil.copy(more / "a.txt", more / "e.txt")
    report = build(capsys, *words, f"--data={more}")
    assert (report["embedded"], report["rows"]) == (5, 5)
    assert sorted(p.name for p in copy.iterdir()) == ["index", "model"]


def build(capsys, *words):
    capsys.readouterr()
    assert main(["index", *words]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_stopped_command_says_how_it_goes_on(
    indexed, data, tmp_path, capsys, monkeypatch, caplog
):
    """Of a folder all pictures are embedded; texts that are cut are counted once, no probe is."""
    from vlp_jax.serve import build as serve_build

    some, out = shutil.copytree(data, tmp_path / "some"), tmp_path / "out"
    shutil.copy(some / "a.png", some / "bare.png")
    for key in "ab":
        (some / f"{key}.txt").write_text(f"{key} word" * 99)
    words = [f"--checkpoint={indexed.parent / 'model'}", f"--data={some}", f"--out={out}"]
    words += ["--part=2", "--thumbnails=0"]
    seen, embed_part = [], serve_build.embed_part

    def stopped(what, rows):
        seen.append(rows)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        return embed_part(what, rows)

    with monkeypatch.context() as patch:
        patch.setattr(serve_build, "embed_part", stopped)
        assert main(["index", *words]) == 75
    assert capsys.readouterr().err.endswith("are kept; run the same command again\n")
    error = refused(capsys, "search", f"--index={out}", "--text=x")
    assert error.endswith(f"go on with: index {' '.join(words[:3])} --thumbnails=0 --part=2"), error
    caplog.clear()
    report = build(capsys, *words, "--json")
    assert (report["rows"], report["captions"], report["embedded"]) == (5, 4, 3)
    assert [row["caption"] for row in Index.open(str(out)).metadata([2])] == [None]
    assert "cut at" not in caplog.text
    report = build(capsys, *words[:3], "--thumbnails=0", "--json")
    assert report["embedded"] == 5 and caplog.text.count("2 texts cut at") == 1


def test_another_model_is_refused_with_both_digests(indexed, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    from vlp_jax.cli import convert

    copy = shutil.copytree(indexed.parent, tmp_path / "copy")
    known = Index.open(str(indexed)).manifest["plan"]["digests"]
    ask = ("search", f"--index={copy / 'index'}", "--text=x")
    manifest = json.loads((copy / "model" / "vlp_jax.json").read_text())
    manifest["preprocessing"]["resample"] = "bilinear"
    (copy / "model" / "vlp_jax.json").write_text(json.dumps(manifest))
    error = refused(capsys, *ask, f"--checkpoint={copy / 'model'}")
    assert f"preprocessing of digest {known['preprocessing']}, " in error
    assert len(error.split()[-1]) == 32 and error.split()[-1] != known["preprocessing"]

    file = tmp_path / "other.safetensors"
    convert.main([str(indexed.parent / "model"), str(tmp_path / "back"), "--to=open_clip"])
    (name,) = (tmp_path / "back").glob("*.safetensors")
    theirs = load_file(name)
    convert.main([str(name), str(tmp_path / "same"), "--arch=tiny"])
    asked(capsys, copy / "index", "--text=x", f"--checkpoint={tmp_path / 'same'}")
    theirs = {key: np.asarray(value * np.float32(1.01)) for key, value in theirs.items()}
    save_file(theirs, file)
    convert.main([str(file), str(tmp_path / "other"), "--arch=tiny"])
    error = refused(capsys, *ask, f"--checkpoint={tmp_path / 'other'}")
    assert f"weights of digest {known['weights']}, " in error
    shutil.rmtree(copy / "model")
    shutil.copytree(tmp_path / "same", copy / "model")
    shutil.move(indexed.parent / "model", tmp_path / "away")
    try:
        asked(capsys, copy / "index", "--text=x")  # the model that lies where it did, beside
        shutil.rmtree(copy / "model")
        assert "is gone; give --checkpoint=DIR" in refused(capsys, *ask)
    finally:
        shutil.move(tmp_path / "away", indexed.parent / "model")


def test_tars_keep_their_columns(tiny_folder, tmp_path, capsys):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(3):
            picture = io.BytesIO()
            Image.new("RGB", (20, 20), (80 * number, 0, 0)).save(picture, "JPEG")
            members = {"jpg": picture.getvalue()}
            members["json"] = json.dumps(
                {"url": f"http://x/{number}", "n": number or "none"}
            ).encode()
            for suffix, content in members.items():
                entry = tarfile.TarInfo(f"{number:03d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    words = (f"--checkpoint={tiny_folder}", f"--data={tmp_path / 'x.tar'}", "--thumbnails=0")
    words += ("--sharding=replicated",)  # on all devices
    report = build(capsys, *words, f"--out={tmp_path / 'i'}", "--json")
    index = Index.open(str(tmp_path / "i"))
    assert (report["captions"], index.modalities) == (0, ["image"])  # they have none
    rows = index.metadata(range(3))
    assert [row["key"] for row in rows] == ["000", "001", "002"] and index.thumbnail(0) is None
    assert [row["url"] for row in rows] == [f"http://x/{n}" for n in range(3)]
    assert [row["n"] for row in rows] == ["none", "1", "2"] and rows[0]["caption"] is None


def test_a_job_of_two_processes(indexed, data, tmp_path, capsys):
    """They make the same index, and each searches half of one."""
    words = (
        f"--checkpoint={indexed.parent / 'model'}",
        f"--data={data}",
        f"--out={tmp_path / 'i'}",
    )
    codes, texts = ends(job(2, ["index", *words, "--part=3", "--json"], tmp_path))
    assert codes == [0, 0], texts
    assert json.loads(texts[0].splitlines()[-1])["embedded"] == 4 and "rows" not in texts[1]
    ours, theirs = Index.open(str(tmp_path / "i")), Index.open(str(indexed))
    np.testing.assert_allclose(ours.vectors(range(4)), theirs.vectors(range(4)), atol=1e-3)
    assert ours.metadata(range(4)) == theirs.metadata(range(4))
    ask = ["search", f"--index={indexed}", f"--image={data / 'b.png'}", "--json"]
    codes, texts = ends(job(2, ask, tmp_path))
    assert codes == [0, 0], texts
    found = json.loads(texts[0].splitlines()[-1])["results"]
    alone = asked(capsys, indexed, f"--image={data / 'b.png'}")
    assert [row["id"] for row in found] == [row["id"] for row in alone]


BAD_INDEX = {
    "--ann=hnws": "--ann=hnws: unknown; did you mean 'hnsw'",
    "--batch-size=0": "--batch-size=0: must be at least 1",
    "--part=0": "--part=0: must be at least 1",
    "--data=/no/such": "no such file or folder: '/no/such'",
    "--checkpoint=/no/such": "--checkpoint: /no/such: no such folder",
    "--sharding=fdsp": "did you mean 'fsdp'",
    "--out=FILE": "is a file, not a folder",
    "--out=FULL": "is not empty and holds no index of ours",
    "--data=BROKEN": "no picture that can be read (unreadable_picture 2)",
}


@pytest.mark.parametrize("flag", BAD_INDEX)
def test_mistakes_of_index(tiny_folder, data, tmp_path, capsys, flag):
    (tmp_path / "FILE").write_text("x")
    for name in ("FULL", "BROKEN"):
        (tmp_path / name).mkdir()
        for number in (0, 1):
            (tmp_path / name / f"{number}.png").write_text("no picture")
    key, _, value = flag.partition("=")
    flags = {"--checkpoint": tiny_folder, "--data": data, "--out": tmp_path / "o"}
    flags[key] = tmp_path / value if value.isupper() else value
    before = sorted(tmp_path.iterdir())
    assert BAD_INDEX[flag] in refused(capsys, "index", *(f"{k}={v}" for k, v in flags.items()))
    assert sorted(tmp_path.iterdir()) == before


BAD_SEARCH = {
    (): "nothing to search for",
    ("--text=x", "--k=0"): "--k=0: must be at least 1",
    ("--image=/no/such.png",): "/no/such.png: no such file",
    ("--image=TEXT",): "--image=TEXT: unreadable picture",
    ("--vector=TEXT",): "holds no vector",
    ("--vector=nope.npy",): "--vector: nope.npy: no such file",
    ("--vector=WRONG",): "must be 12 numbers, has shape [3]",
    ("--text=nan*x",): "--text=nan*x: the weight before * must be one number from 1e-06",
    ("--text=x", "--deduplicate", "--threshold=nan"): "--threshold=nan: must be above 0",
    ("--text=x", "--threshold=.9"): "is of --deduplicate, which is not given",
    ("--text=x", "--where=yeer=3"): "no column 'yeer'; did you mean 'year'",
    ("--text=x", "--text=-1*x"): "is zero; change a weight",
    ("--index=/no/such", "--text=x"): "--index=/no/such: no such folder",
    ("--text=x", "--out=TEXT"): "is a file, not a folder",
}


@pytest.mark.parametrize("words", BAD_SEARCH)
def test_mistakes_of_search(indexed, tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEXT").write_text("x")
    with open(tmp_path / "WRONG", "wb") as file:
        np.save(file, np.ones(3))
    assert BAD_SEARCH[words] in refused(capsys, "search", f"--index={indexed}", *words)
