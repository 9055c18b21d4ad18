"""Refuses settings that are out of range, before anything is compiled.

The file exists as the one table of what each number that all recipes share may be; a method's own
say it themselves (core/schema.py), unknown keys and wrong types are refused where a config is read,
unknown names where they are looked up.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Picture
from vlp_jax.core.schema import BELOW_ONE, Range
from vlp_jax.data.framing import CROPS
from vlp_jax.data.rgb import ALPHAS
from vlp_jax.methods.base import Method
from vlp_jax.train.workdir import flat_config

COUNT, SOME, SHARE = Range(0), Range(1), Range(0, 1)
RANGES: dict[str, Range] = {
    "seed": Range(0, 2**32 - 1),
    "image_size": SOME,
    "log_every": SOME,
    "eval_every": COUNT,
    "eval_batch_size": SOME,
    "checkpoint_every": COUNT,
    "checkpoint_minutes": COUNT,
    "keep_checkpoints": SOME,
    "keep_every": COUNT,
    "max_bad_steps": SOME,
    "heartbeat_seconds": SOME,
    "hang_seconds": COUNT,
    "ema_decay": BELOW_ONE,
    "optim.lr": COUNT,
    "optim.lr_final": SHARE,
    "optim.lr_decay": SHARE,
    "optim.warmup_steps": COUNT,
    "optim.warmup_examples": COUNT,
    "optim.warmup_epochs": COUNT,
    "optim.b1": BELOW_ONE,
    "optim.b2": BELOW_ONE,
    "optim.eps": COUNT,
    "optim.momentum": BELOW_ONE,
    "optim.weight_decay": COUNT,
    "optim.clip_norm": COUNT,
    "optim.layer_decay": Range(1e-6, 1),
    "optim.train_blocks": Range(-1),
    "data.image.fill": Range(0, 255),
    "data.holdout": Range(0, 0.9),
    "data.captions_per_picture": COUNT,
    "data.word_dropout": SHARE,
    "data.damage_budget": SHARE,
    "data.threads": SOME,
    "data.workers": COUNT,
    "data.prefetch": COUNT,
}
INTERVALS = ("data.image.scale", "method.augment.crop_scale")
PATTERNS = ("freeze", "fresh", "adapt.paths", "adapt.learn", "optim.no_decay")
_PLAYER = re.compile(r"^optim\.players\.[^.]+\.")  # a player's keys are those of `optim`
DTYPES = ("float32", "bfloat16", "float16")


def check_settings(config: Mapping[str, Any]) -> None:
    """Checks numbers, path patterns, dtypes and optional packages of a config.

    Raises:
      UserError: the first that is refused, with its key.
    """
    flat = flat_config(config)
    for key, value in flat.items():
        rule = _PLAYER.sub("optim.", key)
        if isinstance(value, int | float):
            RANGES.get(rule, Range()).check(key, value)
        if key.endswith("dtype") and value not in DTYPES:
            raise UserError(f"{key}: unknown {value!r}{nearest(value, DTYPES)}")
        for pattern in value if rule in PATTERNS else ():
            check_pattern(key, pattern)
        for pair in value if rule == "optim.lr_groups" else ():
            check_group(pair)
    for key in INTERVALS:
        check_interval(key, flat.get(key, (1, 1)))
    for template in flat.get("data.templates", ()):
        if "{c}" not in template:
            raise UserError(f"data.templates: {template!r} has no {{c}} for the caption")
    for key, known in (("eval_crop", CROPS), ("alpha", ALPHAS)):
        value = flat.get(f"data.image.{key}", known[0])
        if value not in known:
            raise UserError(f"data.image.{key}: unknown {value!r}{nearest(value, known)}")
    if flat.get("wandb") and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"wandb={flat['wandb']}: install the extra with `pip install 'vlp_jax[wandb]'`"
        )


def check_group(pair: Any) -> None:
    """Raises UserError unless `pair` is (path regex, learning-rate factor >= 0)."""
    whole = isinstance(pair, list | tuple) and len(pair) == 2
    if not whole or not isinstance(pair[1], int | float) or not pair[1] >= 0:
        raise UserError(f"optim.lr_groups: {pair!r} is no (path regex, factor) pair")
    check_pattern("optim.lr_groups", pair[0])


def check_interval(key: str, pair: Sequence[float]) -> None:
    """Raises UserError, naming the key, unless `pair` is 0 < low <= high <= 1."""
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= 1:
        raise UserError(f"{key}={tuple(pair)} must be (low, high) with 0 < low <= high <= 1")


def check_pattern(key: str, pattern: str) -> None:
    """Raises UserError, naming the key, where `pattern` is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"{key}: {pattern!r} is no regular expression: {error}") from error


def check_pictures(image_size: int, method: Method) -> None:
    """Refuses another `image_size` than that of the pictures that a method's functions read.

    Raises:
      UserError: names both sizes.
    """
    reads = [one for fn in method.functions().values() for one in fn.reads.items()]
    found = [(name, field) for name, field in reads if isinstance(field, Picture)]
    if found and image_size not in [field.size for _, field in found]:
        name, field = found[0]
        wanted = field.says(name, field.size)
        raise UserError(f"image_size={image_size} but {wanted}; make them equal")
