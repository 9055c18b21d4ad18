"""`train` end to end: what a workdir holds, what --json prints, what a mistake costs."""

import json
import os
import socket

import pytest
from small_runs import finish, make_pictures, start, write_config

from vlp_jax.__main__ import main
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.lock import locked


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def config(data):
    return write_config(data.parent, data)


def words(config, workdir, *more):
    return ["train", f"--config={config}", f"--workdir={workdir}", "--config.steps=3", *more]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_workdir_tells_the_whole_run(config, data, tmp_path, capsys):
    workdir = tmp_path / "deep" / "w"
    command = words(config, workdir, "--config.optim.lr=2e-3", "--json")
    assert main(command) == 0
    out, error = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert summary.keys() == {"workdir", "step", "seconds", "loss", "parameters", "eval"}
    assert summary["step"] == 3 and summary["loss"] == lines(workdir)[-1]["loss"]
    assert f"{summary['parameters']:,} parameters, 40 examples, steps 0 -> 3" in error
    resolved = json.loads((workdir / "config.json").read_text())
    assert resolved["optim"]["lr"] == 2e-3 and resolved["steps"] == 3
    assert resolved["data"]["path"] == str(data) and resolved["config_file"] == str(config)
    run = json.loads((workdir / "run.json").read_text())
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "git"} <= run["versions"].keys()
    assert len(run["data_digest"]) == 32
    names = {path.name for path in workdir.iterdir()}
    assert names == {"config.json", "run.json", "metrics.jsonl", "tensorboard", "checkpoints"}
    assert all({"step", "loss"} <= line.keys() for line in lines(workdir))
    assert Checkpoints(workdir / "checkpoints").steps() == [3]


def test_a_second_start_is_refused_before_it_writes_anything(config, tmp_path, capsys):
    workdir = tmp_path / "w"
    with locked(workdir):
        record = (workdir / "lock").read_text()
        for more in ([], ["--force"], ["--config.data.path=/no/such/folder"]):
            assert main(words(config, workdir, *more)) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert f"--workdir={workdir}: a training holds it ({socket.gethostname()}, " in line
            assert f"pid {os.getpid()}, since" in line
        assert [path.name for path in tmp_path.rglob("*")] == ["w", "lock"]
        assert (workdir / "lock").read_text() == record
    assert list(tmp_path.iterdir()) == []


def test_other_pictures_in_the_folder_are_another_run(config, data, tmp_path, capsys):
    workdir, extra = tmp_path / "w", data / "new.png"
    assert main(words(config, workdir)) == 0
    capsys.readouterr()
    extra.write_bytes((data / "0.png").read_bytes())
    extra.with_suffix(".txt").write_text("new")
    try:
        assert main(words(config, workdir)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "files were added, removed or changed" in line and "--force" in line
    finally:
        extra.unlink()
        extra.with_suffix(".txt").unlink()
    assert main(words(config, workdir)) == 0


def test_evaluations_are_logged_with_the_loss_of_their_step(config, data, tmp_path):
    workdir = tmp_path / "w"
    evals = (f"--config.evals.retrieval.path={data}", "--config.eval_every=2")
    assert main(words(config, workdir, *evals)) == 0
    found = lines(workdir)
    trained = {line["step"]: line["loss"] for line in found if "lr" in line}
    measured = {line["step"]: line["loss"] for line in found if "eval/retrieval/i2t_r1" in line}
    assert list(trained) == [1, 2, 3] and list(measured) == [2, 3]
    assert all(loss == trained[step] for step, loss in measured.items())


OUT_OF_RANGE = {
    "optim.lr=-1": "optim.lr=-1.0 is out of range; it must be at least 0",
    "optim.b2=1.0": "optim.b2=1.0 is out of range",
    "optim.lr_final=7": "it must be from 0 to 1",
    "optim.mu_dtype=floot32": "did you mean 'float32'",
    "optim.no_decay=('[',)": "optim.no_decay: '[' is no regular expression",
    "optim.lr_groups=('a',)": "'a' is no (path regex, factor) pair",
    "freeze=('[',)": "freeze: '[' is no regular expression",
    "ema_decay=1.5": "ema_decay=1.5 is out of range",
    "seed=-1": "seed=-1 is out of range",
    "log_every=0": "log_every=0 is out of range; it must be at least 1",
    "max_bad_steps=0": "max_bad_steps=0 is out of range",
    "checkpoint_every=-5": "checkpoint_every=-5 is out of range",
    "data.workers=-1": "data.workers=-1 is out of range",
    "data.word_dropout=2": "data.word_dropout=2.0 is out of range",
    "data.image.eval_crop=centre": "did you mean 'center'",
    "method.image.num_layers=0": "method.image.num_layers=0 is out of range",
    "image_size=48": "image_size=48 but method.image.image_size=32; make them equal",
    "method.image.patch_size=7": "not a multiple of patch_size 7",
    "steps=1.5": "must be of type int",
    "optim.lr=fast": "must be of type float",
    "steps": "needs a value, as in --config.steps=VALUE",
    "optim=3": "is a section",
    "wandb=project": "pip install",
    "evals.retrieval.path=/no/set": "/no/set",
}


@pytest.mark.parametrize("override", OUT_OF_RANGE)
def test_out_of_range_is_refused_before_anything_is_written(config, tmp_path, capsys, override):
    command = ["train", f"--config={config}", f"--workdir={tmp_path / 'w'}"]
    assert main([*command, f"--config.{override}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and OUT_OF_RANGE[override] in line
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line_of_a_child_too(config, tmp_path):
    for flag in ("--config.bacth_size=3", "--config.data.path=/no/such/folder"):
        child = start("train", f"--config={config}", f"--workdir={tmp_path}", flag)
        code, _, error = finish(child)
        assert code == 2 and len(error.splitlines()) == 1 and error.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_config_file_that_fails_is_named(tmp_path, capsys):
    broken = tmp_path / "c.py"
    for text, part in {
        "def get_config(_):\n    return 1 / 0": "ZeroDivisionError",
        "x = 1": "get_config",
        "import nothing_of_this_name": "ModuleNotFoundError",
    }.items():
        broken.write_text(text)
        assert main(["train", f"--config={broken}", f"--workdir={tmp_path / 'w'}"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(broken) in line and part in line
    assert main(["train", "--config=configs/clip/foldr.py", f"--workdir={tmp_path / 'w'}"]) == 2
    assert "did you mean 'configs/clip/folder.py'" in capsys.readouterr().err
