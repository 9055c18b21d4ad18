"""Configs of diffusers' U-Nets and ControlNets beside ours, both ways.

The file exists because their classes have forty keys each, most of which released models never
turn: what our networks have no switch for is refused by name.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.diffusers import only
from vlp_jax.interop.diffusers_unet import CONTROL, CROSS, PLAIN, TABLES
from vlp_jax.interop.family import Config

_DEFAULTS: dict[str, Any] = {  # of the classes, diffusers 0.42
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "only_cross_attention": False,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "cross_attention_dim": 1280,
    "use_linear_projection": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "mid_block_only_cross_attention": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "dropout": 0.0,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "add_attention": True,
    "attn_norm_num_groups": None,
}
_OWN = {
    PLAIN: {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (224, 448, 672, 896),
        "mid_block_type": "UNetMidBlock2D",
    },
    CONTROL: {
        "conditioning_embedding_out_channels": (16, 32, 96, 256),
        "conditioning_channels": 3,
    },
}
_FIXED: dict[str, Any] = {  # what our network has no switch for
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "dual_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
    "global_pool_conditions": False,
    "controlnet_conditioning_channel_order": "rgb",
}
# (without, with attention) of each class, and those that change the resolution by residual blocks
_BLOCKS = {
    CROSS: {side: (f"{side}Block2D", f"CrossAttn{side}Block2D") for side in ("Down", "Up")},
    PLAIN: {side: (f"{side}Block2D", f"Attn{side}Block2D") for side in ("Down", "Up")},
}
_RES = {side: f"Resnet{side}sampleBlock2D" for side in ("Down", "Up")}


def read_unet(config: Config, where: str, pooled_width: int = 0) -> dict[str, Any]:
    """The network that diffusers builds of a config.json, as fields with its name.

    Args:
      config, where: the file's content, and its path for messages.
      pooled_width: of SDXL's second text encoder, which the config does not tell apart from the
        numbers; 0: six numbers, or five where the states are as wide as the pooled text, as the
        refiner's are.

    Raises:
      UserError: another class, blocks or switches that our network has not.
    """
    kind = config.get("_class_name", CROSS)
    if kind not in TABLES:
        raise UserError(f"{where}: _class_name {kind!r} is no U-Net{nearest(kind, TABLES)}")
    only(config, _FIXED, where)
    c = {**_DEFAULTS, **_OWN.get(kind, {}), **config}
    blocks = PLAIN if kind == PLAIN else CROSS
    attend, resample = _levels(c, "down", blocks, where)
    if kind != CONTROL and _levels(c, "up", blocks, where) != (attend[::-1], resample):
        raise UserError(f"{where}: up_block_types are not down_block_types from the end on")
    found = {
        "name": "controlnet" if kind == CONTROL else "unet",
        "in_channels": c["in_channels"],
        "widths": tuple(c["block_out_channels"]),
        **_depths(c, attend, kind, where),
        "heads": _heads(c, kind, where),
        "cross": kind != PLAIN,
        "linear": c["use_linear_projection"],
        "res_blocks": c["layers_per_block"],
        "film": _film(c, kind, where),
        "resample": resample,
        "classes": c["num_class_embeds"] or 0,
        "groups": c["norm_num_groups"],
        "norm_eps": float(c["norm_eps"]),
        "dropout": float(c["dropout"]),
        **_added(c, pooled_width, where),
    }
    if kind == CONTROL:
        hints = tuple(c["conditioning_embedding_out_channels"])
        return found | {"hint_widths": hints, "hint_channels": c["conditioning_channels"]}
    return found | {"out_channels": c["out_channels"]}


def _levels(config: Config, side: str, blocks: str, where: str) -> tuple[list[bool], str]:
    """(Which levels of a side have attention, in its order; how all change the resolution)."""
    key, word = f"{side}_block_types", side.capitalize()
    said, known = config.get(key), (*_BLOCKS[blocks][word], _RES[word])
    if said is None:
        raise UserError(f"{where}: lacks {key}")
    for name in said:
        if name not in known:
            raise UserError(f"{where}: {key}: {name!r} is not read{nearest(name, known)}")
    if len(said) != len(config["block_out_channels"]):
        raise UserError(f"{where}: {key} must name as many blocks as block_out_channels")
    attend = [name == known[1] for name in said]
    moved = config[f"{side}sample_type"] == "resnet" and blocks == PLAIN
    moves = zip(said[:-1], attend[:-1], strict=True)  # the last level stays as large
    res = {name == known[2] or (on and moved) for name, on in moves}
    if len(res) > 1:
        raise UserError(f"{where}: {key}: some levels change the resolution otherwise than others")
    return attend, "res" if True in res else "conv"


def _film(config: Config, kind: str, where: str) -> bool:
    """Whether time scales norms. Raises UserError for what else is said of labels and norms."""
    scale, groups = config["resnet_time_scale_shift"], config["attn_norm_num_groups"]
    film = scale == "scale_shift"
    wanted = config["norm_num_groups"] if film and kind == PLAIN else None
    for key, fits in (
        ("class_embed_type", config["class_embed_type"] is None),
        ("resnet_time_scale_shift", scale in ("default", "scale_shift")),
        ("attn_norm_num_groups", groups == wanted),
        ("layers_per_block", isinstance(config["layers_per_block"], int)),
    ):
        if not fits:
            raise UserError(f"{where}: {key} {config[key]!r} is not read")
    return film


def _each(config: Config, key: str, where: str, of: int) -> list[Any]:
    """A value of every level, which may be said once."""
    said = config[key]
    if not isinstance(said, list | tuple):
        return [said] * of
    if len(said) != of:
        raise UserError(f"{where}: {key} {list(said)} must have {of} values")
    return list(said)


def _depths(config: Config, attend: list[bool], kind: str, where: str) -> dict[str, Any]:
    """Transformers of the levels and of the middle."""
    count = len(attend)
    depth = _each(config, "transformer_layers_per_block", where, count)
    if not all(isinstance(n, int) for n in depth):
        raise UserError(f"{where}: transformer_layers_per_block within a level is not read")
    only_cross = _each(config, "only_cross_attention", where, count)
    middle = config["mid_block_only_cross_attention"]
    if kind != PLAIN and config["mid_block_type"] != _DEFAULTS["mid_block_type"]:
        raise UserError(f"{where}: mid_block_type {config['mid_block_type']!r} is not read")
    if middle or (middle is None and config["only_cross_attention"] is True):
        raise UserError(f"{where}: mid_block_only_cross_attention is not read")
    plain = kind == PLAIN
    found = {"depths": tuple((1 if plain else n) * on for n, on in zip(depth, attend, strict=True))}
    found["middle_depth"] = int(config["add_attention"]) if plain else depth[-1]
    cross = tuple(on and one for on, one in zip(attend, only_cross, strict=True))
    return found | {"only_cross": cross if any(cross) else ()}


def _heads(config: Config, kind: str, where: str) -> tuple[int, ...]:
    """Heads of the levels: `attention_head_dim` of UNet2DConditionModel is their number."""
    widths = tuple(config["block_out_channels"])
    key = "attention_head_dim" if config["num_attention_heads"] is None else "num_attention_heads"
    said = _each(config, key, where, len(widths))
    if kind != PLAIN:
        return tuple(said)
    return tuple(w // (head or w) for w, head in zip(widths, said, strict=True))


def _added(config: Config, pooled_width: int, where: str) -> dict[str, int]:
    """What SDXL adds to the time."""
    kind = config["addition_embed_type"]
    if kind is None:
        return {}
    if kind != "text_time":
        raise UserError(f"{where}: addition_embed_type {kind!r} is not read, only 'text_time'")
    whole = config["projection_class_embeddings_input_dim"]
    width = config["addition_time_embed_dim"]
    if not pooled_width:
        refiner = whole == 5 * width + config["cross_attention_dim"]
        pooled_width = whole - (5 if refiner else 6) * width
    count, rest = divmod(whole - pooled_width, width)
    if count < 1 or rest or pooled_width < 1:
        what = f"projection_class_embeddings_input_dim {whole} is not a pooled text"
        raise UserError(f"{where}: {what} of {pooled_width} and numbers of {width} columns each")
    return {"pooled_width": pooled_width, "time_ids": count, "id_width": width}


def write_unet(net: Config, context_width: int = 0) -> dict[str, Any]:
    """The inverse of `read_unet`; context_width: columns of the states that it looks at.

    Raises:
      UserError: plain attentions beside what UNet2DModel has not.
    """
    control = net["name"] == "controlnet"
    kind = CONTROL if control else CROSS if net["cross"] else PLAIN
    if kind == PLAIN and net["pooled_width"]:
        raise UserError("--to=diffusers: UNet2DModel has no place for a pooled text")
    found = {
        "_class_name": kind,
        "in_channels": net["in_channels"],
        "block_out_channels": list(net["widths"]),
        "layers_per_block": net["res_blocks"],
        "norm_num_groups": net["groups"],
        "norm_eps": net["norm_eps"],
        "num_class_embeds": net["classes"] or None,
        "resnet_time_scale_shift": "scale_shift" if net["film"] else "default",
        **_write_levels(net, kind),
    }
    if kind != PLAIN:
        found |= _write_cross(net, context_width)
    if kind == CONTROL:
        return found | {
            "conditioning_embedding_out_channels": list(net["hint_widths"]),
            "conditioning_channels": net["hint_channels"],
        }
    return found | {"out_channels": net["out_channels"], "dropout": net["dropout"]}


def _write_levels(net: Config, kind: str) -> dict[str, Any]:
    """The blocks of both ways, and heads."""
    down, up = (_BLOCKS[PLAIN if kind == PLAIN else CROSS][side] for side in ("Down", "Up"))
    on, last = [bool(depth) for depth in net["depths"]], len(net["depths"]) - 1
    res = [net["resample"] == "res" and level < last for level in range(last + 1)]
    names = lambda side, blocks, moves: [  # noqa: E731
        _RES[side] if move and not each else blocks[each]
        for each, move in zip(on, moves, strict=True)
    ]
    found: dict[str, Any] = {"down_block_types": names("Down", down, res)}
    if kind != CONTROL:
        found["up_block_types"] = names("Up", up, res[-1:] + res[:-1])[::-1]
    if kind != PLAIN:
        if net["resample"] == "res":
            raise UserError("--to=diffusers: no class has transformers and resample='res'")
        return found | {"attention_head_dim": list(net["heads"])}
    sizes = {w // h for w, h in zip(net["widths"], net["heads"], strict=True)}
    if len(sizes) > 1:
        raise UserError("--to=diffusers: UNet2DModel has heads of one width on all levels")
    move = "resnet" if net["resample"] == "res" else "conv"
    found |= {"downsample_type": move, "upsample_type": move, "attention_head_dim": sizes.pop()}
    groups = net["groups"] if net["film"] else None
    return found | {"add_attention": bool(net["middle_depth"]), "attn_norm_num_groups": groups}


def _write_cross(net: Config, context_width: int) -> dict[str, Any]:
    """What transformers have, and what XL adds."""
    depths = [depth or 1 for depth in net["depths"][:-1]] + [net["middle_depth"]]
    if net["depths"][-1] not in (0, net["middle_depth"]) or not net["middle_depth"]:
        raise UserError("--to=diffusers: the middle has as many blocks as the last level")
    found: dict[str, Any] = {
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "cross_attention_dim": context_width,
        "use_linear_projection": net["linear"],
        "only_cross_attention": list(net["only_cross"]) or False,
    }
    if net["pooled_width"]:
        found |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": net["id_width"],
            "projection_class_embeddings_input_dim": net["pooled_width"]
            + net["time_ids"] * net["id_width"],
        }
    return found
