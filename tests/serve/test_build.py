"""`index` killed at every operation on the disk (R25), and what it makes of odd data."""

import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.open import open_source
from vlp_jax.data.whole import write_whole
from vlp_jax.serve import build
from vlp_jax.serve.sample import read_sample

HERE = pathlib.Path(__file__).parent


def make_pictures(folder, count):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (9, 7, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")


def test_killed_at_every_operation(tmp_path):
    """The same command goes on where parts are whole, embeds none of them twice, and makes the same
    bytes; no half index opens."""
    make_pictures(tmp_path / "data" / "a", 3)
    make_pictures(tmp_path / "data" / "b", 3)
    (tmp_path / "out").mkdir()
    words = [sys.executable, str(HERE / "killed.py")]
    data = f"pictures:{tmp_path / 'data'}"
    done = subprocess.run(
        [*words, data, str(tmp_path / "out")], capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["kills"] > 20


def test_what_is_half_written_never_has_the_name(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def dies(partial):
        pathlib.Path(partial).write_text("ha")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(str(path), dies)
    assert path.read_text() == "old"


def test_the_path_of_a_picture_is_absolute(tmp_path, monkeypatch):
    """An index without thumbnails shows the files themselves, wherever it is served from."""
    make_pictures(tmp_path / "here", 1)
    monkeypatch.chdir(tmp_path)
    sample = read_sample(open_source("pictures:here"), 0, lambda data: None, 0)
    assert sample.columns["path"] == str(tmp_path / "here" / "00.png")


def test_a_model_of_several_vectors_a_picture_has_no_index(tmp_path, monkeypatch):
    make_pictures(tmp_path / "data", 1)
    model = SimpleNamespace(run=lambda *_: None, row=lambda side: (32, 256))
    monkeypatch.setattr(build, "load_model", lambda *_: model)
    request = build.Request("C", f"pictures:{tmp_path / 'data'}", str(tmp_path / "out"))
    with pytest.raises(UserError, match="--checkpoint=C: gives 32 vectors a picture") as caught:
        build.build_index(request)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
