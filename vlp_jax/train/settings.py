"""Refuses settings that are out of range, before anything is compiled.

The file exists as the one table of what each number of a config may be; unknown keys and wrong
types are refused where a config is read, unknown names where they are looked up.
"""

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Picture
from vlp_jax.data.framing import CROPS
from vlp_jax.data.rgb import ALPHAS
from vlp_jax.train.workdir import flat_config

_ANY = math.inf
_BELOW_ONE = 0.99999  # a moving average with 1 never moves, and Adam's correction divides by 1 - b
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "image_size": (1, _ANY),
    "log_every": (1, _ANY),
    "eval_every": (0, _ANY),
    "eval_batch_size": (1, _ANY),
    "checkpoint_every": (0, _ANY),
    "checkpoint_minutes": (0, _ANY),
    "keep_checkpoints": (1, _ANY),
    "keep_every": (0, _ANY),
    "max_bad_steps": (1, _ANY),
    "heartbeat_seconds": (1, _ANY),
    "hang_seconds": (0, _ANY),
    "ema_decay": (0, _BELOW_ONE),
    "optim.lr": (0, _ANY),
    "optim.lr_final": (0, 1),
    "optim.warmup_steps": (0, _ANY),
    "optim.warmup_examples": (0, _ANY),
    "optim.warmup_epochs": (0, _ANY),
    "optim.b1": (0, _BELOW_ONE),
    "optim.b2": (0, _BELOW_ONE),
    "optim.eps": (0, _ANY),
    "optim.momentum": (0, _BELOW_ONE),
    "optim.weight_decay": (0, _ANY),
    "optim.clip_norm": (0, _ANY),
    "optim.layer_decay": (1e-6, 1),
    "optim.train_blocks": (-1, _ANY),
    "data.image.fill": (0, 255),
    "data.holdout": (0, 0.9),
    "data.word_dropout": (0, 1),
    "data.damage_budget": (0, 1),
    "data.threads": (1, _ANY),
    "data.workers": (0, _ANY),
    "data.prefetch": (0, _ANY),
}
_SIZES = ("embed_dim", "width", "num_layers", "num_heads", "head_width", "patch_size")
_RATES = ("dropout", "drop_path", "patch_dropout", "label_smoothing")
# Numbers of networks by their last name, wherever they stand in `method`.
NETWORKS: dict[str, tuple[float, float]] = {
    **dict.fromkeys((*_SIZES, "vocab_size", "context_length"), (1, _ANY)),
    **dict.fromkeys(_RATES, (0, _BELOW_ONE)),
    **dict.fromkeys(("flip", "grey", "prob", "switch", "erase"), (0, 1)),
    **dict.fromkeys(("mixup", "cutmix", "std", "head_init_std"), (0, _ANY)),
    "magnitude": (0, 10),
    "num_classes": (2, _ANY),
}
INTERVALS = ("data.image.scale", "method.augment.crop_scale")
PATTERNS = ("freeze", "fresh", "optim.no_decay")
DTYPES = ("float32", "bfloat16", "float16")


def check_settings(config: Mapping[str, Any]) -> None:
    """Checks numbers, path patterns, dtypes and optional packages of a config.

    Raises:
      UserError: the first that is refused, with its key.
    """
    flat = flat_config(config)
    for key, value in flat.items():
        network = NETWORKS if key.startswith("method.") else {}
        low, high = RANGES.get(key) or network.get(key.split(".")[-1], (-_ANY, _ANY))
        if isinstance(value, int | float) and not (low <= value <= high and math.isfinite(value)):
            wanted = f"at least {low}" if high == _ANY else f"from {low} to {high}"
            wanted = "finite" if math.isinf(value) else wanted
            raise UserError(f"{key}={value} is out of range; it must be {wanted}")
        if key.endswith("dtype") and value not in DTYPES:
            raise UserError(f"{key}: unknown {value!r}{nearest(value, DTYPES)}")
    for key in PATTERNS:
        for pattern in flat.get(key, ()):
            check_pattern(key, pattern)
    for pair in flat.get("optim.lr_groups", ()):
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


def check_pictures(c: ConfigDict, image: Picture) -> None:
    """Refuses pictures of another size than the model's, and a canvas that holds no whole picture;
    image: the method's field.

    Raises:
      UserError: names both sizes, or the crop.
    """
    size = image.size
    if image.whole:
        if c.data.image.crop != "squash":
            crop = f"data.image.crop={c.data.image.crop!r}"
            raise UserError(f"{crop}: method.canvas={size} takes whole pictures, crop='squash'")
        size = c.method.image.image_size
    if size != c.image_size:
        raise UserError(
            f"image_size={c.image_size} but method.image.image_size={size}; make them equal"
        )
