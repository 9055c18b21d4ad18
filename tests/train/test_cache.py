"""`data cache`: training from it gives the numbers of training without it; it is refused where
weights, pictures or captions are others; a run that was killed goes on."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import start

from vlp_jax.__main__ import main
from vlp_jax.api.cache import Request, _write, cache
from vlp_jax.api.config import load_config
from vlp_jax.api.train import train
from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.data.cache import CacheSource
from vlp_jax.data.cache_writer import CacheWriter
from vlp_jax.data.caption import CaptionSpec
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.open import open_source
from vlp_jax.data.per_caption import PerCaption
from vlp_jax.data.subset import Subset
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.train import trainer

COUNT = 22
RECIPE = """
from ml_collections import ConfigDict
from configs.clip.frozen_flickr import frozen

def get_config(_):
    image = dict(name="vit", image_size=32, patch_size=8, width=32, num_layers=1, head_width=16)
    text = dict(name="bert", vocab_size=259, context_length=40, width=16, num_layers=1,
                num_heads=2, types=0, pooler=False)
    c = frozen(image, text)
    c.method.embed_dim = 8
    c.data.path = {data!r}
    c.data.tokenizer, c.data.context_length = "bytes", 32
    c.data.tokenizer_options.clean = "none"
    c.data.buckets = (16, 32)
    c.data.damage_budget = 0.2
    c.data.holdout = 0.1
    c.evals = ConfigDict()
    c.batch_size, c.steps, c.log_every, c.checkpoint_every = 8, 5, 1, 5
    c.allow_random_frozen = True
    return c
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe on pictures of several captions, one of them damaged, one without a caption."""
    root = tmp_path_factory.mktemp("cached")
    folder, rng = root / "data", np.random.default_rng(0)
    folder.mkdir()
    for i in range(COUNT):
        size = (40 + i, 32, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{i:02}.png")
        said = {"captions": [f"{i} {'word ' * k}" for k in range(1 + i % 3)]} if i != 3 else {}
        (folder / f"{i:02}.json").write_text(json.dumps(said))
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:200])
    file = root / "recipe.py"
    file.write_text(RECIPE.format(data=str(folder)))
    return file


@pytest.fixture(scope="module")
def made(recipe):
    """The cache of the recipe's data."""
    out = str(recipe.parent / "cache")
    report = cache(Request(out, config=load_config(str(recipe), {}), part_rows=9, batch_size=8))
    assert report["samples"] == COUNT and report["computed"] == 3 and report["damaged"] == 1
    assert report["functions"] == ["image_features", "text_features"]
    return out


def finished(config, workdir):
    """(weights, losses) of a run."""
    from vlp_jax.train.checkpoint import Checkpoints

    train(config, workdir)
    _, state = Checkpoints(workdir / "checkpoints").restore_model(
        lambda tree: jax.tree.map(
            lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), tree
        )
    )
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return flatten(state["params"]), [line["loss"] for line in lines if "loss" in line]


def test_the_same_numbers_with_and_without(recipe, tmp_path, monkeypatch):
    """Two captions a picture; the pictures' features are read twice."""
    monkeypatch.setattr(trainer, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:1]))
    flags, group = {"data.captions_per_picture": "2"}, {"data.fields.group.key": "picture"}
    made = str(tmp_path / "two")
    cache(Request(made, config=load_config(str(recipe), flags | group), batch_size=8))
    (live, losses), (kept, again) = (
        finished(load_config(str(recipe), {**flags, **group, **own}), tmp_path / name)
        for name, own in (("live", {}), ("kept", {"data.path": made}))
    )
    assert live.keys() == kept.keys() and len(losses) == 5
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    for path, leaf in live.items():
        np.testing.assert_allclose(leaf, kept[path], atol=1e-5, err_msg=path)


def test_the_same_command_does_nothing_twice(recipe, made):
    before = {f: os.stat(os.path.join(made, f)).st_mtime_ns for f in os.listdir(made)}
    config = load_config(str(recipe), {})
    report = cache(Request(made, config=config, part_rows=50, batch_size=4))
    assert report["computed"] == 0
    assert before == {f: os.stat(os.path.join(made, f)).st_mtime_ns for f in os.listdir(made)}


def test_a_part_of_damaged_samples(recipe, tmp_path):
    """It is a part without rows; a data set of them is refused."""
    folder = shutil.copytree(recipe.parent / "data", tmp_path / "data")
    for name in sorted(folder.glob("*.png"))[9:18]:
        name.write_bytes(f"no picture {name}".encode())
    config = load_config(str(recipe), {"data.path": str(folder)})
    ask = Request(str(tmp_path / "c"), config=config, part_rows=9, batch_size=8)
    report = cache(ask)
    assert (report["computed"], report["damaged"]) == (3, 10)
    source = open_source(ask.out)
    assert source.array(18, "image_features").any()
    with pytest.raises(DamagedSample, match="not_cached"):
        source.array(9, "image_features")
    lost = {"sound": np.zeros(9, bool), "f": np.zeros((9, 1), np.float32)}
    maker = SimpleNamespace(parts=1, part=lambda _: (lost, {}), source=Subset(source, range(9)))
    with pytest.raises(RunError, match="none of 9 samples can be read, first"):
        _write(CacheWriter(str(tmp_path / "none"), {}), maker, 0.0, SimpleNamespace(part=int))
    assert not (tmp_path / "none" / "cache.json").exists()


def test_samples_are_those_of_the_data_set_and_know_their_rows(recipe, made):
    source, plain = open_source(made), open_source(str(recipe.parent / "data"))
    assert isinstance(source, CacheSource) and source.fingerprint == plain.fingerprint
    assert source.metadata(4)["text"] == plain.metadata(4)["text"]
    assert source[4]["image"] == plain[4]["image"]
    assert source.array(4, "image_features").shape == (32,)
    rows = [source.array(5, "text_features", k) for k in range(3)]
    assert not np.array_equal(rows[0], rows[1])
    of_two = PerCaption(Subset(source, np.array([5, 4])), 2)  # captions of 5: three, of 4: two
    assert of_two.metadata(1)["text"] == plain.metadata(5)["text"][1:2]
    (text,), spec = of_two.metadata(1)["text"], CaptionSpec()
    np.testing.assert_array_equal(
        of_two.metadata(1)["cached"]("text_features", text, spec), rows[1]
    )
    assert of_two.metadata(3)["meta"]["picture"] == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"seed": "1"}, "made with another image/"),
        ({"data.image.crop": "center"}, "made with image crop='squash', this run says 'center'"),
        ({"data.tokenizer_options.clean": "lower"}, "made with text tokenizer="),
        ({"data.templates": "('a {c}',)"}, "data.templates: a cache knows captions as they are"),
        ({"method.image.width": "48"}, r"holds float32\[32\], the method takes"),
        ({"method.image.activation": "quick_gelu"}, "method.image.activation='gelu', this run"),
    ],
)
def test_another_recipe_is_refused(recipe, made, tmp_path, flags, message):
    config = load_config(str(recipe), {"data.path": made, **flags})
    with pytest.raises(UserError, match=message) as caught:
        train(config, tmp_path / "w")
    assert "\n" not in str(caught.value)


def test_another_scale_of_pictures_is_refused_and_does_not_go_on(recipe, made, tmp_path):
    """Which no weight and no framing tells; of a cache from before it was kept nobody knows."""
    config = load_config(str(recipe), {})
    with config.unlocked():
        config.method.image_std = (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="holds a cache of other networks; remove it"):
        cache(Request(made, config=config))
    config.data.path = made
    with pytest.raises(UserError, match=r"made with method\.image_std=\(.*\), this run says \("):
        train(config, tmp_path / "w")
    old = shutil.copytree(made, tmp_path / "old")
    said = json.loads((old / "cache.json").read_text())
    del said["networks"]
    (old / "cache.json").write_text(json.dumps(said))
    config.data.path, config.steps = str(old), 1
    train(config, tmp_path / "w")


def test_a_changed_data_set_and_a_cut_file_are_refused(recipe, made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy")
    part = copy / "part-00001" / "image_features.npy"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"image_features\.npy: has .* bytes of"):
        open_source(str(copy))
    for other in ({"rows": 3}, {"pictures": "of another day"}):
        changed = json.loads((Path(made) / "cache.json").read_text()) | other
        (copy / "cache.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match="has changed since"):
            open_source(str(copy))
    with pytest.raises(UserError, match="is a cache itself"):
        config = load_config(str(recipe), {"data.path": made})
        cache(Request(str(tmp_path / "x"), config=config))


def test_a_command_that_was_killed_goes_on(recipe, made, tmp_path, capsys):
    """SIGKILL while it computes; the report of the second run counts what was left."""
    out = tmp_path / "killed"
    words = ["data", "cache", f"--config={recipe}", f"--out={out}", "--part-rows=2"]
    words += ["--batch-size=8", "--json"]
    child = start(*words)
    while child.poll() is None and not (out / "part-00001").exists():
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    there = len(list(out.glob("part-?????")))
    assert there and not (out / "cache.json").exists()
    with pytest.raises(UserError, match="a cache that is not finished"):
        open_source(str(out))
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["computed"] == 11 - there
    source, whole = open_source(str(out)), open_source(made)
    for i in (0, 6, 21):
        for name, caption in (("image_features", None), ("text_features", 0)):
            ours, theirs = source.array(i, name, caption), whole.array(i, name, caption)
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_adapters_that_no_gradient_would_reach_are_refused(recipe, made):
    """A cache of what the towers gave, under adapters on one of them."""
    flags = {"data.path": made, "allow_random_frozen": "true", "adapt.rank": "2"}
    match = r"^adapt: text/.*lora_a \(\d+ such\) cannot learn where data.path is a cache of text_f"
    with pytest.raises(UserError, match=match):
        trainer.Trainer(load_config(str(recipe), {**flags, "adapt.paths": "('text/.*kernel',)"}))
    learned = {"adapt.learn": "('image_head.*',)", "adapt.rank": "0"}
    trainer.Trainer(load_config(str(recipe), {**flags, **learned}))
