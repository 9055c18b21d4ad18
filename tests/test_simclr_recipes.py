"""The published numbers of SimCLR's recipes: sizes with heads, rates that follow the batch, what
LARS leaves out, the augmentation.
"""

import pathlib

import jax
import pytest

from vlp_jax.api.config import load_config
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, matches, size
from vlp_jax.methods.base import make_method

ROOT = pathlib.Path(__file__).parents[1] / "configs" / "simclr"
V1 = 2048**2 + 2048 + 2048 * 128  # two layers, a bias
V2 = 2 * (2048**2 + 2 * 2048) + 2048 * 128 + 128  # three layers, BatchNorm without the last bias


def load(spec, **changes):
    return load_config(f"{ROOT}/{spec}", changes)


def shapes(config):
    method = make_method(config.method)
    return jax.eval_shape(method.init, jax.random.key(0))[0]


@pytest.mark.parametrize(
    "spec, tower, head",
    [
        ("imagenet.py", 25_557_032 - 2_049_000, V1),  # torchvision's without its last layer
        ("imagenet.py:r50x1,v2", 25_557_032 - 2_049_000, V2),
        ("imagenet.py:r50x2", 93_907_072, 4096**2 + 4096 + 4096 * 128),
        ("imagenet.py:r50x4", 375_378_176, 8192**2 + 8192 + 8192 * 128),
        ("cifar.py:r18x1", 11_176_512 - 49 * 192 + 9 * 192, 2 * (512**2 + 1024) + 65_536 + 128),
    ],
)
def test_exact_sizes(spec, tower, head):
    params = shapes(load(spec))
    assert (size(params["image"]), size(params["head"])) == (tower, head)


def test_the_rate_follows_the_batch_unless_it_is_given():
    assert load("imagenet.py").optim.lr == pytest.approx(4.8)  # = 0.3 x 4096 / 256
    assert load("imagenet.py", batch_size="256").optim.lr == pytest.approx(0.075 * 16)
    assert load("cifar.py", batch_size="1024").optim.lr == pytest.approx(4.0)
    given = load("imagenet.py", **{"batch_size": "256", "optim.lr": "0.3"})
    assert given.optim.lr == 0.3 and given.batch_size == 256


@pytest.mark.parametrize("words, rate", [("", 0.075 * 512**0.5), (",v2,linear", 0.3 * 2)])
def test_the_rate_follows_the_batch_by_the_asked_rule(words, rate):
    assert load(f"imagenet.py:r50x1{words}", batch_size="512").optim.lr == pytest.approx(rate)
    assert load(f"imagenet.py:r50x1{words}").optim.lr == pytest.approx(4.8)


def test_both_versions_of_the_recipe():
    first, second = load("imagenet.py:r50x1"), load("imagenet.py:r50x1,v2")
    assert (first.optim.weight_decay, second.optim.weight_decay) == (1e-6, 1e-4)
    assert (first.epochs, second.epochs) == (1000, 800)
    assert (first.method.head.num_layers, second.method.head.num_layers) == (2, 3)
    for c in (first, second):
        assert c.optim.name == "lars" and c.optim.lr_in_momentum and c.optim.momentum == 0.9
        assert (c.optim.warmup_epochs, c.optim.clip_norm, c.method.temperature) == (10, 0, 0.1)
        a = c.method.augment
        assert (a.brightness, a.contrast, a.saturation, a.hue) == (0.8, 0.8, 0.8, 0.2)
        assert (a.jitter, a.grey, a.blur, a.flip, a.crop_scale) == (0.8, 0.2, 0.5, 0.5, (0.08, 1.0))
    small = load("cifar.py")
    assert (small.method.augment.hue, small.method.augment.blur) == (0.1, 0.0)
    assert small.method.temperature == 0.5


def test_lars_leaves_out_exactly_gains_and_biases():
    config = load("imagenet.py:r50x1,v2")
    for path, leaf in flatten(shapes(config)).items():
        assert matches(path, config.optim.no_decay) == (len(leaf.shape) == 1), path


@pytest.mark.parametrize("spec", ["imagenet.py:resnet50", "imagenet.py:r50x1,v3"])
def test_unknown_names_are_one_line(spec):
    with pytest.raises(UserError, match=r"not of the form r50x1|unknown .v3.; valid: linear"):
        load(spec)
