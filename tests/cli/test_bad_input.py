"""R20 and the bad input of every command: one line, exit code 2, nothing half-written."""

import json
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small_runs import CONFIG, ROOT, environment, make_pictures, write_config

from vlp_jax.__main__ import COMMANDS, main
from vlp_jax.api.config import load_config
from vlp_jax.core.errors import no_download
from vlp_jax.train.workdir import run_files, write_files

FOLDER = str(ROOT / "configs" / "clip" / "folder.py")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """(config file, folder of pictures)."""
    folder = tmp_path_factory.mktemp("good")
    return write_config(folder, make_pictures(folder / "pictures")), folder / "pictures"


def refused(capsys, *words):
    """Runs a command that must fail; returns its one line."""
    code = main([str(word) for word in words])
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    assert error.startswith("error: ") and "\n" not in error, error
    return error


OVERRIDES = {
    "bacth_size=3": "did you mean 'batch_size'",
    "batch_size=0": "batch_size=0 must be a positive multiple",
    "batch_size=17": "batch_size=17 must be a positive multiple",
    "steps=-1": "steps=-1: set steps, examples or epochs to a positive number",
    "mesh.data=3": "does not cover 8 devices",
    "sharding=fdsp": "sharding: unknown preset 'fdsp'; did you mean 'fsdp'",
    "method.name=clp": "method.name: unknown 'clp'; did you mean 'clip'",
    "method.image.name=vitt": "method.image.name: unknown 'vitt'; did you mean 'vit'",
    "method.unroll=perhaps": "must be true or false",
    "optim.name=adam": "optim.name: unknown 'adam'; did you mean 'adamw'",
    "optim.schedule=cosin": "did you mean 'cosine'",
    "data.tokenizer=clip": "but method.text.vocab_size=259",
    "data.context_length=99": "make them equal",
    "data.tokenizer_options.pad_id=1": "takes no option 'pad_id'",
    "data.tokenizer_options.clean=canonical": "did you mean 'canonicalize'",
    "data.path=/no/such/folder": "/no/such/folder",
    "data.image.crop=middle": "data.image.crop",
    "data.image.alpha=wite": "data.image.alpha: unknown 'wite'; did you mean 'white'",
    "data.image.fill=256": "data.image.fill=256 is out of range; it must be from 0 to 255",
    "data.caption=catgory": "data.caption='catgory': no sample has this JSON key",
    "data.label=kind": "data.label='kind'",
    "freeze=('imgae/.*',)": "matches no parameter",
    "init_from=/no/such/checkpoint": "/no/such/checkpoint",
    "init_from=/no/such:(": "init_from: '(' is no regular expression: missing )",
    "fresh=('(',)": "fresh: '(' is no regular expression",
    "data.fields.image=x": "data.fields.image is 'x', it must be a section; set data.fields.image.",
    "evals.x.type=retreival": "did you mean 'retrieval'",
    "evals.retrieval.pth=3": "did you mean 'path'",
    "evals.retrieval.path=/no/such/set": "evals.retrieval: ",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_bad_value_is_refused_before_anything_is_written(capsys, tmp_path, good, override):
    workdir = tmp_path / "w"
    words = ("train", f"--config={good[0]}", f"--workdir={workdir}", f"--config.{override}")
    assert OVERRIDES[override] in refused(capsys, *words)
    assert not list(workdir.glob("checkpoints/[0-9]*"))
    if not override.startswith("init_from"):
        assert not workdir.exists()


def test_folders_that_hold_no_pairs(capsys, tmp_path):
    train = ("train", f"--config={FOLDER}", f"--workdir={tmp_path / 'w'}")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused(capsys, *train, f"--config.data.path={empty}")
    bare = tmp_path / "bare"
    bare.mkdir()
    Image.new("RGB", (8, 8)).save(bare / "x.png")
    assert str(bare) in refused(capsys, *train, f"--config.data.path={bare}")
    missing = tmp_path / "pictures"
    assert str(missing) in refused(capsys, *train, f"--config.data.path={missing}")
    assert "data.path" in refused(capsys, *train, "--config.data.path=")


def test_scenes_that_nobody_made_are_told_with_the_command_that_makes_them(capsys, tmp_path):
    """Before the vocabulary, which the command writes beside them."""
    recipe, none = ROOT / "configs" / "blip" / "tiny.py", tmp_path / "none"
    line = refused(capsys, "train", f"--config={recipe}:{none}", f"--workdir={tmp_path / 'w'}")
    assert line.startswith(f"error: no such shard: '{none}/emoji_scenes-train-*.tar'; ")
    assert line.endswith(f"`python -m vlp_jax data prepare emoji_scenes --out={none}` writes such")


HUB = "Salesforce/blip-image-captioning-base"


@pytest.mark.parametrize(
    "words",
    [
        ("convert", HUB, "OUT/new"),
        ("eval", f"--checkpoint={HUB}"),
        ("generate", f"--checkpoint={HUB}", "--images=OUT", "--out=OUT/f.jsonl"),
        ("train", "--config=GOOD", "--workdir=OUT/w", f"--config.init_from={HUB}"),
        ("train", "--config=GOOD", "--workdir=OUT/w", f"--config.data.tokenizer={HUB}"),
    ],
)
def test_a_models_name_on_a_hub_is_no_folder(capsys, tmp_path, good, words):
    (tmp_path / "a.png").write_bytes(b"")
    words = [w.replace("OUT", str(tmp_path)).replace("GOOD", str(good[0])) for w in words]
    line = refused(capsys, *words)
    assert HUB in line and "nothing is downloaded: give the folder that holds its files" in line
    assert no_download("tests/none") == "", "below a folder that is there"


def test_unreadable_pictures_and_endless_captions(capsys, tmp_path, good):
    folder = make_pictures(tmp_path / "some", 20)
    (folder / "0.txt").write_text("long " * 2000)  # clipped, counted, no crash
    config = tmp_path / "c.py"
    tests = str(ROOT / "tests")
    config.write_text(CONFIG.format(tests=tests, data=str(folder)))
    words = [f"--config={config}", f"--workdir={tmp_path / 'w'}", "--config.steps=2"]
    assert main(["train", *words, "--json"]) == 0
    for i in range(20):
        (folder / f"{i}.png").write_bytes(b"no picture")
    code = main(["train", f"--config={config}", f"--workdir={tmp_path / 'v'}"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code in (1, 2) and "damage" in error, error


def test_workdirs_of_other_runs(capsys, tmp_path, good):
    words = [f"--config={good[0]}", f"--workdir={tmp_path / 'w'}", "--config.steps=2"]
    assert main(["train", *words]) == 0
    capsys.readouterr()
    line = refused(capsys, "train", *words, "--config.optim.lr=5e-3", "--config.seed=1")
    assert "optim.lr: 0.001 -> 0.005" in line and "seed: 0 -> 1" in line and "--force" in line
    assert main(["train", *words, "--config.log_every=7"]) == 0  # says how, not what
    assert main(["train", *words, "--config.seed=1", "--force", "--config.steps=3"]) == 0
    capsys.readouterr()
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in refused(capsys, "train", *words[:1], f"--workdir={file}")
    assert "no complete checkpoint of step 77" in refused(
        capsys, "train", *words, "--config.seed=1", "--config.steps=3", "--step=77"
    )


def test_pictures_without_captions_are_refused_before_the_training(capsys, tmp_path, good):
    bare = tmp_path / "bare"
    bare.mkdir()
    Image.new("RGB", (8, 8)).save(bare / "x.png")
    words = ("train", f"--config={good[0]}", f"--workdir={tmp_path / 'w'}")
    line = refused(capsys, *words, f"--config.evals.retrieval.path={bare}")
    assert f"evals.retrieval: no captions in '{bare}'" in line
    evals = (f"--config.evals.retrieval.path={good[1]}", "--config.evals.retrieval.caption=titel")
    assert "evals.retrieval.caption='titel': no sample has" in refused(capsys, *words, *evals)
    assert not (tmp_path / "w").exists()


def test_a_workdir_without_a_checkpoint_yet(capsys, tmp_path, good):
    """As a run that was just started leaves it."""
    workdir = tmp_path / "w"
    (workdir / "checkpoints").mkdir(parents=True)
    config = load_config(str(good[0]), {"evals.retrieval.path": str(good[1])})
    write_files(workdir, run_files(config, "x"))
    (tmp_path / "file").write_text("x")
    line = refused(capsys, "eval", f"--checkpoint={workdir}", f"--out={tmp_path / 'file'}/r")
    assert line == f"error: --out={tmp_path}/file/r: {tmp_path}/file is a file, not a folder"
    line = refused(capsys, "eval", f"--checkpoint={workdir}", f"--out={tmp_path / 'r'}")
    assert line == f"error: {workdir}/checkpoints: holds no complete checkpoint yet"
    assert not (tmp_path / "r").exists()


def test_wrong_checkpoints_and_archs(capsys, tmp_path):
    out = ("--out", tmp_path / "e.npz", "--images", tmp_path, "--texts", tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text("a\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert "no such folder" in refused(capsys, "embed", "--checkpoint", tmp_path / "no", *out)
    assert "neither" in refused(capsys, "embed", "--checkpoint", tmp_path, *out)
    line = refused(capsys, "convert", tmp_path / "x.png", tmp_path / "o", "--arch=ViT-B-23")
    assert "ViT-B-32" in line and not (tmp_path / "o").exists()
    assert "--config" in refused(capsys, "eval", "--checkpoint", tmp_path)
    for more in ((), (f"--config={FOLDER}",)):
        for name in ("nope", "fresh:nope", tmp_path / "x.png"):
            line = refused(capsys, "eval", f"--checkpoint={name}", *more)
            folder = str(name).removeprefix("fresh:")
            assert line == f"error: --checkpoint: {folder}: no such folder"
    assert "unknown command 'trian'; did you mean 'train'" in refused(capsys, "trian")


def test_the_same_command_resumes_and_json_is_the_last_line(capsys, tmp_path, good):
    evals = f"--config.evals.retrieval.path={good[1]}"
    words = [f"--config={good[0]}", f"--workdir={tmp_path / 'w'}", "--config.steps=3", evals]
    assert main(["train", *words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["train", *words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first["step"] == again["step"] == 3 and first["eval"] == again["eval"]
    assert main(["eval", f"--checkpoint={tmp_path / 'w'}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    measured = report["eval"]["retrieval"]["metrics"]
    assert measured == pytest.approx(first["eval"]["retrieval"]), "eval repeats training's numbers"
    run = json.loads((tmp_path / "w" / "run.json").read_text())
    assert {"jax", "flax", "git"} <= run["versions"].keys() and run["data_digest"]
    texts = tmp_path / "texts.txt"
    texts.write_text("n 1 b\nn 2 a\n")
    words = ["--images", good[1], "--texts", texts, "--out", tmp_path / "e.npz"]
    assert main(["embed", "--checkpoint", str(tmp_path / "w"), *map(str, words), "--json"]) == 0
    with np.load(tmp_path / "e.npz") as file:
        norms = np.linalg.norm(file["image"], axis=1), np.linalg.norm(file["text"], axis=1)
        assert [n.shape for n in norms] == [(40,), (2,)]
        np.testing.assert_allclose(np.concatenate(norms), 1, rtol=1e-5)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_instant(command):
    """Less than a second of the processor: the clock would blame a busy machine."""
    words = [sys.executable, "-m", "vlp_jax", command, "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(words, capture_output=True, text=True, env=environment(), cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (run.returncode == 0 and "--json" in run.stdout) or command == "data", run.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_doctor_speaks_json(capsys, tmp_path):
    assert main(["doctor", "--json", f"--workdir={tmp_path}", "--data=builtin:emoji/noto-val"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["backend"] == "cpu" and report["data_examples"] == 367
    assert pathlib.Path(report["compilation_cache"]).name


@pytest.mark.parametrize(
    "words, flag",
    [
        (("embed", "--bach-size=3"), "--bach-size: unknown flag; did you mean '--batch-size'"),
        (("data", "check", "--limt=3", "x"), "--limt: unknown flag; did you mean '--limit'"),
        (("data", "stats", "--rebuild", "x"), "--rebuild: unknown flag"),
        (("serve", "--indx", "x"), "--indx: unknown flag; did you mean '--index'"),
        (("train", "--confg=x"), "--confg: unknown flag; did you mean '--config'"),
    ],
)
def test_unknown_flags_name_the_nearest(words, flag, capsys):
    assert main(list(words)) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag}")
