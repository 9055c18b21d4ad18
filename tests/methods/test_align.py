"""ALIGN: its loss against the formula, its temperature, its recipe."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_method

from vlp_jax.api.config import load_config
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, matches
from vlp_jax.core.vectors import unit
from vlp_jax.methods.base import make_method

B, E, SMOOTH = 6, 8, 0.1
RNG = np.random.default_rng(0)
ROWS = {side: np.asarray(unit(jnp.float32(RNG.normal(size=(B, E))))) for side in ("image", "text")}
CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "clip" / "align.py")


def formula(temperature, smoothing=SMOOTH, rows=ROWS):
    """align.md 3, in float64: (sum of both directions, their mean without smoothing)."""
    logits = np.float64(rows["image"]) @ np.float64(rows["text"]).T / temperature
    target = (1 - smoothing) * np.eye(B) + smoothing / B
    total, hard = 0.0, 0.0
    for p in (logits, logits.T):
        log_softmax = p - np.log(np.exp(p).sum(1, keepdims=True))
        total -= (target * log_softmax).sum() / B
        hard -= np.trace(log_softmax) / B
    return total, hard / 2


def loss_of(method, temperature):
    x = Inputs.of({"image": np.zeros((B, 1))})
    return method.objective(Vars({"temperature": jnp.float32(temperature)}, {}), ROWS, x)


@pytest.mark.parametrize("reduction, factor", [("sum", 1.0), ("mean", 0.5)])
@pytest.mark.parametrize("temperature", [1.0, 1 / 64])
def test_the_loss_is_the_papers(reduction, factor, temperature):
    method = tiny_method("align", reduction=reduction)
    run = jax.jit(jax.value_and_grad(lambda t: loss_of(method, t), has_aux=True))
    (loss, aux), slope = run(jnp.float32(temperature))
    wanted, hard = formula(temperature)
    assert float(loss) == pytest.approx(factor * wanted, rel=1e-5)
    assert float(aux.metrics["unsmoothed_loss"]) == pytest.approx(hard, rel=1e-5)
    assert float(aux.metrics["temperature"]) == pytest.approx(temperature)
    h = 1e-4 * temperature  # the gradient is of the temperature itself, not of a logarithm
    difference = (formula(temperature + h)[0] - formula(temperature - h)[0]) / (2 * h)
    assert float(slope) == pytest.approx(factor * difference, rel=1e-3)


def test_the_temperature_divides_and_may_be_kept():
    learned, kept = (tiny_method("align", learn_temperature=on) for on in (True, False))
    assert learned.scale({"temperature": jnp.float32(0.25)}) == 4
    assert float(learned.parts()["temperature"].net.init(None)["params"]) == 1.0
    assert "temperature" not in kept.parts() and kept.scale({}) == 1
    kept = tiny_method("align", learn_temperature=False, init_temperature=1 / 32)
    loss = kept.objective(Vars({}, {}), ROWS, Inputs.of({"image": np.zeros((B, 1))}))[0]
    assert float(loss) == pytest.approx(formula(1 / 32)[0], rel=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reduction": "sums"}, "method.reduction: unknown 'sums'; did you mean 'sum'"),
        ({"init_temperature": 0.0}, "method.init_temperature=0.0: must be above 0"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_method("align", **changes)


def test_the_recipe_is_the_published_one():
    """align.md 4: LAMB, whose exclusions are BatchNorm's gain and shift alone."""
    config = load_config(f"{CONFIG}:B3-mini", {})
    method = make_method(config.method)
    params, stats = jax.eval_shape(method.init, jax.random.key(0))
    left = [path for path in flatten(params) if matches(path, config.optim.no_decay)]
    norms = [path for path in flatten(params) if "/bn/" in path]
    assert left == norms and 2 * len(flatten(stats)) == 2 * len(norms)
    assert {"text/norm_embed/scale", "temperature"} <= flatten(params).keys() - set(left)
    optim = config.optim
    assert (optim.name, optim.lr, optim.schedule, optim.weight_decay) == (
        "lamb", 1e-3, "linear", 1e-5,
    )  # fmt: skip
    assert (config.batch_size, config.steps, optim.warmup_steps) == (16_384, 1_200_000, 10_000)
    assert (config.image_size, config.data.context_length) == (289, 64)
    image = config.data.image
    assert round(config.image_size / image.share) == 346 and image.resample == "bilinear"
    assert (image.crop, image.eval_crop) == ("squash_random", "squash")
    rules = config.data.filters
    assert (rules.side, rules.aspect, rules.texts, rules.pictures) == (200, 3.0, 1000, 10)
    assert (rules.words, rules.vocabulary) == ((3, 20), 100_000_000)
    with pytest.raises(UserError, match="ALIGN size: unknown 'B3-mni'; did you mean 'B3-mini'"):
        load_config(f"{CONFIG}:B3-mni", {})
