"""`eval` of a workdir repeats the training's own numbers; its mistakes are one line each."""

import contextlib
import io
import json

import numpy as np
import pytest
from small_runs import make_pictures, write_config

from vlp_jax.__main__ import main
from vlp_jax.api import placement
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.lock import locked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir of a finished run, its summary, folder of pictures)."""
    folder = tmp_path_factory.mktemp("eval")
    data, workdir = make_pictures(folder / "pictures"), folder / "w"
    evals = [f"--config.evals.retrieval.path={data}", "--config.evals.second.type=retrieval"]
    evals += [f"--config.evals.second.path={data}", "--config.evals.second.limit=24"]
    lengths = ["--config.steps=3", "--config.optim.lr=1e-2"]
    config = f"--config={write_config(folder, data)}"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["train", config, f"--workdir={workdir}", *lengths, *evals, "--json"]) == 0
    return workdir, json.loads(printed.getvalue().splitlines()[-1]), data


def report(capsys, *words):
    assert main(["eval", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["eval"]


def test_the_numbers_of_training_exactly(run, capsys):
    workdir, summary, _ = run
    with locked(workdir):  # as while it trains
        found = report(capsys, f"--checkpoint={workdir}")
    assert {name: part["metrics"] for name, part in found.items()} == summary["eval"]
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    for name, metrics in summary["eval"].items():
        assert metrics == {key: last[f"eval/{name}/{key}"] for key in metrics}
    assert summary["eval"]["retrieval"] != summary["eval"]["second"]


def test_another_mesh_sharding_and_batch_change_nothing(run, capsys):
    workdir, summary, _ = run
    other = ["--config.mesh.data=2", "--config.mesh.fsdp=4", "--config.eval_batch_size=16"]
    other += ["--sharding=fsdp"]
    found = report(capsys, f"--checkpoint={workdir}", *other)["retrieval"]["metrics"]
    assert found == pytest.approx(summary["eval"]["retrieval"], abs=1e-6)


@pytest.mark.parametrize("mesh, found", [("data=-1", (1, 8, 1)), ("data=8", (8, 1, 1))])
def test_a_preset_spreads_over_all_devices_unless_a_mesh_is_asked_for(
    run, capsys, monkeypatch, mesh, found
):
    """A config that asks for nothing leaves the axes to the preset."""
    asked = []
    real = placement.make_mesh
    note = lambda shape: asked.append(real(shape)) or asked[-1]  # noqa: E731
    monkeypatch.setattr(placement, "make_mesh", note)
    monkeypatch.setattr("vlp_jax.train.evaluate.run_evaluators", lambda *_: {})  # where, not what
    words = ["--only=second", "--sharding=fsdp", f"--config.mesh.{mesh}"]
    report(capsys, f"--checkpoint={run[0]}", *words)
    assert {mesh.devices.shape for mesh in asked} == {found}


def test_only_some_and_a_report_on_disk(run, capsys, tmp_path):
    workdir, summary, data = run
    out = tmp_path / "report"
    found = report(capsys, f"--checkpoint={workdir}", "--only=second", f"--out={out}")
    assert list(found) == ["second"]
    written = json.loads((out / "report.json").read_text())
    assert written["second"]["metrics"] == summary["eval"]["second"]
    page = (out / "report.md").read_text()
    assert str(workdir) in page and f"data: {data}" in page and list(out.glob("*.png"))


def test_the_moving_average_is_what_is_evaluated(run):
    import jax

    from vlp_jax.api.model import load_model

    workdir = run[0]
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    _, state = Checkpoints(workdir / "checkpoints").restore_model(device)
    used = load_model(str(workdir)).params["logit_scale"]
    assert used == state["ema"]["logit_scale"] != state["params"]["logit_scale"]
    assert np.isfinite(float(used))


MISTAKES = {
    ("--only=secnd",): "did you mean 'second'",
    ("--config.evals.second.pth=x",): "did you mean 'path'",
    ("--config.evals.second.type=retreival",): "did you mean 'retrieval'",
    ("--config.evals.second.path=/no/set",): "/no/set",
    ("--config.evals.second.how.steps=3",): "evals.second.how.steps: unknown key",
    ("--config.eval_batch_size=0",): "batch_size=0",
    ("--config.mesh.data=3",): "does not cover 8 devices",
    ("--sharding=fdsp",): "--sharding: unknown preset 'fdsp'; did you mean 'fsdp'",
    ("--config.bacth_size=3",): "did you mean 'batch_size'",
    ("--config=configs/clip/foldr.py",): "configs/clip/folder.py",
}


@pytest.mark.parametrize("flags", MISTAKES, ids=lambda flags: flags[0])
def test_mistakes_are_one_line(run, capsys, flags):
    assert main(["eval", f"--checkpoint={run[0]}", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and MISTAKES[flags] in line


def test_a_workdir_without_a_checkpoint(run, capsys, tmp_path):
    (tmp_path / "config.json").write_text((run[0] / "config.json").read_text())
    (tmp_path / "checkpoints").mkdir()
    assert main(["eval", f"--checkpoint={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no complete checkpoint" in line and str(tmp_path) in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []
