"""Colorization: what the trunk sees, weights of rare colours, the running prior, grey pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretext import (
    B,
    batch_of,
    build,
    check_accumulation,
    check_functions,
    followed,
    gradients,
    made,
)

from vlp_jax.augment.lab import lab_to_srgb
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, lay
from vlp_jax.methods.colorization import rarity

SMALL = dict(size=32, image={"pool": "none"}, widths=(8,), bin_size=20)


def test_the_trunk_sees_lightness_alone():
    method = build("colorization", **SMALL)
    two = lab_to_srgb(jnp.array([[50.0, 40.0, 0.0], [50.0, -40.0, 20.0]]))
    images = jnp.broadcast_to(jnp.round(two * 255)[:, None, None], (2, 32, 32, 3))
    ready = np.asarray(method.prepare(images.astype(jnp.uint8), None))
    np.testing.assert_allclose(ready[0], ready[1], atol=0.03)
    back = ready * np.array(method.image_std) + np.array(method.image_mean)
    np.testing.assert_allclose(back, 0.5, atol=0.01)  # L = 50 in every channel


def test_weights_of_rare_colours():
    prior = jnp.array([0.5, 0.4, 0.1, 0.0])
    weight = np.asarray(rarity(prior, 0.5))
    raw = 1 / (0.5 * np.array([0.5, 0.4, 0.1, 0.0]) + 0.5 / 3)
    np.testing.assert_allclose(weight, raw / (raw * prior).sum(), rtol=1e-6)
    assert float((weight * prior).sum()) == pytest.approx(1)
    np.testing.assert_allclose(rarity(prior, 1.0), 1, rtol=1e-6)


def test_accumulation_leaves_the_prior_and_the_gradient_alone():
    method = build("colorization", **SMALL)
    _, aux, _ = check_accumulation(method)
    params, extra = made(method)
    after = followed(method, params, lay(aux.extra, extra))["colours"]
    assert float(after["prior"].sum()) == pytest.approx(1, rel=1e-4)
    assert int(after["updates"]) == 1 and float(after["seen"].sum()) == 0
    assert np.abs(after["prior"] - extra["colours"]["prior"]).max() > 1e-3
    again = followed(method, params, {"colours": after})["colours"]
    np.testing.assert_array_equal(again["prior"], after["prior"])  # nothing was seen


@pytest.mark.parametrize("updates, rate", [(0, 1.0), (9, 0.1), (999, 1e-3), (50_000, 1e-3)])
def test_the_prior_is_the_mean_of_all_steps_then_of_the_last_thousand(updates, rate, tmp_path):
    method = build("colorization", **SMALL)
    count = len(method.bins)
    old, seen = np.full(count, 1 / count), np.arange(count, dtype=np.float32)
    colours = {"prior": jnp.asarray(old), "seen": jnp.asarray(seen), "updates": jnp.int32(updates)}
    found = followed(method, {}, {"colours": colours})["colours"]
    wanted = (1 - rate) * old + rate * seen / seen.sum()
    np.testing.assert_allclose(found["prior"], wanted, rtol=1e-4)
    assert int(found["updates"]) == updates + 1
    np.save(tmp_path / "prior.npy", old)
    given = build("colorization", **SMALL, prior=str(tmp_path / "prior.npy"))
    found = followed(given, {}, {"colours": colours})["colours"]
    np.testing.assert_array_equal(found["prior"], colours["prior"])


def test_grey_pictures_weigh_nothing():
    method = build("colorization", **SMALL)
    params, extra = made(method)
    batch = batch_of(method)
    grey = jnp.broadcast_to(batch["image"][..., :1], batch["image"].shape)
    loss, aux, gradient = gradients(method, params, extra, {"image": grey})
    assert float(loss) == 0 and float(aux.metrics["grey_pictures"]) == 1
    assert all(np.abs(g).max() == 0 for g in gradient.values())
    after = followed(method, params, lay(aux.extra, extra))["colours"]
    np.testing.assert_array_equal(after["prior"], extra["colours"]["prior"])
    half = {"image": batch["image"].at[: B // 2].set(grey[: B // 2])}
    assert float(gradients(method, params, extra, half)[1].metrics["grey_pictures"]) == 0.5


def test_functions_and_a_perfect_answer():
    method = build("colorization", **SMALL)
    check_functions(method, panels=4)
    rows, _ = method.encode(made(method), Inputs.of(batch_of(method)))
    assert rows["logits"].shape == (B, 8, 8, len(method.bins))
    sharp = jnp.full(rows["logits"].shape, -50.0)
    best = jnp.put_along_axis(sharp, rows["ids"][..., :1], 50.0, axis=-1, inplace=False)
    score = np.asarray(method.score({**rows, "logits": best}))
    assert score[:, 0].min() > 1 - 20 / 150 and (score[:, 0] > score[:, 1]).all()


def test_scores_by_hand():
    """Half of the places are red, half blue; the answer is red everywhere."""
    method = build("colorization", **SMALL, temperature=0.01)
    ab = jnp.repeat(jnp.array([[60.0, 40.0], [20.0, -60.0]]), 16, axis=0)  # rows 0-15, 16-31
    lab = jnp.concatenate([jnp.full((32, 1), 50.0), ab], 1)[:, None].repeat(32, 1)[None]
    red = np.flatnonzero((method.bins == [60, 40]).all(1))[0]
    logits = jnp.broadcast_to(jax.nn.one_hot(red, len(method.bins)), (1, 8, 8, len(method.bins)))
    rarity = jnp.repeat(jnp.array([1.0, 3.0]), 4)[None, :, None].repeat(8, 2)
    found = np.asarray(method.scores({"logits": logits, "lab": lab, "rarity": rarity}))[0]
    far, grey = np.hypot(40, 100), np.array([np.hypot(60, 40), np.hypot(20, 60)])
    np.testing.assert_allclose(found[0], [1 - far / 300, 1 - grey.sum() / 300, 1], rtol=1e-4)
    balanced = [1 - 0.75 * far / 150, 1 - (grey * [0.25, 0.75]).sum() / 150, 2]
    np.testing.assert_allclose(found[1], balanced, rtol=1e-4)
    pictures = [np.asarray(lab_to_srgb(lab.at[..., 1:].set(c))) for c in ([60.0, 40.0], [0.0, 0.0])]
    errors = [np.square(p - np.asarray(lab_to_srgb(lab))).mean() for p in pictures]
    np.testing.assert_allclose(found[2], [*(-10 * np.log10(errors)), 1], rtol=1e-4)


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(
        UserError, match=r"widths=\(8, 8\): 2 doublings .* 4 x 4 map give 16, not 8"
    ):
        made(build("colorization", **{**SMALL, "widths": (8, 8)}))
    with pytest.raises(UserError, match=r"method\.prior=.*: no such file"):
        build("colorization", **SMALL, prior="nowhere.npy")
    np.save(tmp_path / "p.npy", np.ones(5))
    with pytest.raises(UserError, match=r"p\.npy: needs \d+ numbers"):
        build("colorization", **SMALL, prior=str(tmp_path / "p.npy"))
