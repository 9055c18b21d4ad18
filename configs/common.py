"""Every key that all training configs share, with the default a small run wants.

The file exists so that a recipe states only what it changes, and scripts can rely on the names.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict, FieldReference

from vlp_jax.augment.pictures import Augment
from vlp_jax.data.filters import Filters
from vlp_jax.models.towers import network
from vlp_jax.optim.adapt import Adapt


def base() -> ConfigDict:
    """The shared keys; a recipe fills `method`, `data.path` and its numbers."""
    c = ConfigDict()
    c.config_file = ""
    c.seed = 0
    # Length: the last of these that is not zero; a flag for one clears the others.
    c.steps = 0
    c.examples = 0
    c.epochs = 0.0
    c.batch_size = 256
    c.accumulate = 1  # micro-batches per step: the same gradient (train/gradient.py)
    c.accumulate_batchnorm = "refuse"  # or micro: normalise each micro-batch, another gradient
    c.image_size = 224
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})  # -1: all devices that remain
    c.sharding = "replicated"  # replicated | fsdp | fsdp_tensor
    # A converted checkpoint or workdir to start from: FOLDER, FOLDER:REGEX (of its paths), or {our
    # prefix: "FOLDER[:their prefix]"}, --config.init_from.image=OUT:image.
    c.init_from = ""
    c.fresh = ()  # path regexes of what starts anew although init_from is asked for it
    # Path regexes of locked parameters, e.g. ("image/.*",) for LiT; they run as in evaluation.
    c.freeze = ()
    c.adapt = ConfigDict(dataclasses.asdict(Adapt()))  # LoRA: vlp_jax/optim/adapt.py
    c.allow_random_frozen = False  # frozen weights that init_from does not give: tests alone
    c.ema_decay = 0.0
    c.max_bad_steps = 10  # steps in a row with a non-finite loss before the run stops
    c.heartbeat_seconds = 60.0  # silence after which another process of the job counts as dead
    c.hang_seconds = 600.0  # without a step: stacks of all threads; twice that: the end. 0: never
    c.log_every = 50
    c.eval_every = 0  # 0: at the end only
    c.checkpoint_every = 1000
    c.checkpoint_minutes = 0.0
    c.keep_checkpoints = 3
    c.keep_every = 0
    c.wandb = ""  # project name
    c.evals = ConfigDict()
    c.eval_batch_size = 256
    c.method = ConfigDict()
    c.optim = ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-3,
            "schedule": "cosine",
            "lr_final": 0.0,
            "lr_by_epoch": False,  # the rate stays what it is at an epoch's start
            "lr_decay": 0.9,  # factor per epoch of schedule="exponential"
            "warmup_steps": 0,
            "warmup_examples": 0,
            "warmup_epochs": 0.0,
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "momentum": 0.9,
            "nesterov": False,
            "lr_in_momentum": False,  # lars as TensorFlow's: the buffer sums lr x direction
            "weight_decay": 0.2,
            "clip_norm": 1.0,
            "layer_decay": 1.0,
            "train_blocks": -1,  # so many last blocks of every tower learn; -1: all
            "lr_groups": (),
            "no_decay": (r"(.*/)?(bias|scale|cls_token|probe|logit_scale|logit_bias)",),
            "mu_dtype": "float32",
            "players": {},  # {player: {key: value}} of what it has otherwise: optim/players.py
        }
    )
    c.data = data()
    return c


def scale_lr(c: ConfigDict, base: float) -> None:
    """lr = base x batch_size / 256, also where batch_size is changed later (set it first)."""
    c.optim.lr = c.get_ref("batch_size").to_float() * (base / 256)


def data() -> ConfigDict:
    """Where training pictures and captions come from and how the host prepares them."""
    return ConfigDict(
        {
            "path": "",
            "holdout": 0.0,  # share of the pictures, by content, that `evals` on path measure with
            "filters": dataclasses.asdict(Filters()),  # of noisy alt-texts: data/filters.py
            "weights": (),
            "image": {
                "crop": "random",
                "scale": (0.9, 1.0),
                "resample": "bicubic",
                "alpha": "white",  # ground of transparent pictures; drop: as PIL's conversion
                "fill": 255,  # grey level of the bars that crop="pad" adds
                "eval_crop": "center",
                "share": 1.0,  # of a picture's side, what a crop of a fixed size shows
            },
            "tokenizer": "clip",
            # "" and -1: the tokenizer's own; new: ("<word>=it starts from",), data/text/grown.py
            "tokenizer_options": {"clean": "", "pad_id": -1, "new": ()},
            "context_length": 77,  # 0: each text's own
            "tokenizers": {},  # further ones by name: a file, or {name, clean, pad_id}
            "fields": {},  # where each field of a method is found: data/fields/KIND.py
            "caption": "random",
            "captions_per_picture": 0,  # so many, each a sample of its own; 0: one, drawn each time
            "templates": (),
            "word_dropout": 0.0,
            "buckets": (16, 32, 48, 64, 77),  # lengths that a causal tower's texts are cut to
            "label": "",
            "workers": 0,
            "threads": 4,
            "prefetch": 8,
            "shuffle": "global",
            "damage_budget": 1e-3,
        }
    )


class _Then(NamedTuple):
    """What a FieldReference does with the value it follows."""

    fn: Callable[[str], str]
    args: tuple = ()


def own_pictures(c: ConfigDict, usual: str) -> FieldReference:
    """A data set for sheets and scores that need no labels: `usual` as long as data.path is what
    the recipe says (set it first), and data.path itself once it is one's own.
    """
    start, path = c.data.path, c.data.get_ref("path")
    return FieldReference(path, op=_Then(lambda found: usual if found == start else found))


def clip_method(name: str, arch: dict) -> ConfigDict:
    """A dual encoder's `method` section with every switch that a command line may set."""
    method = trunk_method(name, arch)
    method.text = _tower(method.text)
    return method


def trunk_method(name: str, arch: dict) -> ConfigDict:
    """The `method` section of a method on one image tower: `arch` holds `image` and what the method
    adds.
    """
    method = ConfigDict(arch)
    method.name = name
    method.dtype = "float32"
    method.remat = "none"
    method.unroll = False
    method.augment = ConfigDict(dataclasses.asdict(Augment()))
    method.image = _tower(method.image)
    return method


def _tower(section: ConfigDict) -> ConfigDict:
    tower = ConfigDict({**defaults(section.name), **section.to_dict()})
    tower.unlock()
    return tower


def defaults(tower: str) -> dict:
    """The switches of a tower that have a default of their own, so that each can be a flag."""
    shared = ("embed_dim", "dtype", "remat", "unroll", "parent", "name")  # set for both towers
    fields = dataclasses.fields(network(tower, "name"))
    return {f.name: f.default for f in fields if f.name not in shared and known(f.default)}


def known(value: object) -> bool:
    """Whether a field's default can stand in a config."""
    return isinstance(value, bool | int | float | str | tuple)
