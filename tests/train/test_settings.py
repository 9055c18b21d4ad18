"""The table of ranges: a value at its border passes, a value beyond it is refused by its key."""

import dataclasses
import math

import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs.simclr.imagenet import get_config as simclr_config
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Picture
from vlp_jax.methods.base import make_method
from vlp_jax.train.settings import RANGES, check_pictures, check_settings


def check(key, value):
    config = ConfigDict()
    *parents, last = key.split(".")
    node = config
    for part in parents:
        node[part] = ConfigDict()
        node = node[part]
    node[last] = value
    check_settings(config)


@pytest.mark.parametrize("key", RANGES)
def test_numbers_pass_at_their_borders_and_not_beyond(key):
    low, high = RANGES[key].low, RANGES[key].high
    for value in (low, 1e9 if high == math.inf else high):
        check(key, value)
    beyond = [low - 1e-3] if high == math.inf else [low - 1e-3, high + 1e-3]
    for value in (*beyond, math.nan):
        with pytest.raises(UserError, match=rf"^{key}={value} is out of range; it must be"):
            check(key, value)


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.image.scale", (0.9, 0.1)),
        ("data.image.scale", (0.5,)),
        ("method.augment.crop_scale", (0.0, 1.0)),
        ("method.augment.crop_scale", (0.5, 1.5)),
        ("data.templates", ("a {d}",)),
        ("optim.lr_groups", (("a", "b"),)),
        ("optim.lr_groups", (("a", -1.0),)),
        ("optim.lr_groups", (("(", 1.0),)),
        ("optim.no_decay", ("(",)),
        ("method.dtype", "bf16"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=f"^{key}"):
        check(key, value)


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.image.scale", (1.0, 1.0)),
        ("data.templates", ("a {c}", "{c}")),
        ("optim.lr_groups", (("text/.*", 0.0), ("a", 2))),
        ("method.mu_dtype", "bfloat16"),
    ],
)
def test_what_is_right_passes(key, value):
    check(key, value)


def test_pictures_must_be_the_models():
    image = Picture(32)
    check_pictures(ConfigDict({"image_size": 32}), image)
    with pytest.raises(UserError, match=r"image_size=48 but method.image.image_size=32"):
        check_pictures(ConfigDict({"image_size": 48}), image)


def test_a_canvas_holds_whole_pictures_and_the_model_has_its_own_size():
    c = simclr_config("r50x1")
    image = make_method(c.method).fields()["image"]
    assert image.size == 320 and c.image_size == c.method.image.image_size == 224
    check_pictures(c, image)
    with pytest.raises(UserError, match=r"image_size=192 but method.image.image_size=224"):
        check_pictures(ConfigDict({**c, "image_size": 192}), image)
    c.data.image.crop = "center"
    with pytest.raises(UserError, match=r"data.image.crop='center': method.canvas=320 takes whole"):
        check_pictures(c, image)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"optim.no_decay": "('norm',)"}, "optim.no_decay: 'norm' matches no parameter"),
        ({"optim.lr_groups": "(('txt/.*', 0.1),)"}, "optim.lr_groups: 'txt/.*' matches no param"),
        ({"accumulate_batchnorm": "mirco"}, "accumulate_batchnorm: unknown 'mirco'"),
    ],
)
def test_a_run_that_names_nothing_is_refused_before_it_starts(make_trainer, overrides, message):
    """By what `train` asks for before it touches the workdir."""
    with pytest.raises(UserError, match=message):
        _ = make_trainer(**overrides).jit_step
    _ = make_trainer(freeze="('image/.*',)", **{"optim.no_decay": "('image/.*',)"}).jit_step


def test_grey_pictures_are_refused_where_colours_are_learnt_and_nowhere_else(
    make_trainer, tmp_path
):
    for i in range(4):
        Image.new("L", (8, 8), 40 * i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"grey {i}")
    path = {"data.path": tmp_path, "batch_size": 4}
    assert make_trainer(**path).pipeline.num_examples == 4
    trainer = make_trainer(**path)
    trainer.fields["image"] = dataclasses.replace(trainer.fields["image"], colour=True)
    with pytest.raises(UserError, match="all pictures are grey; this method learns colours"):
        trainer.__post_init__()
