"""The notebooks run from the first cell to the last, and hold no outputs of somebody's machine."""

import json
import shutil

import pytest
from PIL import Image
from small_runs import ROOT

from vlp_jax.api import train

NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = NOTEBOOKS
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in found if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    return ["".join(cell["source"]) for cell in code]


def run(cells):
    names = {}
    for cell in cells:
        exec(compile(cell, "cell", "exec"), names)
    return names


def test_own_pictures(cells, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VLP_JAX_CHECKPOINT", str(tiny_folder))
    names = run(cells)
    assert names["image"].shape == names["text"].shape == (6, 12)
    assert names["share"].sum(1) == pytest.approx(1)
    for name in ("table.png", "space.png"):
        assert min(Image.open(tmp_path / "runs" / "notebook" / name).size) > 300
    texts = [names["emoji"].metadata(i)["text"] for i in names["found"]]
    assert [prompt in text for prompt, text in zip(names["prompts"], texts, strict=True)] == [
        True
    ] * 6


def test_without_a_model_the_quickstarts_is_trained(cells, tiny_folder, monkeypatch):
    seen = []

    def instead(config, workdir):
        seen.append(config)
        shutil.copytree(tiny_folder, workdir)
        return train.Outcome(str(workdir), 0, 0.0, None, 0, {}, 1.0)

    monkeypatch.setattr(train, "train", instead)
    monkeypatch.setenv("VLP_JAX_CHECKPOINT", "")
    monkeypatch.setenv("VLP_JAX_STEPS", "7")
    assert run(cells[:2])["model"].path == "runs/notebook/training"
    (config,) = seen
    assert config.steps == 7 and not config.evals and config.batch_size == 128
