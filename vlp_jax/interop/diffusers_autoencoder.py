"""AutoencoderKL and VQModel of Hugging Face diffusers (autoencoder_kl.py, vq_model.py): their names
and configs beside models/autoencoder.py.

The file exists because a pipeline's folder and one that holds an autoencoder alone share them.
"""

from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.blocks import norm
from vlp_jax.interop.diffusers import conv, levels, only
from vlp_jax.interop.family import Config
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State, from_arrays

KL, VQ = "AutoencoderKL", "VQModel"
SCALE = "scaling_factor"  # the number of a config that is a statistic here
STAT = "batch_stats/latent_scale/scale"
_DEFAULTS: dict[str, Any] = {  # of both classes, diffusers 0.42
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
}
_OWN: dict[str, dict[str, Any]] = {
    KL: {
        "latent_channels": 4,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "scaling_factor": 0.18215,
    },
    VQ: {
        "latent_channels": 3,
        "num_vq_embeddings": 256,
        "vq_embed_dim": None,
        "scaling_factor": 0.18215,
    },
}
_FIXED = {"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False}
_FIXED |= {"shift_factor": None, "latents_mean": None, "latents_std": None}
_BLOCKS = {"down": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")}
_BLOCKS["up"] = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")


def autoencoder_rules(part: str, theirs: str = "") -> tuple[Rule, ...]:
    """All of it; part: ours; theirs: what stands before their names."""
    rules = [Rule(f"{part}/codebook/embedding", f"{theirs}quantize.embedding.weight")]
    for name in ("quant_conv", "post_quant_conv"):
        rules += conv(f"{part}/{name}", f"{theirs}{name}")
    for half, side in (("encoder", "down"), ("decoder", "up")):
        path, names = f"{part}/{half}/", f"{theirs}{half}."
        for each in (side, "mid"):
            rules += levels(path, names, each, plain=True)
        rules += norm(f"{path}norm_out", f"{names}conv_norm_out")
        rules += [*conv(f"{path}conv_in", f"{names}conv_in")]
        rules += [*conv(f"{path}conv_out", f"{names}conv_out")]
    return tuple(rules)


TABLE = Table("diffusers autoencoder", (*autoencoder_rules("autoencoder"), Rule(STAT, SCALE)))


def read_autoencoder(config: Config, where: str) -> dict[str, Any]:
    """The network that diffusers builds of a config.json, as fields with its name.

    Raises:
      UserError: another class, blocks or switches that our network has not; names `where`.
    """
    kind = config.get("_class_name", KL)
    if kind not in _OWN:
        raise UserError(f"{where}: _class_name {kind!r} is no autoencoder{nearest(kind, _OWN)}")
    only(config, _FIXED, where)
    c = {**_DEFAULTS, **_OWN[kind], **config}
    widths = tuple(c["block_out_channels"])
    attend = {side: _attend(c, side, len(widths), where) for side in _BLOCKS}
    if attend["down"] != attend["up"][::-1]:
        raise UserError(f"{where}: up_block_types are not down_block_types from the end on")
    quant = c.get("use_quant_conv", True)
    if c["in_channels"] != c["out_channels"] or quant != c.get("use_post_quant_conv", quant):
        what = "in_channels as out_channels and use_quant_conv as use_post_quant_conv"
        raise UserError(f"{where}: only {what} are read")
    return {
        "name": "autoencoder",
        "latent_channels": c["latent_channels"],
        "widths": widths,
        "attend": attend["down"] if any(attend["down"]) else (),
        "middle_attention": c["mid_block_add_attention"],
        "res_blocks": c["layers_per_block"],
        "codes": c.get("num_vq_embeddings", 0),
        "code_width": c.get("vq_embed_dim") or 0,
        "channels": c["in_channels"],
        "quant_convs": quant,
        "groups": c["norm_num_groups"],
    }


def scale_of(config: Config, where: str) -> float:
    """The factor that a diffusion model multiplies the latents by. A config without it has its
    class's, 0.18215; latent diffusion with a codebook scales nothing.

    Raises:
      UserError: no positive number.
    """
    usual = 1.0 if config.get("_class_name") == VQ else _OWN[KL][SCALE]
    said = config.get(SCALE, usual)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < float("inf"):
        what = "a diffusion model divides its latents by it"
        raise UserError(f"{where}: scaling_factor is {said!r}, not a positive number; {what}")
    return float(said)


def with_scale(state: State, config: Config, where: str) -> State:
    """The tensors and the factor, as one more. Raises UserError as `scale_of`."""
    number = np.array(scale_of(config, where), np.float32)
    return {**state, **from_arrays({SCALE: number})}


def shortest(number: float) -> float:
    """A float32 as it is written: 0.18215, not 0.18215000629425049."""
    return float(f"{number:.7g}")


def _attend(config: Config, side: str, count: int, where: str) -> tuple[bool, ...]:
    """Which levels of a side have attention, in its order."""
    key = f"{side}_block_types"
    for name in config[key]:
        if name not in _BLOCKS[side]:
            raise UserError(f"{where}: {key}: {name!r} is not read{nearest(name, _BLOCKS[side])}")
    if len(config[key]) != count:
        raise UserError(f"{where}: {key} must name {count} blocks, as block_out_channels")
    return tuple(name == _BLOCKS[side][1] for name in config[key])


def write_autoencoder(net: Config, scale: float | None = None) -> dict[str, Any]:
    """The inverse of `read_autoencoder`; scale: the factor that a diffusion model multiplies its
    latents by, which lies beside the network's sizes there."""
    kind = VQ if net["codes"] else KL
    levels_ = len(net["widths"])
    attend = net["attend"] or (False,) * levels_
    found = {
        "_class_name": kind,
        "in_channels": net["channels"],
        "out_channels": net["channels"],
        "down_block_types": [_BLOCKS["down"][on] for on in attend],
        "up_block_types": [_BLOCKS["up"][on] for on in reversed(attend)],
        "block_out_channels": list(net["widths"]),
        "layers_per_block": net["res_blocks"],
        "act_fn": "silu",
        "latent_channels": net["latent_channels"],
        "norm_num_groups": net["groups"],
        "mid_block_add_attention": net["middle_attention"],
    }
    if kind == VQ:
        found |= {"num_vq_embeddings": net["codes"], "vq_embed_dim": net["code_width"] or None}
    else:
        found |= {f"use_{name}conv": net["quant_convs"] for name in ("quant_", "post_quant_")}
    return found | ({} if scale is None else {SCALE: shortest(scale)})
