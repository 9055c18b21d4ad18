"""Cats or dogs: heads on frozen encoders learn two kinds of pictures, and a loaded run tells them
apart by prompts."""

import jax
import numpy as np
import pytest
from PIL import Image

import vlp_jax
from vlp_jax.api.config import load_config
from vlp_jax.api.train import train
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.train import trainer

RECIPE = """
from ml_collections import ConfigDict
from configs.clip.frozen_flickr import frozen

def get_config(path):
    image = dict(name="vit", image_size=32, patch_size=8, width=32, num_layers=1, head_width=16)
    text = dict(name="bert", vocab_size=259, context_length=24, width=32, num_layers=1,
                num_heads=2, types=0, pooler=False, pool="mean")
    c = frozen(image, text)
    c.method.embed_dim, c.method.targets = 16, "group"
    c.data.fields = {"group": {"key": "kind"}}
    c.data.path, c.data.holdout = path, 0.0
    c.data.tokenizer, c.data.context_length = "bytes", 24
    c.data.buckets = ()
    c.evals = ConfigDict()
    c.batch_size, c.steps, c.log_every, c.checkpoint_every = 16, 40, 10, 40
    c.optim.lr = 1e-2
    c.allow_random_frozen = True
    return c
"""
KINDS = {"cat": (200, 60, 40), "dog": (40, 80, 200)}


def picture(kind, seed):
    noise = np.random.default_rng(seed).normal(0, 25, (36, 40, 3))
    return np.clip(np.array(KINDS[kind]) + noise, 0, 255).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:.*allow_random_frozen")
def test_cats_or_dogs(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:1]))
    (tmp_path / "data").mkdir()
    rows = ["image,caption,kind"]
    for seed in range(32):
        kind = list(KINDS)[seed % 2]
        Image.fromarray(picture(kind, seed)).save(tmp_path / "data" / f"{seed}.png")
        rows.append(f"{seed}.png,a picture of a {kind},{seed % 2}")
    (tmp_path / "data" / "t.csv").write_text("\n".join(rows))
    (tmp_path / "recipe.py").write_text(RECIPE)
    recipe = f"{tmp_path / 'recipe.py'}:{tmp_path / 'data' / 't.csv'}"
    train(load_config(recipe, {}), tmp_path / "run")
    model = vlp_jax.load(tmp_path / "run")
    pictures = [picture(kind, seed) for kind, seed in (("dog", 90), ("cat", 91), ("dog", 92))]
    prompts = [f"a picture of a {kind}" for kind in KINDS]
    shares = model.similarity(pictures, prompts)
    assert shares.argmax(1).tolist() == [1, 0, 1] and shares.max(1).min() > 0.9
    assert model.scale_of() == pytest.approx(1 / 0.07)
