"""Adding a method is one file and one config, from any folder: it trains, embeds, is listed."""

import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import CONFIG, ROOT, make_pictures

import vlp_jax
from vlp_jax import methods
from vlp_jax.__main__ import main

METHOD = '''
"""Pictures near their own mean colour: a toy."""

import dataclasses

import jax.numpy as jnp

from vlp_jax.core.inputs import Aux
from vlp_jax.methods.base import Function
from vlp_jax.methods.kits.trunk import Trunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanColour(Trunk):
    """Attributes: pull: factor of the loss."""

    pull: float = 1.0

    def encode(self, v, x):
        pixels = self.prepare(x.batch["image"], x.keys)
        _, out, moved = self.run_image(v, x, pixels)
        return {"guess": out["pooled"][:, :3], "colour": pixels.mean((1, 2))}, Aux({}, moved)

    def objective(self, v, rows, x):
        error = self.pull * jnp.square(rows["guess"] - rows["colour"])
        return x.share(error), Aux({"error": x.share(error)})

    def functions(self):
        def guess(v, x, how):
            return {"colour": self.encode(v, x)[0]["guess"]}

        found = super().functions()
        return {**found, "guess": Function(guess, found["features"].reads)}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of methods that the package is told of, and nothing else."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mean_colour.py").write_text(METHOD)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    yield tmp_path
    sys.modules.pop("vlp_jax.methods.mean_colour", None)
    vars(methods).pop("mean_colour", None)


def test_a_method_from_a_folder_of_ones_own(folder, capsys):
    data = make_pictures(folder / "pictures", count=16)
    own = 'tiny_config("rotation", image=tower) | dict(name="mean_colour", pull=2.0)'
    text = CONFIG.replace("tiny_config(image=tower, text=tower)", own)
    config = folder / "config.py"
    config.write_text(text.format(tests=str(ROOT / "tests"), data=str(data)))
    workdir = folder / "w"
    words = [f"--config={config}", f"--workdir={workdir}", "--config.steps=2"]
    assert main(["train", *words]) == 0, capsys.readouterr().err
    assert main(["train", *words, "--config.method.name=mean_color"]) == 2
    assert "did you mean 'mean_colour'" in capsys.readouterr().err
    assert main(["forward", f"--checkpoint={workdir}"]) == 0
    assert "  writes  colour          float32[B, 3]" in capsys.readouterr().out
    rows = vlp_jax.load(workdir).embed_images(sorted(Path(data).glob("*.png")))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.ones(16), atol=1e-5)
