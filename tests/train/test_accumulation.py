"""Gradient accumulation is exact for every method, dropout and augmentation on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from tiny import SIZE, tiny_batch, tiny_config, tiny_method

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, partition
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.losses.mining import draw_negatives
from vlp_jax.methods.base import Method, make_method
from vlp_jax.optim.optimizer import make_optimizer
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, batch_norms, init_state

B = 16
RANDOM = dict(
    image={"dropout": 0.1, "patch_dropout": 0.5, "drop_path": 0.1},
    text={"dropout": 0.1, "num_layers": 1},
    augment={"crop_scale": (0.5, 1.0), "flip": 0.5, "brightness": 0.3},
)


def run(method, params, batch, accumulate, frozen=None):
    x = Inputs.of(batch, example_keys(step_key(0, 3), B), step=3, train=True)
    fn = lambda p: loss_and_gradient(method, p, frozen or {}, {}, x, accumulate)  # noqa: E731
    loss, aux, gradient = jax.jit(fn)(params)
    return float(loss), aux.metrics, flatten(gradient)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_coupled_losses_equal_the_full_batch_with_dropout_on(name):
    method = tiny_method(name, **RANDOM)
    batch = jax.tree.map(jnp.asarray, tiny_batch(B))
    params, _ = jax.jit(method.init)(jax.random.key(0))
    loss, metrics, gradient = run(method, params, batch, 1)
    loss_k, metrics_k, gradient_k = run(method, params, batch, 4)
    assert loss_k == pytest.approx(loss, rel=1e-5)
    assert metrics_k.keys() == metrics.keys()
    scale = max(float(jnp.abs(g).max()) for g in gradient.values())
    for path, exact in gradient.items():
        np.testing.assert_allclose(gradient_k[path], exact, atol=1e-5 * scale, err_msg=path)
    quiet = jax.jit(lambda p: method.loss(Vars(p, {}), Inputs.of(batch, step=3))[0])(params)
    assert abs(float(quiet) - loss) > 1e-4, "dropout changed nothing, so the test proves nothing"


def test_memory_follows_the_micro_batch_not_their_number():
    """Eight examples at a time: four times as many pieces need four times the embeddings and keys,
    and no second copy of the pictures.
    """
    method = tiny_method()
    params, _ = jax.eval_shape(method.init, jax.random.key(0))

    def temporaries(count):
        batch = jax.tree.map(jnp.asarray, tiny_batch(8 * count))
        keys = example_keys(step_key(0, 3), 8 * count)

        def fn(params, batch):
            x = Inputs.of(batch, keys, step=3, train=True)
            return loss_and_gradient(method, params, {}, {}, x, count)[2]

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
def test_batch_statistics_are_the_mean_of_what_each_micro_batch_makes_of_them(name, head):
    """Running means of rows 0, 2, 4, ... and of 1, 3, 5, ...: both from the step's start, 0.9 old +
    0.1 new each.
    """
    method = tiny_method(name, image={"num_layers": 1}, **head)
    batch = jax.tree.map(jnp.asarray, tiny_batch(B))
    params, extra = jax.jit(method.fresh)(jax.random.key(0))
    x = Inputs.of(batch, example_keys(step_key(0, 3), B), step=3, train=True)
    run = lambda p: loss_and_gradient(method, p, {}, extra, x, 2)[1].extra  # noqa: E731
    found = flatten(jax.jit(run)(params)["batch_stats"])
    features = jax.jit(method.functions()["features"])
    rows = np.asarray(features(Vars(params, extra), Inputs.of(batch)))
    if name == "simclr":  # without augmentation both views are the picture
        kernel = params["head"]["layer1"]["kernel"]
        rows = np.repeat(rows @ kernel, 2, axis=0)
        rows = rows.reshape(B, 2, -1)
    halves = [rows[k::2].reshape(-1, rows.shape[-1]) for k in (0, 1)]
    mean = 0.1 * (halves[0].mean(0) + halves[1].mean(0)) / 2
    var = 0.9 + 0.1 * (halves[0].var(0) + halves[1].var(0)) / 2
    prefix = next(path for path in found if path.endswith("/mean")).removesuffix("mean")
    np.testing.assert_allclose(found[prefix + "mean"], mean, atol=1e-5)
    np.testing.assert_allclose(found[prefix + "var"], var, atol=1e-5)


def test_unequal_numbers_of_tokens_bias_nothing():
    method, batch = toys.Tokens(), toys.tokens_batch()
    counts = np.asarray(batch["counts"]).sum(1)
    halves = [counts[k::2].sum() for k in (0, 1)]
    assert halves[1] > 1.2 * halves[0], "equal halves would prove nothing"
    whole = toys.gradient(method, batch, 1)
    for count in (2, 4, 8):
        toys.check_equal(toys.gradient(method, batch, count), whole)
    w, bias = (method.fresh(jax.random.key(0)).params[name] for name in ("w", "bias"))
    drawn = toys.noise(toys.inputs(method, batch))
    found = batch["x"] @ w + bias + (0.1 * drawn + np.arange(B) / B)[:, None]
    miss = np.asarray(found - batch["y"])[np.asarray(batch["counts"])]
    assert whole[0] == pytest.approx((miss**2).mean(), rel=1e-5)
    assert float(whole[1]["miss"]) == pytest.approx(np.abs(miss).mean(), rel=1e-5)
    assert float(whole[1]["noise"]) == pytest.approx(float(drawn.mean()), abs=1e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_a_coupled_loss_may_use_step_and_state_and_change_it(count):
    method, batch = toys.Queue(), toys.queue_batch()
    whole = toys.gradient(method, batch, 1)
    toys.check_equal(toys.gradient(method, batch, count), whole)
    assert whole[2].keys() == {"queue", "groups"}
    old = method.fresh(jax.random.key(0)).extra["queue"]
    np.testing.assert_array_equal(whole[2]["queue"][4:], old[:-4])
    assert np.abs(whole[2]["queue"][:4] - old[:4]).min() > 0
    later = toys.gradient(method, batch, count, step=5)
    assert abs(later[0] - whole[0]) > 1e-2, "the step must show"


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_second_stage_may_draw_its_partners_from_the_whole_batch(count):
    method, batch = toys.Partners(), toys.partners_batch()
    whole = toys.gradient(method, batch, 1)
    toys.check_equal(toys.gradient(method, batch, count), whole)
    assert float(whole[1]["apart"]) == 1, "partners are of other groups"
    assert float(jnp.abs(whole[3]["judge"]).max()) > 0.1
    assert float(whole[2]["seen"]) != 0.5


def test_a_second_stage_pulls_a_gradient_back_to_the_rows_of_others():
    """Against the plain chain on dense arrays, the partners given."""
    method, batch = toys.Partners(), toys.partners_batch()
    v, x = method.fresh(jax.random.key(0)), toys.inputs(method, batch)
    ids = batch["group"]
    z = method.encode(v, x)[0]["z"]
    keys = x.fold("partner").rng
    pick, _ = draw_negatives(z, 2 * z, 0.7, keys, ids, ids)

    def loss(w):
        z = jnp.tanh(batch["x"] * w + 0.1 * toys.noise(x)[:, None])
        judged = (z * z[pick]) @ v.params["judge"] + 0.1 * toys.noise(x.fold("match"))
        return jnp.square(judged - z.sum(1)).mean() + judged.max()

    wanted, slope = jax.value_and_grad(loss)(v.params["w"])
    for count in (1, 4):
        found = toys.gradient(method, batch, count)
        assert found[0] == pytest.approx(float(wanted), rel=1e-6)
        np.testing.assert_allclose(found[3]["w"], slope, rtol=1e-5)


def test_a_second_stage_needs_a_coupled_method():
    with pytest.raises(TypeError, match="Alone: match sees the whole batch, so coupled"):

        class Alone(Method):
            match = toys.Partners.match


def test_whole_numbers_pass_gradient_caching():
    """Ids int32[B] and a mask bool[B] of the rows reach the objective in the batch's order."""
    method, batch = toys.Queue(), toys.queue_batch()
    for name in ("group", "learn"):
        turned = {**batch, name: jnp.roll(batch[name], 1)}
        one, four = (toys.gradient(method, turned, count) for count in (1, 4))
        toys.check_equal(four, one)
        other = toys.gradient(method, batch, 4)
        assert abs(four[0] - other[0]) > 1e-3, f"{name} must show"


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    "method", [toys.Memory(), toys.CoupledMemory("int32")], ids=["shared", "cached"]
)
def test_state_of_micro_batches_is_averaged_then_objective_then_follow(method, count):
    batch = {"x": toys.draw(B, toys.D)}
    before, step = toys.stepper(method, count)
    state, _ = step(before, batch)
    mean = 0.5 + float(batch["x"].mean())
    wanted = {"seen/mean": mean, "seen/times": 4, "last": 2, "end": 12, "kept": 7}
    found = {path: float(leaf) for path, leaf in flatten(state["extra"]).items()}
    assert found == pytest.approx(wanted, rel=1e-6)
    assert state["extra"]["seen"]["times"].dtype == method.counter
    skipped, _ = step(state, {"x": batch["x"].at[3, 1].set(jnp.nan)})
    assert int(skipped["skipped"]) == 1
    jax.tree.map(np.testing.assert_array_equal, skipped["extra"], state["extra"])
    last, _ = step(skipped, batch)
    found = {path: float(leaf) for path, leaf in flatten(last["extra"]).items()}
    wanted |= {"seen/mean": mean + float(batch["x"].mean()), "seen/times": 5, "end": 32}
    assert found == pytest.approx(wanted, rel=1e-6)


def test_whole_numbers_that_micro_batches_change_are_refused():
    method, batch = toys.Memory("int32"), {"x": toys.draw(B, toys.D)}
    assert int(toys.gradient(method, batch, 1)[2]["seen"]["times"]) == 4
    with pytest.raises(TypeError, match="extra state seen/times: int32 that micro-batches change"):
        toys.gradient(method, batch, 2)


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
    state, frozen = shapes(method, freeze=freeze)
    assert set(batch_norms(state["params"], frozen, state["extra"])) == norms
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
    state, _ = shapes(method)
    found = batch_norms(state["params"], {}, state["extra"])
    assert len(found) == 19 and "image/stage1_block0/downsample/bn" in found
    frozen, trained = partition(state["params"], (".*/bn/.*",))
    assert batch_norms(trained, frozen, state["extra"]) == []
    stats = {"batch_stats": {"a": {"bn": {"mean": 0}}}}
    assert batch_norms({"a": {"bn2": 0}}, {"a": {"bn": {"scale": 0}}}, stats) == []
    with pytest.raises(UserError, match="accumulate_batchnorm: unknown 'mirco'; did you mean 'mi"):
        shapes(method, accumulate_batchnorm="mirco")
