"""Models without texts on the command line: `embed` gives their features, `convert` says what can
be written for other libraries.
"""

import json

import jax
import numpy as np
import pytest
from small_runs import CONFIG, ROOT, make_pictures
from tiny import SIZE, tiny_config

from vlp_jax.__main__ import main
from vlp_jax.api.model import Model, load_model
from vlp_jax.cli import embed
from vlp_jax.core.inputs import Inputs, Vars

FRESH = {"colorization": SIZE, "context": 3 * 8 + 2 * 2 + 2 * 1}  # method: side of its pictures


@pytest.fixture(scope="module", params=["mae", "simclr"])
def run(request, tmp_path_factory):
    """(method, workdir of a run of one step)."""
    folder, name = tmp_path_factory.mktemp("run"), request.param
    image = (
        "dict(pre_norm=False, conv_bias=True, norm_eps=1e-6)"  # as the released masked autoencoders
    )
    method = f"tiny_config({name!r}, image={image})"
    text = CONFIG.replace("tiny_config(image=tower, text=tower)", method)
    config, data = folder / "config.py", make_pictures(folder / "pictures", count=16)
    config.write_text(text.format(tests=str(ROOT / "tests"), data=str(data)))
    argv = [f"--config={config}", f"--workdir={folder / 'w'}", "--config.steps=1"]
    assert main(["train", *argv]) == 0
    return name, folder / "w"


def check_features(checkpoint, pictures, out):
    """Runs `embed` and compares with the method's own features, divided by their norm."""
    argv = [f"--checkpoint={checkpoint}", f"--images={pictures}", f"--out={out}"]
    assert embed.main([*argv, "--batch-size=2"]) == 0
    with np.load(out) as found:
        assert sorted(found.files) == ["image", "image_paths"]
        rows, paths = found["image"], list(found["image_paths"])
    model = load_model(str(checkpoint))
    images = np.stack([model.decode((pictures / path).read_bytes()) for path in paths])
    features = jax.jit(model.method.functions()["features"])
    v, x = Vars(model.params, model.extra), Inputs.of({"image": images})
    wanted = np.asarray(features(v, x))
    assert rows.dtype == np.float32 and rows.shape == wanted.shape == (5, wanted.shape[1])
    length = np.linalg.norm(wanted, axis=1, keepdims=True)
    assert abs(length - 1).min() > 0.1  # they are no unit vectors by themselves
    np.testing.assert_allclose(rows, wanted / length, atol=1e-5)


def test_a_run_without_texts_gives_its_features(run, pictures, tmp_path):
    check_features(run[1], pictures, tmp_path / "e.npz")


@pytest.mark.parametrize("name", FRESH)
def test_tasks_without_a_pooled_tower_give_theirs(name, pictures, tmp_path):
    workdir = tmp_path / "w"
    (workdir / "checkpoints").mkdir(parents=True)
    image = dict(eval_crop="squash", resample="bicubic")
    config = dict(method=tiny_config(name), seed=0, image_size=FRESH[name])
    config["data"] = dict(image=image, tokenizer="", context_length=0)
    (workdir / "config.json").write_text(json.dumps(config))
    check_features(f"fresh:{workdir}", pictures, tmp_path / "e.npz")


def fails(capsys, *argv):
    """The one line that a refused command says."""
    capsys.readouterr()
    assert main([*map(str, argv)]) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("error")]  # beside what a folder holds
    return line


def test_texts_are_refused_before_a_picture_is_read(run, pictures, tmp_path, capsys, monkeypatch):
    name, workdir = run
    monkeypatch.setattr(Model, "decode", lambda *_: pytest.fail("a picture was read"))
    (tmp_path / "t.txt").write_text("a cat\n")
    argv = ["embed", f"--checkpoint={workdir}", f"--texts={tmp_path / 't.txt'}"]
    for more in ([], [f"--images={pictures}"]):
        line = fails(capsys, *argv, *more, f"--out={tmp_path / 'e.npz'}")
        assert f"--texts: {workdir} holds a model of method '{name}', without a text tower" in line
    assert not (tmp_path / "e.npz").exists()


def test_no_picture_at_all_is_an_error(run, tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    argv = ["embed", f"--checkpoint={run[1]}", f"--images={tmp_path / 'broken'}"]
    line = fails(capsys, *argv, f"--out={tmp_path / 'e.npz'}", "--skip-damaged")
    assert "none of 1 pictures can be read" in line


def test_runs_are_exported_where_there_is_a_format(run, tmp_path, capsys):
    name, workdir = run
    for to in ("open_clip", "hf", "mae"):
        out = tmp_path / to
        if name == "mae" and to != "open_clip":
            assert main(["convert", str(workdir), str(out), f"--to={to}"]) == 0
            assert (out / "model.safetensors").is_file()
            continue
        line = fails(capsys, "convert", workdir, out, f"--to={to}")
        assert f"--to={to}: method '{name}' cannot be exported so" in line
        assert "clip to hf or open_clip" in line and "mae to hf or mae" in line
        assert not out.exists()
