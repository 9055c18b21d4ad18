"""CLIP from frozen encoders: counts, the loss forms against NumPy, what moves and what does not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.api.config import load_config
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, size
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.losses.contrastive import softmax_contrastive
from vlp_jax.losses.soft_targets import soft_targets
from vlp_jax.methods.base import make_method
from vlp_jax.models.residual_head import ResidualHead
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

B, LENGTH = 6, 8
TINY = dict(
    name="frozen_clip",
    embed_dim=16,
    text_length=LENGTH,
    image=dict(name="resnet_v1", image_size=32, depth=18, width_multiplier=0.125),
    text=dict(
        name="bert", vocab_size=259, context_length=12, width=16, num_layers=1, num_heads=2,
        types=0, pooler=False, dropout=0.3,
    ),
)  # fmt: skip


def batch():
    rng = np.random.default_rng(0)
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (B, 1))
    text = np.where(mask, rng.integers(1, 259, (B, LENGTH)), 0).astype(np.int32)
    image = rng.integers(0, 256, (B, 32, 32, 3), np.uint8)
    return {"image": image, "text": text, "text_mask": mask}


@pytest.mark.parametrize(
    "width, embed_dim, bias, count",
    [
        (2048, 256, True, 590_848),
        (768, 256, True, 263_168),
        (2048, 512, False, 1_311_744),
        (768, 512, False, 656_384),
        (1280, 256, True, 1280 * 256 + 256 * 256 + 4 * 256),
        (384, 256, True, 384 * 256 + 256 * 256 + 4 * 256),
    ],
)
def test_heads_have_the_published_counts(width, embed_dim, bias, count):
    head = ResidualHead(embed_dim, bias=bias)
    made = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((1, width)))
    assert size(made) == count


def test_the_recipe_has_the_published_encoders():
    config = load_config("configs/clip/frozen_flickr.py", {})
    method = make_method(config.method)
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    assert size(params["image"]) == 23_508_032
    assert size(params["text"]) == 134_734_080
    assert size(params["image_head"]) + size(params["text_head"]) == 854_016
    assert set(params) == {"image", "text", "image_head", "text_head"}  # the temperature is fixed
    assert float(method.scale({})) == pytest.approx(14.2857, rel=1e-5)
    assert method.fields()["text"].length == 64
    notebook = make_method(load_config("configs/clip/frozen_flickr.py:notebook", {}).method)
    text = notebook.parts()["text"]
    made = jax.eval_shape(text.net.init, jax.random.key(0), *text.inputs)
    assert size(made) == 66_362_880 and not notebook.frozen


def test_the_head_is_its_formula():
    rng = np.random.default_rng(0)
    head, x = ResidualHead(8, dropout=0.5), rng.normal(size=(3, 5)).astype(np.float32)
    v = jax.jit(head.init)(jax.random.key(0), x)
    p = v["params"]
    a = x @ p["project"]["kernel"] + p["project"]["bias"]
    gelu = a * 0.5 * (1 + np.vectorize(math.erf)(np.asarray(a) / math.sqrt(2)))
    y = gelu @ p["hidden"]["kernel"] + p["hidden"]["bias"] + a
    normal = (y - y.mean(1, keepdims=True)) / np.sqrt(np.var(y, 1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(head.apply(v, x), normal, atol=1e-6)
    dropped = head.apply(v, x, rng=jax.random.split(jax.random.key(1), 3))
    assert np.abs(dropped - normal).max() > 0.1


def test_soft_targets_are_their_formula():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 5, 4)).astype(np.float64)
    scale = math.log(2.0)
    logits, tau = 2 * text @ image.T, 0.5

    def softmax(z, axis):
        e = np.exp(z - z.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    targets = softmax((image @ image.T + text @ text.T) / 2 * tau, 1)
    rows = -(targets * np.log(softmax(logits, 1))).sum(1)
    columns = -(targets.T * np.log(softmax(logits.T, 1))).sum(1)
    loss, metrics = jax.jit(soft_targets)(image, text, scale)
    assert float(loss) == pytest.approx(((rows + columns) / 2).mean(), rel=1e-5)
    found = np.mean(logits.T.argmax(1) == np.arange(5))
    assert float(metrics["i2t_accuracy"]) == pytest.approx(found)
    slope = jax.grad(lambda text, stop: soft_targets(image, text, scale, stop)[0])
    learned, fixed = jax.jit(lambda text: [slope(text, stop) for stop in (False, True)])(text)
    assert np.abs(learned - fixed).max() > 1e-3


def test_only_the_heads_learn_and_dropout_stays_out_of_what_is_frozen():
    method = make_method(TINY)
    optim = {"name": "adamw", "lr": 1e-2}
    tx = make_optimizer(optim)
    names = ("image_features", "text_features", "embed_text")

    @jax.jit
    def run(batch):
        """One program, in which the encoders come once."""
        state, frozen = init_state(method, tx, Recipe(0, B))
        factors = lr_factors(optim, state["params"])
        step = make_step(method, tx, lambda k: jnp.float32(1e-2), factors, Recipe(0, B))
        v = Vars({**state["params"], **frozen}, state["extra"])
        x = Inputs.of(batch, example_keys(step_key(0, 0), B), train=True)
        quiet = {name: method.functions()[name](v, x) for name in names}
        rows, _ = method.encode(v, x)
        again, _ = method.encode(v, x.replace(batch={name: quiet[name] for name in names[:2]}))
        found = quiet, method.text_features(v, x), rows, again
        return state, frozen, step(state, frozen, batch), found

    state, frozen, (after, metrics), (quiet, trained, rows, again) = run(batch())
    assert set(frozen) == {"image", "text"}
    assert set(state["params"]) == {"image_head", "text_head"}
    for path, leaf in flatten(state["extra"]).items():
        np.testing.assert_array_equal(leaf, flatten(after["extra"])[path], err_msg=path)
    moved = flatten(
        jax.tree.map(lambda a, b: np.abs(a - b).max(), state["params"], after["params"])
    )
    assert len(moved) == 12 and min(moved.values()) > 0
    assert float(metrics["logit_scale"]) == pytest.approx(1 / 0.07)
    np.testing.assert_array_equal(trained, quiet["text_features"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), rows, again)
    assert np.abs(rows["text"] - quiet["embed_text"]).max() > 1e-3  # dropout


def test_captions_of_one_picture_are_no_negatives():
    method, rng = make_method(TINY), np.random.default_rng(0)
    rows = {s: rng.normal(size=(B, 16)).astype(np.float32) for s in ("image", "text")}
    rows = jax.tree.map(lambda r: r / np.linalg.norm(r, axis=1, keepdims=True), rows)
    group = np.array([0, 0, 1, 2, 3, 3], np.int32)
    together = make_method(TINY | {"targets": "group"})

    @jax.jit
    def losses(rows, group):
        def loss(method, **batch):
            x = Inputs.of(batch, index=jnp.arange(B))
            return method.objective(Vars({}, {}), rows, x)[0]

        scale = math.log(1 / 0.07)
        wanted, _ = softmax_contrastive(rows["image"], rows["text"], scale, duplicates=group)
        of_own = loss(together, group=jnp.arange(B, dtype=jnp.int32))
        return wanted, loss(method), loss(method, group=group), of_own

    wanted, alone, apart, own = losses(rows, group)
    assert float(apart) == pytest.approx(float(wanted)) and float(apart) < float(alone)
    assert not together.fields()["group"].optional
    assert float(own) == pytest.approx(float(alone), rel=1e-5)  # without duplicates it is CLIP's
    with pytest.raises(UserError, match=r"method\.targets: unknown 'group5'; did you mean 'group'"):
        make_method(TINY | {"targets": "group5"})
