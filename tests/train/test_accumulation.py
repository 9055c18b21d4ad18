"""Gradient accumulation is exact for every method, dropout and augmentation on."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SIZE, tiny_batch, tiny_config, tiny_method

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, partition
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.core.types import Aux
from vlp_jax.methods.base import Method, make_method
from vlp_jax.optim.optimizer import make_optimizer
from vlp_jax.train.gradient import Inputs, loss_and_gradient
from vlp_jax.train.state import Recipe, batch_norms, init_state

B = 16
RANDOM = dict(
    image={"dropout": 0.1, "patch_dropout": 0.5, "drop_path": 0.1},
    text={"dropout": 0.1, "num_layers": 1},
    augment={"crop_scale": (0.5, 1.0), "flip": 0.5, "brightness": 0.3},
)


def run(method, params, batch, accumulate, frozen=None):
    inputs = Inputs({}, batch, example_keys(step_key(0, 3), B), jnp.int32(3))
    fn = lambda p: loss_and_gradient(method, p, frozen or {}, inputs, accumulate)  # noqa: E731
    loss, aux, gradient = jax.jit(fn)(params)
    return float(loss), aux.metrics, flatten(gradient)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_coupled_losses_equal_the_full_batch_with_dropout_on(name):
    method = tiny_method(name, **RANDOM)
    batch = jax.tree.map(jnp.asarray, tiny_batch(B))
    params, _ = jax.jit(method.init)(jax.random.key(0), batch)
    loss, metrics, gradient = run(method, params, batch, 1)
    loss_k, metrics_k, gradient_k = run(method, params, batch, 4)
    assert loss_k == pytest.approx(loss, rel=1e-5)
    assert metrics_k.keys() == metrics.keys()
    scale = max(float(jnp.abs(g).max()) for g in gradient.values())
    for path, exact in gradient.items():
        np.testing.assert_allclose(gradient_k[path], exact, atol=1e-5 * scale, err_msg=path)
    quiet = jax.jit(lambda p: method.loss(p, {}, batch, rng=None, step=jnp.int32(3))[0])(params)
    assert abs(float(quiet) - loss) > 1e-4, "dropout changed nothing, so the test proves nothing"


def test_memory_follows_the_micro_batch_not_their_number():
    """Eight examples at a time: four times as many pieces need four times the embeddings and keys,
    and no second copy of the pictures.
    """
    method = tiny_method()
    params, _ = jax.eval_shape(method.init, jax.random.key(0), tiny_batch(2))

    def temporaries(count):
        batch = jax.tree.map(jnp.asarray, tiny_batch(8 * count))
        keys = example_keys(step_key(0, 3), 8 * count)

        def fn(params, batch):
            inputs = Inputs({}, batch, keys, jnp.int32(3))
            return loss_and_gradient(method, params, {}, inputs, count)[2]

        compiled = jax.jit(fn).lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporaries(4), temporaries(16)
    embeddings = 2 * 8 * 12 * 32 * 4  # 96 more pairs of 32 numbers
    assert many - few <= 4 * embeddings, "the loss and its gradient hold a few such arrays"


@pytest.mark.parametrize(
    "name, head",
    [("classify", dict(head_norm="batch")), ("simclr", dict(head={"num_layers": 1}))],
    ids=["averaged", "cached"],
)
def test_batch_statistics_move_once_per_micro_batch_in_turn(name, head):
    """Running means of rows 0, 2, 4, ... first, then of 1, 3, 5, ...: 0.9 old + 0.1 new each."""
    method = tiny_method(name, image={"num_layers": 1}, **head)
    batch = jax.tree.map(jnp.asarray, tiny_batch(B))
    params, extra = jax.jit(method.init)(jax.random.key(0), batch)
    inputs = Inputs(extra, batch, example_keys(step_key(0, 3), B), jnp.int32(3))
    run = lambda p: loss_and_gradient(method, p, {}, inputs, 2)[1].extra  # noqa: E731
    found = flatten(jax.jit(run)(params)["batch_stats"])
    rows = np.asarray(jax.jit(method.eval_fns()["features"])(params, extra, batch))
    if name == "simclr":  # without augmentation both views are the picture
        kernel = params["head"]["layer1"]["kernel"]
        rows = np.repeat(rows @ kernel, 2, axis=0)
        rows = rows.reshape(B, 2, -1)
    halves = [rows[k::2].reshape(-1, rows.shape[-1]) for k in (0, 1)]
    mean = 0.9 * 0.1 * halves[0].mean(0) + 0.1 * halves[1].mean(0)
    var = 0.81 + 0.09 * halves[0].var(0) + 0.1 * halves[1].var(0)
    prefix = next(path for path in found if path.endswith("/mean")).removesuffix("mean")
    np.testing.assert_allclose(found[prefix + "mean"], mean, atol=1e-5)
    np.testing.assert_allclose(found[prefix + "var"], var, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Regression(Method):
    """An uncoupled toy: noisy squared error; counts its calls in extra."""

    batch_coupled: ClassVar[bool] = False

    def encode(self, params, extra, batch, *, rng, step):
        noise = jax.vmap(lambda key: jax.random.normal(key, ()))(rng)
        out = batch["x"] @ params["w"] + 0.1 * noise
        return out, Aux({"noise": noise.mean()}, {"calls": extra["calls"] + 1})

    def objective(self, params, representations, batch):
        return jnp.square(representations - batch["y"]).mean(), {}


def test_uncoupled_losses_average_and_thread_their_extra_state():
    rng = np.random.default_rng(0)
    batch = {"x": jnp.float32(rng.normal(size=(B, 5))), "y": jnp.float32(rng.normal(size=B))}
    params, keys = {"w": jnp.ones(5)}, example_keys(step_key(0, 0), B)
    inputs = Inputs({"calls": jnp.int32(0)}, batch, keys, jnp.int32(0))
    full = loss_and_gradient(Regression(), params, {}, inputs, 1)
    parts = loss_and_gradient(Regression(), params, {}, inputs, 4)
    assert float(parts[0]) == pytest.approx(float(full[0]), rel=1e-6)
    np.testing.assert_allclose(parts[2]["w"], full[2]["w"], rtol=1e-5)
    assert int(full[1].extra["calls"]) == 1 and int(parts[1].extra["calls"]) == 4
    assert float(parts[1].metrics["noise"]) == pytest.approx(
        float(full[1].metrics["noise"]), abs=1e-6
    )


RESNET = dict(name="resnet", image_size=SIZE, layers=(1, 1, 1, 1), width=8, embed_dim=8)
HEAD = {"head": dict(num_layers=2, embed_dim=8)}
LAYERS = {"head/layer1_bn", "head/layer2_bn"}


def shapes(method, **recipe):
    tx, recipe = make_optimizer({}), Recipe(0, B, **recipe)
    return jax.eval_shape(lambda: init_state(method, tx, recipe))


@pytest.mark.parametrize(
    "name, fields, freeze, norms",
    [
        ("simclr", HEAD, (), LAYERS),
        ("simclr", HEAD, ("image/.*",), LAYERS),
        ("simclr", HEAD, ("head/layer2_bn/.*",), {"head/layer1_bn"}),
        ("simclr", HEAD, ("head/layer._bn/.*",), set()),
        ("simclr", HEAD, ("head/layer1_bn/bias",), LAYERS),
        ("classify", {"head_norm": "batch", "linear": True}, (), {"head/norm"}),
        ("classify", {"head_norm": "batch"}, ("head/.*",), set()),
        ("classify", {"image": RESNET, "linear": True}, (), set()),
        ("clip", {"image": RESNET}, (r"image/(?!head).*",), set()),
        ("clip", {}, (), set()),
    ],
)
def test_batch_norm_that_learns_does_not_accumulate(name, fields, freeze, norms):
    """Neither a frozen one nor one that is not there is in the way."""
    image = {"image": fields["image"]} if "image" in fields else {}
    method = make_method({**tiny_config(name, **{**fields, "image": {}}), **image})
    state = shapes(method, freeze=freeze)
    assert set(batch_norms(state["params"], state["frozen"], state["extra"])) == norms
    shapes(method, freeze=freeze, accumulate=2, accumulate_batchnorm="micro")
    if not norms:
        shapes(method, freeze=freeze, accumulate=2)
        return
    with pytest.raises(UserError) as refusal:
        shapes(method, freeze=freeze, accumulate=2)
    first, way = sorted(norms)[0], "accumulate_batchnorm='micro' accepts that"
    assert f"accumulate=2: BatchNorm ({len(norms)}, first {first})" in str(refusal.value)
    assert str(refusal.value).endswith(way) and "\n" not in str(refusal.value)


def test_every_norm_of_a_trained_resnet_is_found():
    method = make_method({**tiny_config("clip"), "image": RESNET})
    state = shapes(method)
    found = batch_norms(state["params"], state["frozen"], state["extra"])
    assert len(found) == 19 and "image/stage1_block0/downsample/bn" in found
    frozen, trained = partition(state["params"], (".*/bn/.*",))
    assert batch_norms(trained, frozen, state["extra"]) == []
    stats = {"batch_stats": {"a": {"bn": {"mean": 0}}}}
    assert batch_norms({"a": {"bn2": 0}}, {"a": {"bn": {"scale": 0}}}, stats) == []
    with pytest.raises(UserError, match="accumulate_batchnorm: unknown 'mirco'; did you mean 'mi"):
        shapes(method, accumulate_batchnorm="mirco")
