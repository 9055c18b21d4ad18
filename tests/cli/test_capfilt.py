"""`capfilt` on folders of transformers' BLIP classes: what is kept, what is refused, what changes
nothing; killed at every operation on the disk (R25)."""

import glob
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from forks import ends, job
from PIL import Image
from test_generate import folder  # noqa: F401  (the fixture)

import vlp_jax
from vlp_jax.__main__ import main
from vlp_jax.api import capfilt as api
from vlp_jax.api.capfilt_part import CapFilt, Part, Rules, _truth
from vlp_jax.api.writing import Made
from vlp_jax.cli.capfilt import print_counts
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Picture, Text
from vlp_jax.data.decode import decode_image
from vlp_jax.data.open import open_source
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.text import load_tokenizer
from vlp_jax.report.filtered import fate, filtered_sheet

SERVE = pathlib.Path(__file__).parents[1] / "serve"
TEXTS = {"a": ["a red cat"], "b": ["two dog", "the blue dog"], "d": [], "e": ["a picture of an"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures with one text, with several, with none, and one that is damaged (c)."""
    home, rng = tmp_path_factory.mktemp("data") / "p", np.random.default_rng(0)
    home.mkdir()
    for number, (key, texts) in enumerate(TEXTS.items()):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(home / f"{key}.png")
        said = {"captions": texts, "caption": "old", "right": number % 2 == 0, "n": number}
        (home / f"{key}.json").write_text(json.dumps(said if texts else {"n": number}))
    (home / "c.png").write_bytes((home / "a.png").read_bytes()[:200])
    (home / "c.txt").write_text("cut")
    return home


@pytest.fixture(scope="module")
def median(folder, data):  # noqa: F811
    """A threshold between the probabilities of the texts."""
    pairs = [(data / f"{key}.png", text) for key, some in TEXTS.items() for text in some]
    scores = vlp_jax.load(folder("match")).match(*zip(*pairs, strict=True))
    return float(np.sort(scores)[1:3].mean())


@pytest.fixture(scope="module")
def call(folder, data, median):  # noqa: F811
    """f(out, *flags) -> the exit code of a run on them."""

    def run(out, *flags, data=data):
        words = [f"--captioner={folder('caption')}", f"--filter={folder('match')}"]
        words += [f"--data={data}", f"--out={out}", f"--threshold={median}", "--max-new=4"]
        return main(["capfilt", *words, "--batch-size=2", "--shard-size=2", *flags])

    return run


@pytest.fixture(scope="module")
def made(call, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    assert call(out, "--truth=right") == 0
    return out


def notes(out):
    files = sorted(glob.glob(f"{out}/texts/*.jsonl"))
    return [json.loads(line) for file in files for line in open(file)]


def content(out):
    files = (path for path in pathlib.Path(out).rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_every_text_has_its_score_and_its_decision(made, folder, data, median):  # noqa: F811
    found, counts = notes(made), json.loads((made / "manifest.json").read_text())
    assert [note["key"] for note in found] == ["a", "b", "d", "e"]
    judge = vlp_jax.load(folder("match"))
    for note in found:
        texts = note["texts"]
        assert [t["text"] for t in texts if t["from"] == "web"] == TEXTS[note["key"]]
        assert [t["from"] for t in texts[len(TEXTS[note["key"]]) :]] == ["synthetic"]
        wanted = judge.match([data / f"{note['key']}.png"] * len(texts), [t["text"] for t in texts])
        np.testing.assert_allclose([t["score"] for t in texts], wanted, atol=6e-5)
        assert [t["kept"] for t in texts] == (wanted > median).tolist()
    said = [t for note in found for t in note["texts"]]
    web = [t["kept"] for t in said if t["from"] == "web"]
    assert 0 < sum(web) < len(web) and counts["counts"]["web kept"] == sum(web)
    truth = [(n["truth"], t["kept"]) for n in found for t in n["texts"] if t["from"] == "web"
             and "truth" in n]  # fmt: skip
    assert counts["counts"].get("right dropped", 0) == truth.count((True, False))
    assert counts["counts"].get("wrong kept", 0) == truth.count((False, True))
    assert (counts["pictures"], counts["skipped"]) == (4, {"unreadable_picture": 1})


def test_the_result_trains_as_any_other_data(made, folder, data):  # noqa: F811
    source = open_source(str(made))
    kept = {n["key"]: [t["text"] for t in n["texts"] if t["kept"]] for n in notes(made)}
    samples = {source[i]["meta"]["key"]: source[i] for i in range(len(source))}
    assert list(samples) == [key for key, texts in kept.items() if texts]
    for key, sample in samples.items():
        assert sample["text"] == list(dict.fromkeys(kept[key]))
        assert sample["image"] == (data / f"{key}.png").read_bytes()
        assert sample["meta"]["n"] == list(TEXTS).index(key) and "caption" not in sample["meta"]
        assert sample["meta"]["capfilt"] == next(n for n in notes(made) if n["key"] == key)["texts"]
    words = load_tokenizer(str(folder.home / "vocab.txt"), 8)
    fields = {"image": Picture(16), "text": Text(8, 30)}
    how = dict(batch_size=len(samples), seed=0, tokenizers={"text": words})
    batch = next(TrainPipeline({"path": str(made), "threads": 1}, fields, **how).batches())
    rows = {tuple(row) for texts in kept.values() for row in words(texts or ["a"]).tolist()}
    assert {tuple(row) for row in batch["text"].tolist()} <= rows and batch["image"].any()


def test_neither_batch_order_nor_place_changes_a_text(made, call, data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for number, key in enumerate(reversed(TEXTS)):
        for suffix in ("png", "json"):
            shutil.copy(data / f"{key}.{suffix}", other / f"{number}.{suffix}")
    assert call(tmp_path / "out", "--batch-size=3", "--shard-size=9", data=other) == 0
    found = [note["texts"] for note in notes(tmp_path / "out")]
    assert found[::-1] == [note["texts"] for note in notes(made)]


def test_two_processes_make_the_same_bytes(made, folder, data, median, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    words = [f"--captioner={folder('caption')}", f"--filter={folder('match')}", f"--data={data}"]
    words += [f"--out={out}", f"--threshold={median}", "--max-new=4", "--batch-size=2"]
    words = ["capfilt", *words, "--shard-size=2", "--truth=right"]
    codes, texts = ends(job(2, words, tmp_path))
    assert codes == [0, 0], texts
    assert content(out) == content(made)
    assert sum("pictures with texts" in text for text in texts) == 1


def test_ways_of_writing_and_one_of_the_two(call, folder, data, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    assert call(out, "--beams=2", "--keep-human", "--texts=1", "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["counts"]["human kept"] == 3 and report["computed"] == 5
    human = [t for n in notes(out) for t in n["texts"] if t["from"] == "human"]
    assert all(t["kept"] and t["score"] is None for t in human)
    model, how = vlp_jax.load(folder("caption")), dict(beams=2, max_new=4, min_new=1)
    assert [notes(out)[2]["texts"][-1]["text"]] == model.generate([data / "d.png"], **how)
    before = content(out)
    assert call(out, "--beams=2", "--keep-human", "--texts=1", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["computed"] == 0
    assert content(out) == before
    (out / "mine.txt").write_text("notes")
    assert call(out) == 2 and "which `capfilt` did not write" in capsys.readouterr().err
    assert call(tmp_path / "f", "--captioner=") == 0
    assert {t["from"] for n in notes(tmp_path / "f") for t in n["texts"]} == {"web"}
    assert call(tmp_path / "w", "--filter=") == 0
    assert all(t["kept"] and t["score"] is None for n in notes(tmp_path / "w") for t in n["texts"])


def test_truth_is_said_in_words_too():
    """`no` is no truth of a text, and what says neither is not counted as either."""
    said = [True, 1, 1.0, "True", " yes", False, 0, "false", "0", "No", None, "maybe", "", 2, [1]]
    assert [_truth(value) for value in said] == [True] * 5 + [False] * 5 + [None] * 5
    text = {"text": "a", "from": "web", "kept": True}
    notes = [{"truth": _truth(value), "texts": [text]} for value in ("no", "yes", None, 1)]
    counts = Part([], notes, Counter()).counts()
    assert [counts[f"{word} kept"] for word in ("right", "wrong", "unclear")] == [2, 1, 1]


def test_each_model_sees_a_picture_once_by_its_own_preprocessing(data):
    seen = {"writer": [], "matcher": [], "pairs": []}

    def writes(image, prompts, numbers):
        seen["writer"].append(image.shape)
        return [[Made(f"text {number}", 0.0, [])] for number in numbers]

    class Matches:
        def see(self, image):
            seen["matcher"].append(image.shape)
            return image.mean((1, 2, 3)) / 255

        def __call__(self, states, texts):
            seen["pairs"].append(states.shape)
            return states

    views = {"writer": lambda d: decode_image(d, 4), "matcher": lambda d: decode_image(d, 6)}
    work = CapFilt(open_source(str(data)), writes, Matches(), views, Rules(threads=1), 2)
    part = work.part(range(5))
    assert {shape[1:] for shape in seen["writer"]} == {(4, 4, 3)}
    assert {shape[1:] for shape in seen["matcher"]} == {(6, 6, 3)}
    assert sum(shape[0] for shape in seen["matcher"]) == 4
    assert sum(shape[0] for shape in seen["pairs"]) == 8 and max(map(len, seen.values())) == 5
    assert len(part.notes) == 4 and part.skipped == {"unreadable_picture": 1}
    for note in part.notes:
        mean = decode_image((data / f"{note['key']}.png").read_bytes(), 6).mean() / 255
        assert {said["score"] for said in note["texts"]} == {round(mean, 4)}, note["key"]


def test_a_text_of_which_cleaning_leaves_nothing_is_dropped_unseen(call, folder, data, tmp_path):  # noqa: F811
    """It would be damage to a training on the result."""
    own, judge = tmp_path / "data", tmp_path / "match"
    own.mkdir()
    shutil.copytree(folder("match"), judge)
    manifest = json.loads((judge / "vlp_jax.json").read_text())
    manifest["tokenizer"].setdefault("options", {})["clean"] = "blip"
    (judge / "vlp_jax.json").write_text(json.dumps(manifest))
    for name, text in (("a", "!!! ..."), ("b", "two dog"), ("d", "...")):
        shutil.copy(data / f"{name}.png", own / f"{name}.png")
        (own / f"{name}.txt").write_text(text)
    words = [f"--filter={judge}", "--threshold=0", "--seed=12345678901234567"]
    assert call(tmp_path / "out", *words, data=own) == 0
    web = [n["texts"][0] for n in notes(tmp_path / "out")]
    assert [t["kept"] for t in web] == [False, True, False] and web[0]["score"] is None
    source = open_source(str(tmp_path / "out"))
    assert all("!" not in text for i in range(len(source)) for text in source[i]["text"])


def test_names_of_any_length_are_written(call, data, tmp_path):
    """Of a further file, a tar's header has room for 100 letters."""
    own, name = tmp_path / "data", f"{'m' * 120}.npy"
    own.mkdir()
    with tarfile.open(own / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for end, path in (("png", data / "a.png"), ("txt", data / "c.txt"), (name, data / "c.txt")):
            tar.add(path, f"k.{end}")
    assert call(tmp_path / "out", "--threshold=0", data=own) == 0
    found = open_source(str(tmp_path / "out"))[0]
    assert found["members"][name] == b"cut" and found["image"] == (data / "a.png").read_bytes()


def test_one_checkpoint_is_loaded_once(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(api, "load_model", lambda *words: loaded.append(words) or SimpleNamespace())
    (tmp_path / "x").symlink_to(tmp_path)
    found = api.load_models(api.Request("d", "o", str(tmp_path), str(tmp_path / "x")))
    assert len(loaded) == 1 and found["captioner"] is found["filter"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--captioner=", "--filter="], "give --captioner, --filter or both"),
        (["--captioner={match}"], "/match: its method writes no texts; it offers "),
        (["--filter={caption}"], "/caption: its method has no head that matches"),
        (["--beams=0"], "beams=0: must be at least 1"),
        (["--beams=2", "--top-p=0.5"], "beams=2: draws nothing"),
        (["--top-p=1.5"], "--top-p=1.5: must be above 0 and at most 1"),
        (["--threshold=1"], "--threshold=1: must be from 0 to below 1"),
        (["--texts=-1"], "--texts=-1: must be at least 0"),
        (["--captioner=", "--keep-human"], "--keep-human: without --captioner"),
        (["--truth=rihgt"], "--truth='rihgt': no sample has this JSON key; did you mean 'right'?"),
        (["--out={data}"], "is the data itself"),
        (["--out={data}/deep/out"], "/deep/out: lies in --data={data}; choose a folder outside"),
        (["--data=captions:{data}", "--out={data}/out"], "lies in --data=captions:{data}"),
        (["--filter={data}/none"], "--filter: {data}/none: no such folder"),
        (["--repetition-penalty=0"], "--repetition-penalty=0.0 is out of range"),
        (["--prompt=a red cat of two dog is"], "--prompt: 'a red cat of two dog is' is too long"),
        (["--min-new=9"], "--min-new=9: must be from 0 to --max-new=4"),
        (["--max-new=99"], "--max-new=99: after 1 token more than the model's 8 places"),
    ],
)
def test_mistakes_are_one_line(call, folder, data, tmp_path, capsys, flags, message):  # noqa: F811
    kinds = {kind: folder(kind) for kind in ("match", "caption")}
    flags = [flag.format(data=data, **kinds) for flag in flags]
    assert call(tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message.replace("{data}", str(data)) in error
    assert not list(tmp_path.iterdir())


def test_what_is_refused_costs_no_part(call, tmp_path, capsys):
    """Parts that a kill left, of another plan, which a slip of the pen must not empty."""
    building = tmp_path / ".out.building"
    building.mkdir()
    (building / "plan.json").write_text('{"plan": {"how": "another"}}')
    (building / "00000.tar").write_bytes(b"hours")
    before = content(building)
    for flag in ("--max-new=99", "--prompt=a red cat of two dog is"):
        assert call(tmp_path / "out", flag) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: --")
    assert content(building) == before


@pytest.mark.parametrize("named", ["00000.tar", "*.tar", "0000{0..0}.tar", "../o*/00000.tar"])
def test_a_result_does_not_replace_its_own_tars(tmp_path, named):
    """What it is made of would be gone with it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "00000.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds --data=.*, which it would replace"):
        api.check_apart(f"{out}/{named}", str(out))
    api.check_apart(f"{out}/{named}", str(tmp_path / "out2"))
    api.check_apart("https://a.b/x.tar", str(out))


def test_killed_at_every_operation(data, tmp_path):
    words = [sys.executable, str(SERVE / "killed_capfilt.py"), str(data), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=SERVE.parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["kills"] > 20


def test_the_sheet_shows_what_became_of_them(tmp_path):
    said = lambda origin, kept, score=0.5: dict(  # noqa: E731
        {"text": "a cat", "from": origin, "score": score, "kept": kept}
    )
    pairs = [(False, True), (True, False), (True, True)]
    found = [
        {"row": i, "key": str(i), "texts": [said("web", web), said("synthetic", own, None)]}
        for i, (web, own) in enumerate(pairs * 7)
    ]
    assert fate(found[0]) == "web dropped, synthetic kept"
    asked = []

    class Pictures:
        def __getitem__(self, row):
            asked.append(row)
            file = io.BytesIO()
            Image.new("RGB", (9, 7), (200, 0, 0)).save(file, "PNG")
            return {"image": file.getvalue()}

    path = filtered_sheet(lambda: iter(found), Pictures(), str(tmp_path / "x" / "s.png"))
    assert Image.open(path).height > 18 * 100 and len(set(asked)) == 18


def test_right_and_wrong_ones_stand_below_the_texts_they_are_of(capsys):
    counts = {f"{kind} kept": 1 for kind in ("pictures", "right", "synthetic", "web", "wrong")}
    print_counts({"counts": counts, "skipped": {}, "out": "D"})
    said = capsys.readouterr().out
    places = [said.index(name) for name in ("web texts", "- right", "- wrong", "synthetic texts")]
    assert places == sorted(places)
