"""The autoencoder's two losses as published, against plain differentiation; its functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_batch

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.losses.perceptual import map_distance
from vlp_jax.methods.autoencoder import perplexity
from vlp_jax.methods.base import STATS, make_method
from vlp_jax.methods.kits.perceptual import maps_of
from vlp_jax.optim.optimizer import make_optimizer
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, frozen_paths, init_state

B, SIZE = 4, 16
NET = dict(name="autoencoder", latent_channels=2, widths=(8, 8), groups=4, res_blocks=1)
NET |= dict(middle_attention=False)
STAND_IN = dict(name="vit", patch_size=4, width=16, num_layers=1, head_width=8)
CONFIG = dict(name="autoencoder", autoencoder=NET, image_size=SIZE, perceptual=STAND_IN)
CONFIG |= dict(critic=dict(width=4, layers=1, batch_norm=False), critic_start=2, kl_weight=1e-3)


def built(**changes):
    return make_method({**CONFIG, **changes})


def coded(**changes):
    return built(autoencoder={**NET, "codes": 6}, **changes)


def inputs(method, step=3, seed=0):
    images = tiny_batch(B, seed)["image"][:, ::2, ::2]
    playing = method.playing(step)
    x = Inputs.of(
        {"image": jnp.asarray(images)}, example_keys(step_key(0, 3), B), step=step, train=True
    )
    return x.replace(totals=method.totals(x), phases=playing)


def fresh(method):
    """First weights, the frozen ones among them, with a critic of some temper."""
    v = jax.jit(method.fresh)(jax.random.key(0))
    critic = jax.tree.map(lambda leaf: 20 * leaf, v.params["critic"])
    return v._replace(params=v.params | {"critic": critic})


def turn(method, v, x, phase, accumulate=1):
    """(loss, metrics, extra that changed, {path: gradient}) of a phase, of its player alone."""
    mine = {name: v.params[name] for name in method.players()[phase.player]}
    others = {name: tree for name, tree in v.params.items() if name not in mine}
    frozen = {name: others.pop(name) for name in list(others) if method.parts()[name].frozen}
    whole = lambda fn: lambda v, *args: fn(v._replace(params=v.params | others), *args)  # noqa: E731
    stages = dataclasses.replace(
        phase, encode=whole(phase.encode), objective=whole(phase.objective)
    )
    run = jax.jit(
        lambda mine, extra, x: loss_and_gradient(stages, mine, frozen, extra, x, accumulate)
    )
    loss, aux, slope = run(mine, v.extra, x)
    return float(loss), aux.metrics, aux.extra, flatten(slope)


def terms(method, own, v, x):
    """((what is reconstructed, the penalty, what fools), latents) of the method written out."""
    v = v._replace(params={**v.params, "autoencoder": own})
    pixels = x.batch["image"].astype(jnp.float32) / 127.5 - 1
    found = method.latents(v, x, pixels)
    output = method.apply("autoencoder", v, x.fold("decode"), found["code"], method="decode")
    ready = lambda p: method.apply("features", v, x, _imagenet(p))[1]  # noqa: E731
    likeness = map_distance(maps_of(ready(output)), maps_of(ready(pixels)))
    nll = jnp.abs(output - pixels).mean((1, 2, 3)) + likeness
    numbers, weight = (1, 1.0) if method.net.codes else (pixels[0].size, 1e-3)
    penalty = weight * found["penalty"].mean()
    return (numbers * nll.mean(), penalty, _fooled(method, v, output)), found["latent"]


def _fooled(method, v, output):
    return -method.apply("critic", v, inputs(method).replace(train=False), output).mean()


def _imagenet(pixels):
    return ((pixels + 1) / 2 - jnp.float32([0.485, 0.456, 0.406])) / jnp.float32(
        [0.229, 0.224, 0.225]
    )


@pytest.mark.parametrize("make", [built, coded], ids=["gaussian", "codebook"])
def test_the_autoencoders_turn_is_the_published_sum(make):
    """The weight of the critic by the whole gradients of both terms at the last kernel, the update
    by the three terms' gradients."""
    method = make()
    v, x = fresh(method), inputs(method)

    @jax.jit
    def plain(own):
        values, pull, latent = jax.vjp(lambda own: terms(method, own, v, x), own, has_aux=True)
        one = lambda n: tuple(jnp.float32(n == other) for other in range(3))  # noqa: E731
        nll, penalty, fooled = (pull(one(n))[0] for n in range(3))
        norms = [jnp.linalg.norm(g["decoder"]["conv_out"]["kernel"].ravel()) for g in (nll, fooled)]
        weight = 0.5 * jnp.clip(norms[0] / (norms[1] + 1e-4), 0, 1e4)
        total = jax.tree.map(lambda a, b, c: a + b + weight * c, nll, penalty, fooled)
        return weight, (values[0] + values[1] + weight * values[2], latent), total

    weight, (loss, latent), slope = plain(v.params["autoencoder"])
    found = turn(method, v, x, method.phases()[0])
    assert float(found[1]["adaptive_weight"]) == pytest.approx(float(weight), rel=1e-4)
    assert 0 < float(weight) < 5000 and found[0] == pytest.approx(float(loss), rel=1e-5)
    wanted = flatten({"autoencoder": slope})
    scale = max(float(jnp.abs(leaf).max()) for leaf in wanted.values())
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[3][path], leaf, atol=2e-5 * scale, err_msg=path)
    old = float(v.extra[STATS]["latent_scale"]["scale"])
    moved = 1 / np.sqrt(0.99 / old**2 + 0.01 * np.asarray(latent, np.float64).var())
    assert float(found[2][STATS]["latent_scale"]["scale"]) == pytest.approx(moved, rel=1e-5)
    assert {"psnr", "features", "nll", "l1", "latent_scale"} <= found[1].keys()
    assert ("perplexity" in found[1]) == ("codebook" in found[1]) == bool(method.net.codes)


def test_micro_batches_change_neither_turn():
    method = built()
    v, x = fresh(method), inputs(method)
    for phase in method.phases():
        whole, found = (turn(method, v, x, phase, count) for count in (1, 2))
        assert found[0] == pytest.approx(whole[0], rel=1e-5)
        for name, value in whole[1].items():
            assert float(found[1][name]) == pytest.approx(float(value), rel=2e-4, abs=1e-5), name
        for path, leaf in flatten(whole[2]).items():
            np.testing.assert_allclose(flatten(found[2])[path], leaf, rtol=1e-5)
        scale = max(float(jnp.abs(leaf).max()) for leaf in whole[3].values())
        for path, leaf in whole[3].items():
            np.testing.assert_allclose(found[3][path], leaf, atol=2e-5 * scale, err_msg=path)


def test_before_its_start_nobody_is_fooled():
    method = built()
    v = jax.eval_shape(method.fresh, jax.random.key(0))

    def told(step):
        x = inputs(method, step)
        loss = lambda v: method.phases()[0].loss(v, x)[1].metrics  # noqa: E731
        return jax.eval_shape(loss, v).keys()

    assert told(2) - told(1) == {"adaptive_weight", "fooled"}
    assert method.playing(1) == ("autoencoder",) and method.playing(2) == ("autoencoder", "critic")
    alone = built(critic_weight=0.0)
    assert "critic" not in alone.parts() and alone.players().keys() == {"autoencoder"}
    assert alone.playing(9) == ("autoencoder",)


def test_the_critic_normalises_real_and_fake_apart_and_keeps_both_statistics():
    """Running means of its second map: 0.9 (0.9 old + 0.1 real) + 0.1 fake."""
    method = built(critic=dict(width=4, layers=1), critic_start=0)
    v, x = fresh(method), inputs(method)
    loss, told, moved, slope = turn(method, v, x, method.phases()[1])
    assert np.isfinite(loss) and told.keys() == {"critic_real", "critic_fake"}
    assert slope.keys() == flatten({"critic": v.params["critic"]}).keys()
    assert all(np.abs(g).max() > 0 for path, g in slope.items() if not path.endswith("out/bias"))
    see = jax.jit(lambda p: method.apply("critic", v, x, p, moves=True)[1])
    once = flatten(see(method.pixels(x.batch["image"], None)))
    mean, path = flatten(moved), f"{STATS}/critic/norm2/mean"
    assert mean.keys() == once.keys() and (mean[path] != once[path]).all()
    fake = (mean[path] - 0.9 * once[path]) / 0.1
    assert np.abs(np.asarray(fake - once[path] / 0.1)).max() > 1e-3, "fakes are not the real ones"


def test_codes_are_counted():
    assert float(perplexity(jnp.int32([[3, 3], [3, 3]]), 8)) == pytest.approx(1, abs=1e-5)
    assert float(perplexity(jnp.arange(8), 8)) == pytest.approx(8, rel=1e-5)


@pytest.mark.parametrize("make", [built, coded], ids=["gaussian", "codebook"])
def test_latents_and_pictures_go_out_and_in_without_the_scale(make):
    method = make()
    v, x = fresh(method), inputs(method).replace(train=False)
    functions = method.functions()
    run = lambda name, batch: jax.jit(lambda v: functions[name](v, x.replace(batch=batch)))(v)  # noqa: E731
    latents = run("encode_latents", x.batch)
    assert latents.keys() == ({"mean"} if method.net.codes else {"mean", "logvar"})
    assert latents["mean"].shape == (B, SIZE // 2, SIZE // 2, 2)
    pictures = run("decode_latents", {"latent": latents["mean"]})
    assert pictures.shape == (B, SIZE, SIZE, 3) and pictures.dtype == jnp.float32
    panels = run("reconstruct", x.batch)
    np.testing.assert_allclose(panels[:, 0], np.clip(pictures / 2 + 0.5, 0, 1), atol=1e-5)
    np.testing.assert_allclose(panels[:, 1], x.batch["image"] / 255, atol=1e-6)
    other = v._replace(extra={STATS: {**v.extra[STATS], "latent_scale": {"scale": jnp.float32(9)}}})
    again = jax.jit(
        lambda v: functions["decode_latents"](v, x.replace(batch={"latent": latents["mean"]}))
    )(other)
    np.testing.assert_array_equal(again, pictures)
    assert functions["decode_latents"].reads["latent"].shape == (SIZE // 2, SIZE // 2, 2)


def test_flops_are_those_of_the_way_there_and_back():
    at = lambda side, *convs: sum(2 * side**2 * k**2 * i * o for k, i, o in convs)  # noqa: E731
    same = (3, 8, 8)
    there = at(16, (3, 3, 8), *[same] * 2) + at(8, *[same] * 7, (3, 8, 4), (1, 4, 4))
    back = at(8, (1, 2, 2), (3, 2, 8), *[same] * 8) + at(16, *[same] * 5, (3, 8, 3))
    assert built().flops() == there + back
    assert coded().flops() == there + back - at(8, (3, 8, 2), (1, 4, 4)) + at(
        8, (1, 2, 2), (1, 2, 6)
    )


def test_the_judge_of_likeness_must_be_given_and_the_scale_need_not():
    method = built(perceptual=dict(name="resnet_v1", depth=18, width_multiplier=0.0625))
    start = jax.eval_shape(lambda: init_state(method, make_optimizer({}), Recipe(0, B)))
    given = frozen_paths(method, start)
    assert given and all(p.removeprefix("batch_stats/").startswith("features/") for p in given)
    assert any(path.startswith("batch_stats/features/") for path in given)
    assert start.state["opt"].keys() == {"autoencoder", "critic"}
    with pytest.raises(UserError, match=r"accumulate=2: BatchNorm \(1, first critic/norm2"):
        normed = built(critic=dict(width=4, layers=1))
        jax.eval_shape(lambda: init_state(normed, make_optimizer({}), Recipe(0, B, 2)))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(image_size=15), "method.image_size=15: must be a multiple of 2, the autoencoder's"),
        (
            dict(autoencoder=dict(name="patch_critic")),
            "method.autoencoder.name='patch_critic': must be",
        ),
        (dict(critic=dict(widht=3)), "method.critic.widht: unknown key; did you mean 'width'"),
        (
            dict(perceptual=dict(name="lpisp")),
            "method.perceptual.name: unknown 'lpisp'; did you mean",
        ),
        (dict(error="l3"), "method.error is 'l3'"),
    ],
)
def test_bad_settings_are_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        built(**changes).parts()
    assert message in str(caught.value) and "\n" not in str(caught.value)
