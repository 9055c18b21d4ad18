"""Classification: loss by hand, mixing under accumulation, the frozen probe, the BatchNorm head."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.augment import mixing
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import flatten, merge, partition
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import make_method
from vlp_jax.methods.classify import Classify
from vlp_jax.methods.kits import varied
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

B, C, S = 16, 5, 16
RANDOM = dict(
    augment={"crop_scale": (0.5, 1.0), "flip": 0.5},
    rand_augment={"magnitude": 9.0},
    mixing={"mixup": 0.8, "cutmix": 1.0, "erase": 0.25},
    label_smoothing=0.1,
)


def tower(**changes):
    sizes = dict(image_size=S, patch_size=8, width=32, num_layers=3, head_width=16, pool="gap")
    return {"name": "vit", "pre_norm": False, **sizes, **changes}


def build(image=None, **fields):
    return make_method(dict(name="classify", num_classes=C, image=tower(**(image or {})), **fields))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (B, S, S, 3), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.asarray(rng.integers(0, C, B, np.int32))}


def made(method):
    return jax.jit(method.fresh)(jax.random.key(0))


def training(seed=0):
    """A batch with keys, as in training."""
    return Inputs.of(batch(), example_keys(jax.random.key(seed), B), train=True)


def run(method, params, extra, accumulate):
    x = Inputs.of(batch(), example_keys(step_key(0, 3), B), step=3, train=True)
    fn = lambda p: loss_and_gradient(method, p, {}, extra, x, accumulate)  # noqa: E731
    return jax.jit(fn)(params)


def test_the_loss_is_smoothed_cross_entropy():
    method = build(label_smoothing=0.1)
    v, x = made(method), training()
    encode = jax.jit(lambda x: method.encode(v, x)[0])
    rows = encode(x)
    loss, aux = method.objective(v, rows, x)
    logits, label = np.asarray(rows["logits"], np.float64), np.asarray(batch()["label"])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    by_hand = -(0.9 * log_p[np.arange(B), label] + 0.1 * log_p.mean(1)).mean()
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)
    assert float(aux.metrics["top1"]) == pytest.approx(np.mean(logits.argmax(1) == label))
    quiet = encode(Inputs.of(batch()))
    assert set(np.unique(quiet["target"])) == {0.0, 1.0}  # evaluation is not smoothed


def test_two_micro_batches_are_the_batch_with_everything_random_on():
    method = build(dict(dropout=0.1, drop_path=0.2), **RANDOM)
    params, extra = made(method)
    one, two = run(method, params, extra, 1), run(method, params, extra, 2)
    assert float(two[0]) == pytest.approx(float(one[0]), rel=1e-5)
    assert float(two[1].metrics["top1"]) == pytest.approx(float(one[1].metrics["top1"]))
    exact, found = flatten(one[2]), flatten(two[2])
    scale = max(float(jnp.abs(g).max()) for g in exact.values())
    for path, gradient in exact.items():
        assert np.abs(gradient).max() > 0, f"no gradient reaches {path}"
        np.testing.assert_allclose(found[path], gradient, atol=2e-5 * scale, err_msg=path)
    quiet = jax.jit(lambda p: method.loss(Vars(p, extra), Inputs.of(batch()))[0])(params)
    assert abs(float(quiet) - float(one[0])) > 1e-3, "nothing random was on"


def test_what_rand_augment_uncovers_is_the_mean_colour(monkeypatch):
    seen = []
    keep = lambda images, how, rng, fill: seen.append(fill) or images  # noqa: E731
    monkeypatch.setattr(varied, "rand_augment", keep)
    build(image_mean=(0.2, 0.4, 0.6)).prepare(batch()["image"], None)
    assert seen == [pytest.approx((51, 102, 153))]


def test_pictures_are_erased_before_they_are_mixed(monkeypatch):
    """Noise in a mixed picture fills its own erased box and its partner's."""
    method = build(mixing={"mixup": 0.8, "erase": 1.0})
    monkeypatch.setattr(Classify, "classify", lambda self, v, x, images: (images, {}))
    black, x = jnp.zeros_like(batch()["image"]), training()
    seen, _ = method.encode(Vars({}, {}), x.replace(batch={**x.batch, "image": black}))
    ready = method.prepare(black, None)
    box = (mixing.erase(ready, 1.0, x.keys) != ready).all(-1)
    noisy = (jnp.abs(seen["logits"] - ready) > 1e-4).any(-1)
    np.testing.assert_array_equal(noisy, box | jnp.roll(box, -B // 2, 0))


def train(method, steps=3, **optim):
    """(state before, state after, frozen weights) of a few steps."""
    config = {"name": "adamw", "lr": 1e-2, "weight_decay": 0.1, **optim}
    recipe, tx = Recipe(seed=0, batch_size=B), make_optimizer(config)
    first, frozen = jax.jit(lambda: init_state(method, tx, recipe))()
    factors = lr_factors(config, first["params"])
    step = jax.jit(make_step(method, tx, lambda k: jnp.float32(1e-2), factors, recipe))
    state = first
    for seed in range(steps):
        state, metrics = step(state, frozen, batch(seed))
    assert np.isfinite(metrics["loss"])
    return first, state, frozen


def test_a_linear_probe_leaves_the_trunk_bitwise_and_runs_it_as_in_evaluation():
    method = build(dict(dropout=0.5), linear=True, head_norm="batch")
    first, last, frozen = train(method)
    assert set(frozen) == {"image"} and set(first["params"]) == {"head"}
    assert (
        last["params"]["head"]["out"]["kernel"] != first["params"]["head"]["out"]["kernel"]
    ).any()
    v = Vars(merge(last["params"], frozen), last["extra"])
    images = method.prepare(batch()["image"], None)
    noisy, again = (method.classify(v, training(seed), images)[0] for seed in (1, 2))
    np.testing.assert_array_equal(noisy, again)  # dropout is off


def test_a_frozen_resnet_keeps_its_statistics():
    image = dict(name="resnet", image_size=32, layers=(1, 1, 1, 1), width=8)
    method = make_method(dict(name="classify", num_classes=C, image=image, linear=True))
    images = {"image": jnp.ones((4, 32, 32, 3), jnp.uint8), "label": jnp.zeros(4, jnp.int32)}
    params, extra = made(method)
    x = Inputs.of(images, example_keys(jax.random.key(0), 4), train=True)
    after = jax.jit(lambda e: lay(method.loss(Vars(params, e), x)[1].extra, e))(extra)
    for path, leaf in flatten(extra).items():
        np.testing.assert_array_equal(flatten(after)[path], leaf, err_msg=path)


def test_the_batchnorm_head_keeps_running_statistics_and_has_no_scale():
    method = build(linear=True, head_norm="batch")
    params, extra = made(method)
    assert set(flatten(params["head"])) == {"out/kernel", "out/bias"}
    v, functions = Vars(params, extra), method.functions()
    pooled = jax.jit(functions["features"])(v, Inputs.of(batch()))
    _, aux = method.encode(v, training())
    found = aux.extra["batch_stats"]["head"]["norm"]
    mean, var = np.asarray(pooled).mean(0), np.asarray(pooled).var(0)
    np.testing.assert_allclose(found["mean"], 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * var, atol=1e-5)
    extra = {"batch_stats": {"head": {"norm": {"mean": mean, "var": var}}}}
    logits = functions["classify"](Vars(params, extra), Inputs.of(batch()))
    normal = (np.asarray(pooled) - mean) / np.sqrt(var + 1e-6)
    head = params["head"]["out"]
    np.testing.assert_allclose(logits, normal @ head["kernel"] + head["bias"], atol=1e-4)


def test_a_projection_head_s_first_layers_keep_names_and_numbers():
    """SimCLRv2 fine-tunes from the first layer of the head: same paths, same features."""
    fields = dict(projection={"num_layers": 3, "embed_dim": 8}, ft_proj_selector=2)
    simclr = make_method(dict(name="simclr", image=tower(), head=fields["projection"]))
    simclr = dataclasses.replace(simclr, image_mean=build().image_mean, image_std=build().image_std)
    params, extra = made(simclr)
    method = build(**fields)
    own, statistics = made(method)
    layers = {name for name in own["head"] if name != "out"}
    assert layers == {"layer1", "layer1_bn", "layer2", "layer2_bn"}
    taken = {name: params["head"][name] for name in layers}
    own = {"image": params["image"], "head": {**taken, "out": own["head"]["out"]}}
    features = dataclasses.replace(simclr, ft_proj_selector=2).functions()["features"]
    rows = np.asarray(jax.jit(features)(Vars(params, extra), Inputs.of(batch())))
    classify = method.functions()["classify"]
    logits = jax.jit(classify)(Vars(own, statistics), Inputs.of(batch()))
    out = own["head"]["out"]
    np.testing.assert_allclose(logits, rows @ out["kernel"] + out["bias"], atol=1e-5)

    for linear in (False, True):
        part = build(**fields, linear=linear)
        after = part.encode(Vars(own, statistics), training())[1].extra["batch_stats"]
        pairs = zip(
            flatten(after).values(), flatten(statistics["batch_stats"]).values(), strict=True
        )
        assert all(bool((a == b).all()) for a, b in pairs) == linear
    frozen, trained = partition(own, build(**fields, linear=True).frozen)
    assert set(frozen["head"]) == layers and set(trained["head"]) == {"out"}
    with pytest.raises(UserError, match=r"method.ft_proj_selector=4: the head has 3 layers"):
        made(build(projection=fields["projection"], ft_proj_selector=4))


def test_layer_decay_follows_the_published_ids():
    """MAE: scale(i) = decay^(L + 1 - i); id 0 embeddings, k + 1 block k, L + 1 the rest."""
    params, _ = made(build(dict(pool="cls")))
    found = flatten(lr_factors({"layer_decay": 0.5}, params))
    blocks = np.asarray(found["image/blocks/mlp/fc1/kernel"]).ravel()
    np.testing.assert_allclose(blocks, [0.5**3, 0.5**2, 0.5])
    for path in ("cls_token", "pos_embed", "patch_embed/kernel"):
        assert found[f"image/{path}"] == pytest.approx(0.5**4)
    for path in ("image/norm_post/scale", "head/out/kernel", "head/out/bias"):
        assert found[path] == 1


def test_partial_fine_tuning_leaves_the_first_blocks_bitwise():
    first, last, _ = train(build(dict(pool="cls")), train_blocks=1, layer_decay=0.9)
    before, after = flatten(first["params"]), flatten(last["params"])
    for path, leaf in before.items():
        moved = np.asarray(after[path] != leaf)
        if "blocks/" in path:
            assert not moved[:2].any() and moved[2].any(), path
        else:
            learns = path.startswith(("image/norm_post", "head"))
            assert moved.any() == learns, path


def test_heads_start_as_told_and_unknown_norms_are_refused():
    params, _ = made(build(head_init_std=2e-5))
    kernel = np.asarray(params["head"]["out"]["kernel"])
    assert 1e-5 < kernel.std() < 3e-5 and not np.asarray(params["head"]["out"]["bias"]).any()
    with pytest.raises(UserError, match=r"method.head_norm: unknown 'batchnorm'"):
        made(build(head_norm="batchnorm"))
    with pytest.raises(UserError, match=r"method.mixing.mixupp: unknown key; did you mean 'mixup'"):
        method = build(mixing={"mixupp": 1.0})
        method.encode(made(method), Inputs.of(batch()))


def test_the_full_method_is_a_partition_of_its_parameters():
    params, _ = made(build())
    frozen, trained = partition(params, build(linear=True).frozen)
    assert set(frozen) == {"image"} and set(trained) == {"head"}
    functions = build().functions()
    assert {"features", "pixels", "classify"} <= functions.keys()
    pixels = functions["pixels"](Vars({}, {}), Inputs.of(batch()))
    np.testing.assert_allclose(pixels, np.asarray(batch()["image"]).reshape(B, -1) / 255, rtol=1e-6)
