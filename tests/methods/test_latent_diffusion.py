"""Latent diffusion in training: losses against float64, what is dropped, told and joined, shares
that add up, caches, and settings that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latent_tiny import (
    BARE,
    CONTROL,
    EMPTY,
    FACTOR,
    LENGTH,
    PLAIN,
    SIDE,
    TEXT,
    UNET,
    XL,
    inputs,
    made,
    weights,
)
from latent_tiny import batch as batch_of

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs
from vlp_jax.core.pytree import flatten, merge, partition
from vlp_jax.core.rng import example_keys
from vlp_jax.diffusion import variance
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.methods.kits.prompts import Told
from vlp_jax.models.flops import tower_flops
from vlp_jax.optim.optimizer import make_optimizer
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, frozen_paths, init_state


def drawn(method, x, shape):
    """What the keys of a batch give: times, the noise, and the second draws of it, in float64."""
    time = [int(jax.random.randint(k, (), 0, 1000)) for k in rngs.fold(x.rng, "time")]
    normal = lambda name, shape: np.stack(  # noqa: E731
        [np.asarray(jax.random.normal(k, shape), np.float64) for k in rngs.fold(x.rng, name)]
    )
    offset, second = normal("offset", (1, 1, shape[-1])), normal("perturbation", shape)
    return np.array(time), normal("noise", shape), offset, second


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize(
    "prediction, how",
    [
        ("eps", {}),
        ("eps", dict(min_snr=5.0, noise_offset=0.1, perturbation=0.1)),
        ("v", dict(min_snr=5.0)),
        ("x0", dict(min_snr=5.0, noise_offset=0.05)),
    ],
)
def test_losses_are_those_of_float64(prediction, how, distance):
    schedule = {"prediction": prediction, "zero_snr": prediction == "v"}
    method = made(BARE, schedule=schedule, distance=distance, **how)
    rng, shape = np.random.default_rng(0), (4, 4, 4)
    x0, out = rng.standard_normal((2, 6, *shape))
    x = inputs(method, {"image": jnp.zeros((6, 1))})

    @jax.jit
    def run(x0, out):
        given = method.noised(x, x0)
        return given, method.scored(out, given)

    given, rows = run(jnp.float32(x0), jnp.float32(out))
    time, eps, offset, second = drawn(method, x, shape)
    bar = Schedule(**schedule).alpha_bar[time].reshape(6, 1, 1, 1)
    alpha, sigma = np.sqrt(bar), np.sqrt(1 - bar)
    eps = eps + how.get("noise_offset", 0) * offset
    seen = alpha * x0 + sigma * (eps + how.get("perturbation", 0) * second)
    target = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[prediction]
    np.testing.assert_array_equal(given.time, time)
    np.testing.assert_allclose(given.x, seen, atol=2e-6)
    apart = np.abs(out - target) ** (1 if distance == "l1" else 2)
    error = apart.mean((1, 2, 3))
    snr = (bar / (1 - bar)).reshape(6)
    weight = {"eps": np.minimum(1, 5 / snr), "x0": np.minimum(snr, 5)}
    weight["v"] = np.minimum(snr, 5) / (snr + 1)
    loss = error * (weight[prediction] if how.get("min_snr") else 1)
    np.testing.assert_allclose(rows["error"], error, rtol=1e-5)
    np.testing.assert_allclose(rows["loss"], loss, rtol=1e-5)


def test_a_second_half_of_channels_is_taught_by_the_bound():
    method = made(BARE)
    x0, out, spread = np.random.default_rng(1).standard_normal((3, 3, 2, 2, 4)).astype(np.float32)
    given = method.noised(inputs(method, {"image": jnp.zeros((3, 1))}), jnp.asarray(x0))
    loss = jax.jit(lambda o: method.scored(o, given)["loss"])
    plain, both = loss(out), loss(jnp.concatenate([out, spread], -1))
    x_start = (given.x - given.at.sigma * out) / given.at.alpha
    wanted = jax.jit(lambda: variance.bound(Schedule(), given.time, x0, given.x, x_start, spread))()
    np.testing.assert_allclose(both - plain, wanted, rtol=1e-3, atol=1e-5)


def test_captions_are_dropped_by_their_share_in_training_alone():
    method = made(drop=0.3)
    x = Inputs.of({}, example_keys(jax.random.key(0), 4000), jnp.arange(4000), train=True)
    share = float(method.dropped(x).mean())
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)
    assert not method.dropped(x.replace(train=False)).any()


@pytest.mark.parametrize("null", ["empty", "zeros"])
def test_what_a_dropped_row_is_told(null):
    """As if its text were empty, or zeros; a cache's states give the same."""
    method = made(null=null)
    rows, dropped = batch_of(method, 3), jnp.array([False, True, False])
    empty = jnp.array([*EMPTY, *[EMPTY[-1]] * LENGTH][:LENGTH])

    @jax.jit
    def run(v):
        x = inputs(method, rows)
        told = method.told(v, x, dropped)
        wanted = method.read(v, x, {"text": rows["text"].at[1].set(empty)})
        kept = method.functions()["context"](v, x)
        cached = method.told(v, x.replace(batch={"context": kept}), dropped)
        assert told.pooled is None and cached.pooled is None
        return told.context, wanted.context, cached.context, method.nothing(v, x).context

    told, wanted, cached, nothing = run(weights(method))
    wanted = wanted.at[1].set(0) if null == "zeros" else wanted
    np.testing.assert_allclose(told, wanted, atol=1e-6)
    np.testing.assert_allclose(cached, wanted, atol=1e-6)
    np.testing.assert_allclose(nothing, np.stack([wanted[1]] * 3), atol=1e-6)


def test_a_class_is_one_token_and_none_has_a_token_too():
    method = made(text={}, classes=5, class_width=8)
    table = jnp.arange(48.0).reshape(6, 8)
    v = weights(method)._replace(params={"class_embed": table})
    x = inputs(method, {"image": jnp.zeros(3), "label": jnp.array([4, 0, 2])})
    told = method.told(v, x, jnp.array([False, False, True]))
    np.testing.assert_array_equal(told.context[:, 0], table[jnp.array([4, 0, 5])])
    np.testing.assert_array_equal(method.nothing(v, x).context[:, 0], table[jnp.array([5] * 3)])


def test_two_encoders_join_their_states_and_the_second_pools():
    method = made(XL)
    rows = batch_of(method, 2)

    @jax.jit
    def run(v):
        nets = method.text_nets.items()
        alone = [
            net.apply({"params": v.params[n]}, rows[n], before=True)  # penultimate
            for n, net in nets
        ]
        return method.functions()["text_states"](v, Inputs.of(rows)), alone

    found, ((_, first), (pooled, second)) = run(weights(method))
    assert found["states"].shape == (2, LENGTH, 16) and found["pooled"].shape == (2, 12)
    joined = np.concatenate([first["before"], second["before"]], -1)
    np.testing.assert_allclose(found["states"], joined, atol=1e-6)
    np.testing.assert_allclose(found["pooled"], pooled, atol=1e-6)


def test_sizes_are_told_in_pixels_of_training():
    """A picture of 100 x 80 whose box from (10, 40) of 40 x 40 pixels is 16 x 16 now."""
    method = made(XL)
    told = {"image_size": [[100.0, 80.0]], "image_box": [[10.0, 40.0, 40.0, 40.0]]}
    x = Inputs.of({name: jnp.asarray(rows) for name, rows in told.items()})
    np.testing.assert_allclose(method.numbers(x), [[100, 80, 4, 16, 16, 16]])
    np.testing.assert_array_equal(method.asked(x, (24, 16)), [[24, 16, 0, 0, 24, 16]])
    own = Inputs.of({"negative_time_ids": jnp.full((1, 6), 7.0)})
    np.testing.assert_array_equal(method.asked(own, (24, 16), "negative_time_ids"), [[7.0] * 6])


@pytest.fixture(scope="module")
def xl():
    """(method, weights, batch, f(params, batch, keys) -> (loss, aux, rows, gradient)), in one
    program: everything that has a loss."""
    method = made(XL, learn_text=True, drop=0.3, prior_weight=0.5)
    v, rows = weights(method), batch_of(method)

    @jax.jit
    def run(params, rows, keys):
        x = Inputs.of(rows, keys, train=True)
        x = x.replace(totals=method.totals(x))

        def loss(params):
            rows, _ = method.encode(v._replace(params=params), x)
            value, aux = method.objective(v, rows, x)
            return value, (aux, rows)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return method, v, rows, run


def test_every_part_that_learns_has_a_gradient(xl):
    method, v, rows, run = xl
    (loss, (aux, found)), gradient = run(v.params, rows, example_keys(jax.random.key(2), 4))
    assert np.isfinite(loss) and set(aux.metrics) == {"error", "instance", "prior"}
    assert all(len(row) == 4 for row in found.values())
    gradient = partition(gradient, method.frozen)[1]
    assert gradient.keys() == {"unet", "text", "text_2"}
    unused = "text/norm_post/", "text/blocks/"  # the first encoder pools nothing
    for path, leaf in flatten(gradient).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0 or path.startswith(unused), path


def test_a_row_is_its_own_and_sources_have_means_of_their_own(xl):
    _, v, rows, run = xl
    keys = example_keys(jax.random.key(2), 4)
    rows = rows | {"source": jnp.array([0, 1, 1, 1])}
    (loss, (aux, found)), _ = run(v.params, rows, keys)
    order = jnp.array([2, 0, 3, 1])
    moved = {name: array[order] for name, array in rows.items()}
    (again, (_, other)), _ = run(v.params, moved, keys[order])
    np.testing.assert_allclose(other["loss"], found["loss"][order], rtol=1e-4)
    assert float(again) == pytest.approx(float(loss), rel=1e-5)
    losses = np.asarray(found["loss"], np.float64)
    assert float(aux.metrics["instance"]) == pytest.approx(losses[0], rel=1e-5)
    assert float(aux.metrics["prior"]) == pytest.approx(losses[1:].mean(), rel=1e-5)
    wanted = losses[0] + 0.5 * losses[1:].mean()
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_micro_batches_add_up_to_the_batch():
    method = made(BARE, prior_weight=2.0)
    v, rows = weights(method), batch_of(method)
    frozen, params = partition(v.params, method.frozen)
    x = inputs(method, rows | {"source": jnp.array([0, 0, 1, 0])})
    whole, *others = (
        jax.jit(lambda p, k=k: loss_and_gradient(method, p, frozen, v.extra, x, k))(params)
        for k in (1, 2, 4)
    )
    for other in others:
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_latents_are_drawn_anew_from_what_a_cache_holds():
    """Mean + deviation x noise, times the factor; the same as from the picture."""
    method = made(augment={"flip": 1.0})
    v, rows = weights(method), batch_of(method)
    functions, x = method.functions(), inputs(method, rows)
    flipped = x.replace(batch={"image": rows["image"][:, :, ::-1]})
    run = lambda v: (functions["latents"](v, x), functions["encode_latents"](v, flipped))  # noqa: E731
    moments, told = jax.jit(run)(v)
    parts = np.concatenate([told["mean"], told["logvar"]], -1)
    np.testing.assert_allclose(moments, parts, atol=1e-5)
    deviation = np.exp(0.5 * told["logvar"])
    found = method.drawn(v, x, moments)
    noise = np.stack([jax.random.normal(k, (8, 8, 4)) for k in rngs.fold(x.rng, "posterior")])
    np.testing.assert_allclose(
        found, 0.5 * (told["mean"] + deviation * noise), rtol=1e-4, atol=1e-5
    )
    known = made(latent_scale=2.0)
    assert float(known.factor(v)) == 2.0 and "latent_scale" not in known.parts()


def test_what_is_joined():
    """Mask then what it leaves; low resolution; depth in [-1, 1]; classes by their numbers."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (2, SIDE, SIDE, 3)), jnp.float32)
    mask = jnp.zeros((2, SIDE, SIDE, 1)).at[:, 4:8, 6:10].set(1)
    method = made(XL)
    v, x = weights(method), Inputs.of({"image": image})
    hidden = image.at[:, 4:8, 6:10].set(0)
    join = lambda v: method.joined(v, x, {"image": image, "mask": mask}, (8, 8))  # noqa: E731
    found, left = jax.jit(lambda v: (join(v), method.mean(v, x, hidden)))(v)
    np.testing.assert_array_equal(found[..., 0], np.zeros((2, 8, 8)) + mask[:, ::2, ::2, 0])
    np.testing.assert_allclose(found[..., 1:], left, atol=1e-6)
    net = UNET | {"in_channels": 5}
    depth = jnp.asarray(rng.integers(3, 90, (2, SIDE, SIDE, 3)), jnp.uint8)
    found = made(unet=net, joins="depth").joined(v, x, {"depth": depth}, (8, 8))
    assert found.min() == -1 and found.max() == 1 and found.shape == (2, 8, 8, 1)
    table = jnp.arange(15.0).reshape(5, 3)
    known = made(unet=UNET | {"in_channels": 7}, joins="map", map_classes=5)
    areas = jnp.zeros((2, SIDE, SIDE, 3), jnp.uint8).at[:, :, 8:].set(3)
    found = known.joined(v._replace(params={"map_embed": table}), x, {"map": areas}, (8, 8))
    (
        np.testing.assert_allclose(found[0, 0, 0], table[0]),
        np.testing.assert_allclose(found[0, 0, -1], table[3]),
    )


def test_a_picture_of_low_resolution_is_shown_under_noise_that_is_told():
    net = UNET | {"in_channels": 7, "classes": 20}
    method = made(unet=net, joins="low", low_noise=9)
    pixels = jnp.full((64, SIDE, SIDE, 3), 0.5)
    x = inputs(method, {"image": pixels})
    shown, level = method.shown(x, pixels)["low"], method.levels(x)
    assert shown.shape == (64, 8, 8, 3) and np.allclose(shown, 0.5, atol=1e-3)
    assert set(np.asarray(level).tolist()) == set(range(10))
    clean = np.abs(method.blurred(x, shown, level * 0) - 0.5).max()
    assert clean < 0.06 < np.abs(method.blurred(x, shown, level * 0 + 300) - 0.5).max()


def test_what_a_run_must_be_given_and_what_learns():
    method = made(CONTROL, controls=2)
    recipe = Recipe(0, 4)
    start = jax.eval_shape(lambda: init_state(method, make_optimizer({"name": "sgd"}), recipe))
    assert start.state["params"].keys() == {"control_0", "control_1"}
    needed = {path.split("/")[0] for path in frozen_paths(method, start)}
    assert needed == {"autoencoder", "text", "unet", "batch_stats"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(start.frozen)} == {"bfloat16"}
    assert merge(start.state["params"], start.frozen).keys() == method.parts().keys() - {
        "latent_scale"
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(image_size=17), "method.image_size=17: sides must be multiples of 2"),
        (dict(unet=UNET | {"out_channels": 5}), "method.unet.out_channels=5: the autoencoder's"),
        (dict(unet=UNET | {"in_channels": 9}), "method.unet.in_channels=9: must be 4: 4 of the"),
        (dict(joins="mask"), "method.unet.in_channels=4: must be 9: 4 of the latents, and 5 of"),
        (dict(joins="msk"), "method.joins is 'msk'; did you mean 'mask'"),
        (dict(text={}), "method.unet.cross=True: needs text or classes"),
        (dict(unet=UNET | {"cross": False}), "method.unet.cross=False: has no place for text"),
        (dict(unet=UNET | {"pooled_width": 5}), "method.unet.pooled_width=5: the last text enc"),
        (dict(unet=UNET | {"classes": 4}), "method.unet.classes=4: must be more than method.low"),
        (dict(schedule={"zero_snr": True}), "prediction='eps': not with zero_snr=True"),
        (dict(schedule={"prediction": "e"}), "method.schedule.prediction is 'e'"),
        (dict(controls=1), "method.control.hint_widths: makes pictures smaller 8 times, the aut"),
        (dict(text=TEXT | {"widht": 3}), "method.text.widht: unknown key; did you mean 'width'"),
        (
            CONTROL | dict(augment={"flip": 0.5}),
            "method.augment: no flip, rotate or crop_scale; maps",
        ),
        (XL | dict(augment={"flip": 0.5}), "method.augment: no flip, rotate or crop_scale; the U"),
        (dict(drop=1.5), "method.drop=1.5 is out of range"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError) as caught:
        made(**changes)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_fields_say_what_a_batch_and_a_cache_hold():
    fields = made(XL).fields()
    assert fields["image"].tell == ("size", "box") and "latents" not in fields
    assert {fields[name].of for name in ("text", "text_2")} == {"text"}
    assert fields["text_2"].tokenizer == "text_2" and fields["text"].empty == ()
    plain = made(PLAIN).fields()
    assert plain["latents"].shape == (SIDE // FACTOR, SIDE // FACTOR, 8)
    assert plain["text"].empty == EMPTY and "pooled" not in plain
    assert "context" not in made(learn_text=True).fields()
    assert made(CONTROL, controls=2).fields()["control_1"].of == "image"
    assert Told(jnp.zeros(1)).pooled is None


def test_frozen_encoders_count_a_third_of_their_flops():
    frozen, learning = made().flops(), made(learn_text=True).flops()
    assert learning - frozen == pytest.approx(2 / 3 * tower_flops(made().text_nets["text"]))
    assert learning > 1e6
