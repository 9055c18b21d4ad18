"""SimCLR: the loss against a double loop, its level at the start, one pass over both views, exact
over devices and micro-batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import make_method
from vlp_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from vlp_jax.train.gradient import loss_and_gradient

B = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (B, 16, 16, 3), np.uint8)
BATCH = {"image": jnp.asarray(IMAGES)}
KEYS = example_keys(step_key(0, 3), B)
TRAIN, QUIET, NONE = Inputs.of(BATCH, KEYS, train=True), Inputs.of(BATCH), Vars({}, {})
AUGMENT = dict(crop_scale=(0.3, 1.0), flip=0.5, grey=0.2)
RESNET = dict(name="resnet_v1", image_size=16, depth=18, width_multiplier=0.125, stem="cifar")
VIT = dict(name="vit", image_size=16, patch_size=8, width=32, num_layers=1, head_width=32)


def build(image=RESNET, **changes):
    return make_method(dict(name="simclr", image=image, augment=AUGMENT, temperature=0.5) | changes)


@pytest.fixture(scope="module")
def made():
    method = build()
    return method, *jax.jit(method.fresh)(jax.random.key(0))


@pytest.fixture(scope="module")
def stepped(made):
    """(loss, Aux) of one batch, and its 2B views."""
    method, params, extra = made
    run = lambda: method.loss(Vars(params, extra), TRAIN)  # noqa: E731
    return *jax.jit(run)(), jax.jit(method.views)(TRAIN)


def written_out(first, second, temperature):
    """Equation 1, view by view: (mean loss, accuracy, mean entropy)."""
    rows = np.concatenate([first, second]).astype(np.float64)
    losses, hits, entropies = [], [], []
    for i, row in enumerate(rows):
        partner = (i + B) % (2 * B)
        others = [k for k in range(2 * B) if k != i]
        logits = np.array([row @ rows[k] / temperature for k in others])
        p = np.exp(logits) / np.exp(logits).sum()
        losses.append(-np.log(p[others.index(partner)]))
        hits.append(others[p.argmax()] == partner)
        entropies.append(-(p * np.log(p)).sum())
    return np.mean(losses), np.mean(hits), np.mean(entropies)


@pytest.mark.parametrize("scale, factor", [("sum", 2), ("mean", 1)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_metrics_are_equation_one(scale, factor, temperature):
    method = build(loss_scale=scale, temperature=temperature)
    rows = np.random.default_rng(1).normal(size=(2, B, 8)).astype(np.float32)
    rows[1] += rows[0]
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    views = {"first": rows[0], "second": rows[1]}
    loss, (metrics, _) = jax.jit(lambda rows: method.objective(NONE, rows, TRAIN))(views)
    wanted, accuracy, entropy = written_out(*rows, temperature)
    assert float(loss) == pytest.approx(factor * wanted, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy)
    assert float(metrics["entropy"]) == pytest.approx(entropy, rel=1e-4)


def test_loss_starts_at_chance(stepped):
    loss, aux, _ = stepped
    assert float(loss) == pytest.approx(2 * np.log(2 * B - 1), rel=0.1)
    assert aux.metrics["entropy"] < np.log(2 * B - 1)


def test_both_views_share_one_pass_and_one_set_of_statistics(made, stepped):
    """The statistics after a step are those of 2B pictures in one call."""
    method, params, extra = made
    _, aux, views = stepped
    assert views.shape == (2 * B, 16, 16, 3) and views.min() >= 0 and views.max() <= 1
    assert np.abs(np.asarray(views[::2] - views[1::2])).max(axis=(1, 2, 3)).min() > 1e-2
    v, x = Vars(params, extra), Inputs.of({"image": views}, train=True)
    _, out, moved = jax.jit(lambda: method.run_image(v, x, views))()
    run_head = lambda h: method.apply("head", v, x, h, moves=True)  # noqa: E731
    wanted = lay(jax.jit(run_head)(out["pooled"])[1], moved)
    assert flatten(aux.extra).keys() == flatten(extra).keys() == flatten(wanted).keys()
    for path, leaf in flatten(wanted).items():
        found = flatten(aux.extra)[path]
        np.testing.assert_allclose(found, leaf, rtol=1e-4, atol=1e-5, err_msg=path)
        assert (leaf != flatten(extra)[path]).any(), path


def test_one_branch_may_stay_as_it_came():
    views = jax.jit(build(augment_branches=1).views)(TRAIN)
    np.testing.assert_allclose(views[1::2], IMAGES / np.float32(255), atol=1e-6)
    assert np.abs(np.asarray(views[::2]) - IMAGES / 255).max() > 0.1


def test_eight_devices_are_one(made):
    """Loss, statistics and every gradient, with BatchNorm and negatives over the whole batch."""
    method, params, extra = made

    def run(devices):
        mesh = make_mesh({"data": devices}, jax.devices()[:devices])
        batch, keys = jax.device_put((BATCH, KEYS), batch_sharding(mesh))
        state = jax.device_put((params, extra), replicated(mesh))

        def fn(params, extra, batch, keys):
            x = Inputs.of(batch, keys, train=True)
            call = lambda p: method.loss(Vars(p, extra), x)  # noqa: E731
            return jax.value_and_grad(call, has_aux=True)(params)

        with jax.set_mesh(mesh):
            (loss, aux), gradient = jax.jit(fn)(*state, batch, keys)
        return float(loss), flatten(jax.device_get((gradient, aux.extra)))

    (one, one_leaves), (eight, eight_leaves) = run(1), run(8)
    assert eight == pytest.approx(one, rel=1e-4)
    scale = max(np.abs(x).max() for x in one_leaves.values())
    for path, leaf in one_leaves.items():
        np.testing.assert_allclose(eight_leaves[path], leaf, atol=1e-4 * scale, err_msg=path)


def test_micro_batches_are_exact_without_batch_norm():
    method = build({**VIT, "dropout": 0.1}, head=dict(num_layers=2, batch_norm=False))
    params, extra = jax.jit(method.fresh)(jax.random.key(0))
    assert extra == {}

    def run(accumulate):
        fn = lambda p: loss_and_gradient(method, p, {}, extra, TRAIN, accumulate)  # noqa: E731
        loss, _, gradient = jax.jit(fn)(params)
        return float(loss), flatten(gradient)

    (one, exact), (four, found) = run(1), run(4)
    assert four == pytest.approx(one, rel=1e-5)
    for path, leaf in exact.items():
        assert np.abs(leaf).max() > 0, path
        np.testing.assert_allclose(found[path], leaf, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    "head, layers, stages",
    [
        (dict(mode="none"), [], [64]),
        (dict(mode="linear"), ["layer1"], [64, 128]),
        (dict(num_layers=2, batch_norm=False, embed_dim=32), ["layer1", "layer2"], [64, 64, 32]),
        (dict(), ["layer1", "layer2", "layer3"], [64, 64, 64, 128]),
    ],
)
def test_heads(head, layers, stages):
    method = build(head=head)
    params, extra = jax.eval_shape(method.fresh, jax.random.key(0))
    leaves = flatten(params.get("head", {}))
    assert sorted({path.split("/")[0] for path in leaves if "_bn" not in path}) == layers
    if layers:
        last = layers[-1]
        assert f"{last}/bias" not in leaves and f"{last}_bn/bias" not in leaves
        normed = head.get("batch_norm", True)
        assert (f"{last}_bn/scale" in leaves) == normed == ("head" in extra["batch_stats"])
        if len(layers) > 1:
            assert ("layer1_bn/bias" in leaves) == normed == ("layer1/bias" not in leaves)
    run_head = lambda v, h: method.apply("head", v, Inputs.of({"image": h}), h)  # noqa: E731
    found = jax.eval_shape(run_head, Vars(params, extra), jnp.zeros((3, 64)))
    assert [x.shape[1] for x in found] == stages


def test_features_are_any_stage_of_the_head():
    method = build(VIT)
    v = jax.jit(method.fresh)(jax.random.key(0))

    @jax.jit
    def run():
        ready = method.prepare(BATCH["image"], None)
        pooled = method.run_image(v, QUIET, ready)[1]["pooled"]
        fns = [build(VIT, ft_proj_selector=number).functions() for number in (0, 1, -1)]
        rows = [fn["features"](v, QUIET) for fn in fns]
        last = fns[0]["projection"](v, QUIET)
        pair, _ = method.encode(v, QUIET)
        return method.apply("head", v, QUIET, pooled), rows, last, pair

    stages, rows, last, pair = run()
    wanted = last / np.linalg.norm(last, axis=1, keepdims=True)
    for name in ("first", "second"):  # without augmentation both views are the picture
        np.testing.assert_allclose(pair[name], wanted, atol=1e-4)
    for number, found in zip((0, 1, -1), rows, strict=True):
        np.testing.assert_allclose(found, stages[number], atol=1e-4)
    assert (np.asarray(stages[1]) >= 0).all(), "after the ReLU"
    np.testing.assert_allclose(last, stages[-1], atol=1e-4)


def test_views_are_cut_from_a_canvas_larger_than_the_tower():
    method = build(image={**VIT, "image_size": 8}, canvas=16, augment_branches=1)
    rows = jnp.arange(16, dtype=jnp.uint8)[:, None, None]  # every pixel holds its row
    batch = {"image": jnp.broadcast_to(rows, IMAGES.shape), "image_aspect": jnp.full(B, 0.5)}
    same = lambda have, want: have.shape[1:] == want.shape[1:] and have.dtype == want.dtype  # noqa: E731
    assert jax.tree.all(jax.tree.map(same, method.batch_spec(B), batch))
    assert method.fields()["image"].whole
    views = np.asarray(jax.jit(method.views)(TRAIN.replace(batch=batch)))
    assert views.shape == (2 * B, 8, 8, 3)
    found = views[1::2] * 255  # half as wide as high: all of the width, half of the height
    np.testing.assert_allclose(found, np.broadcast_to(rows[4:12], found.shape), atol=0.01)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"canvas": 15}, "method.canvas=15: must be 0 or at least the tower's 16"),
        ({"temperature": 0.0}, "method.temperature=0.0: must be above 0"),
        ({"loss_scale": "men"}, "method.loss_scale: unknown 'men'; did you mean 'mean'"),
        ({"augment_branches": 3}, "method.augment_branches=3: must be 1 or 2"),
        ({"head": {"mode": "lin"}}, "head.mode: unknown 'lin'; did you mean 'linear'"),
        ({"head": {"num_layers": 0}}, "head.num_layers=0 is out of range; it must be at least 1"),
        ({"head": {"mod": "none"}}, "method.head.mod: unknown key; did you mean 'mode'"),
        ({"ft_proj_selector": 4}, "method.ft_proj_selector=4: must be -1 .last. or 0 to 3"),
    ],
)
def test_bad_values_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        method = build(**changes)
        v = jax.eval_shape(method.fresh, jax.random.key(0))
        jax.eval_shape(method.functions()["features"], v, QUIET)


def test_a_batch_of_one_has_no_negatives():
    one = {"first": jnp.ones((1, 4)), "second": jnp.ones((1, 4))}
    with pytest.raises(UserError, match="batch_size=1: a contrastive loss needs at least 2"):
        build().objective(NONE, one, QUIET)
