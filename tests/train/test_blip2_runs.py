"""What a run of BLIP-2's first stage starts from, a BERT and an eye; a run from cached states."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from vlp_jax.api.cache import Request, cache
from vlp_jax.api.config import load_config
from vlp_jax.api.init_from import Source, Weights, sources
from vlp_jax.api.train import train
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.interop.folder import write_folder
from vlp_jax.methods.base import make_method
from vlp_jax.parallel import mesh
from vlp_jax.train import trainer as trainers

RECIPES = pathlib.Path(__file__).parents[2] / "configs" / "blip2"
LAYERS, WORDS = 4, 7
SIZES = {
    "image_size": 16, "method.image.patch_size": 8, "method.image.width": 16,
    "method.image.num_layers": 1, "method.image.head_width": 8, "method.image.stem": (),
    "method.qformer.vocab_size": WORDS + 1, "method.qformer.width": 16,
    "method.qformer.num_layers": LAYERS, "method.qformer.num_heads": 2,
    "method.qformer.num_queries": 2, "method.qformer.context_length": 12, "method.embed_dim": 4,
    "data.context_length": 6, "batch_size": 4, "steps": 3, "log_every": 1,
    "method.unroll": False,
}  # fmt: skip
BERT = dict(name="bert", vocab_size=WORDS, context_length=12, width=16, num_layers=LAYERS,
            num_heads=2)  # fmt: skip
EYE = dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=2, head_width=8,
           cls_token=True, pool="none", pre_norm=False, conv_bias=True, pos_embed="sincos",
           norm_eps=1e-6)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures with captions, a vocabulary of seven, and converted folders of a BERT and an eye."""
    data, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    (data / "pictures").mkdir()
    for i in range(10):
        picture = Image.fromarray(rng.integers(1, 256, (16, 16, 3), np.uint8))
        picture.save(data / "pictures" / f"{i}.png")
        (data / "pictures" / f"{i}.txt").write_text(f"{'ab'[i % 2]} {'ab'[i // 5]}")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (data / "vocab.txt").write_text("\n".join(words) + "\n")
    how = dict(image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3, crop="squash", resample="bicubic")
    for part, net in (("text", BERT), ("image", EYE)):
        method = make_method({"name": "encoder", part: net})
        shapes = flatten(jax.eval_shape(method.init, jax.random.key(0))[0])
        arrays = {path: rng.normal(size=s.shape).astype(np.float32) for path, s in shapes.items()}
        told = {"name": "encoder", part: net}
        manifest = dict(arch="", method=told, preprocessing=how, tokenizer={}, golden={})
        write_folder(str(data / part), arrays, manifest)
    return data


def recipe(data, file="tiny", args="", **changes):
    """A recipe at a size of nothing, on the first of the simulated devices."""
    where = {"data.path": data / "pictures", "data.tokenizer": data / "vocab.txt"}
    flags = {key: str(value) for key, value in {**SIZES, **where, **changes}.items()}
    config = load_config(f"{RECIPES}/{file}.py:{args or data}", flags)
    with config.unlocked():
        config.evals = {}
    return config


@pytest.fixture
def one_device(monkeypatch):
    """The mesh of a run."""
    one = mesh.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    monkeypatch.setattr(trainers, "make_mesh", lambda shape: one)


def test_slices_of_layers_are_read_off_a_source():
    found = {s.ours: s for s in sources({"a": "F:text/blocks/mlp[1::2]", "b": "F:d[:3]"})}
    assert found["a"] == Source("a=F:text/blocks/mlp[1::2]", "F", "a", "text/blocks/mlp",
                                layers=(1, None, 2))  # fmt: skip
    assert (found["b"].theirs, found["b"].layers) == ("d", (None, 3, None))


def test_the_first_stage_starts_from_a_bert_and_an_eye(data, one_device):
    """Every second layer of the BERT is the first of a group, its MLP is that of texts and of
    queries; the eye loses its last layer and gives the norm; [DEC] starts as the mean word."""
    from configs.blip2.common import from_bert

    config = recipe(data)
    eye = f"{data / 'image'}:image"
    start = {"image": eye, "image/blocks": f"{eye}/blocks[:1]", "image_norm": f"{eye}/norm_post"}
    with config.unlocked(), config.ignore_type():
        config.init_from = from_bert(str(data / "text")) | start
    given = Weights(trainers.Trainer(config))
    from vlp_jax.interop.folder import read_folder

    bert, _ = read_folder(str(data / "text"))
    for i in range(2):
        for ours, theirs in (("attn/qkv/kernel", "attn/qkv/kernel"), ("norm1/scale", "norm1/scale"),
                             ("mlp/fc1/kernel", "mlp/fc1/kernel"), ("norm2/bias", "norm2/bias"),
                             ("query_mlp/fc2/kernel", "mlp/fc2/kernel"),
                             ("norm_query/scale", "norm2/scale")):  # fmt: skip
            found = given.weights[f"qformer/layers/at{i}/{ours}"]
            np.testing.assert_array_equal(found, bert[f"text/blocks/{theirs}"][i::2], err_msg=ours)
    words = given.weights["qformer/token_embed/embedding"]
    np.testing.assert_array_equal(words[:WORDS], bert["text/token_embed/embedding"])
    np.testing.assert_allclose(words[WORDS], words[:WORDS].mean(0), atol=1e-6)
    arrays, _ = read_folder(str(data / "image"))
    for path in ("attn/qkv/kernel", "mlp/fc1/bias"):
        found = given.weights[f"image/blocks/{path}"]
        np.testing.assert_array_equal(found, arrays[f"image/blocks/{path}"][:1])
    np.testing.assert_array_equal(
        given.weights["image_norm/scale"], arrays["image/norm_post/scale"]
    )
    looks = {path for path in given.fresh if "cross" in path}
    assert looks and all(path.startswith("qformer/layers/at0/") for path in looks)
    others = {path.split("/")[0] for path in given.fresh if "cross" not in path}
    assert others == {"queries", "qformer", "image_proj", "text_proj", "temperature", "itm"}
    heads = {path for path in given.fresh if path.startswith("qformer/") and "cross" not in path}
    assert all(path.startswith("qformer/head/") for path in heads)


def test_an_eye_without_weights_is_one_line(data, one_device, tmp_path):
    with pytest.raises(UserError, match="image") as caught:
        train(recipe(data), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_run_from_cached_states_has_the_losses_of_one_with_the_eye(
    data, one_device, tmp_path, caplog
):
    """Where nothing changes pictures in training, which a cache leaves out and the run tells."""
    flags = {"allow_random_frozen": True, "method.augment.crop_scale": (1.0, 1.0)}
    losses = {}
    for name in ("live", "kept"):
        if name == "kept":
            config = recipe(data, **flags, **{"method.losses": ("itc",)})
            report = cache(Request(str(tmp_path / "cache"), config=config, batch_size=4))
            assert report["functions"] == ["image_states"]
            flags |= {"data.path": tmp_path / "cache"}
        config = recipe(data, **flags, **{"method.losses": ("itc",)})
        train(config, tmp_path / name)
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["live"]) == 3 and len(set(losses["live"])) == 3
    np.testing.assert_allclose(losses["live"], losses["kept"], rtol=1e-5)
    said = "method.augment: change no picture where data.path is a cache of image_states"
    assert said not in caplog.text
    trainers.Trainer(recipe(data, **flags, **{"method.augment.flip": 0.5}))
    assert said in caplog.text
