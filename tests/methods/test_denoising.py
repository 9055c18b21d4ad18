"""Denoising: what each corruption touches, and what each loss weighs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretext import batch_of, build, check_accumulation, check_functions, made

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.methods.denoising import corrupt

SMALL = dict(size=16, image={"pool": "none"})
PIXELS = jax.random.uniform(jax.random.key(9), (64, 64, 3), minval=0.1, maxval=0.9)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper"])
def test_a_share_of_the_pixels_is_replaced(kind):
    damaged, touched = map(np.asarray, corrupt(PIXELS, jax.random.key(0), kind, 0.3))
    assert touched.mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(np.where(touched, 0, damaged), np.where(touched, 0, PIXELS))
    values = damaged[touched[..., 0]]
    assert set(np.unique(values)) == ({0.0} if kind == "masking" else {0.0, 1.0})
    assert (values == values[:, :1]).all()  # all channels of a pixel
    if kind == "salt_and_pepper":
        assert values.mean() == pytest.approx(0.5, abs=0.06)


def test_gaussian_noise_touches_everything():
    damaged, touched = corrupt(PIXELS, jax.random.key(0), "gaussian", 0.2)
    assert touched.all()
    assert float((damaged - PIXELS).std()) == pytest.approx(0.2, rel=0.03)
    assert float((damaged - PIXELS).mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("loss_name", ["cross_entropy", "squared_error"])
def test_losses_by_hand(loss_name):
    method = build("denoising", **SMALL, loss_name=loss_name, alpha=3.0, beta=0.5)
    rng = np.random.default_rng(0)
    logits, clean = rng.normal(size=(2, 16, 16, 3)), rng.uniform(size=(2, 16, 16, 3))
    touched = rng.uniform(size=(2, 16, 16, 1)) < 0.4
    rows = {"logits": logits, "clean": clean, "damaged": clean, "touched": touched}
    p = 1 / (1 + np.exp(-logits))
    error = -clean * np.log(p) - (1 - clean) * np.log(1 - p)
    if loss_name == "squared_error":
        error = (logits - clean) ** 2
    wanted = np.mean(np.where(touched, 3.0, 0.5) * error)
    rows = jax.tree.map(jnp.asarray, rows)
    x = Inputs.of({"image": rows["clean"]})
    assert float(method.objective(Vars({}, {}), rows, x)[0]) == pytest.approx(wanted, rel=1e-5)


def test_pixels_land_where_their_token_lies():
    """A decoder that answers its own place paints that place."""
    method = build("denoising", **SMALL)
    (params, extra), x = made(method), Inputs.of(batch_of(method, 1))
    rows, _ = method.encode(Vars(params, extra), x)
    moved = rows["damaged"].at[:, 8:, :8].add(0.5)  # token 2 of 2 x 2, patches of 8
    image = {**params["image"]}
    ready = [method.normalised(pixels * 255) for pixels in (rows["damaged"], moved)]
    image["blocks"] = jax.tree.map(jnp.zeros_like, image["blocks"])  # no token sees another
    outs = [method.run_image(Vars({"image": image}, extra), x, pixels)[1] for pixels in ready]
    change = np.abs(outs[0]["pooled"] - outs[1]["pooled"]).max(-1)[0]
    assert (change > 1e-5).tolist() == [False, False, True, False]
    logits = np.asarray(rows["logits"])[0]
    token = method.run_image(Vars(params, extra), x, ready[0])[1]["pooled"][0, 2]
    out = params["decoder"]["out"]
    wanted = (token @ out["kernel"] + out["bias"]).reshape(8, 8, 3)
    np.testing.assert_allclose(logits[8:, :8], wanted, atol=1e-4)


def test_accumulation_and_functions():
    method = build("denoising", **SMALL)
    check_accumulation(method)
    found = check_functions(method, panels=3)
    assert (found["show"][:, 0] != found["show"][:, 2]).any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"corruption": "maskin"}, r"corruption: unknown 'maskin'; did you mean 'masking'"),
        ({"loss_name": "l2"}, r"loss_name: unknown 'l2'; valid: cross_entropy, squared_error"),
        ({"amount": 1.0}, r"method\.amount=1\.0"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        build("denoising", **SMALL, **changes)
