"""UNet2DConditionModel, UNet2DModel and ControlNetModel of Hugging Face diffusers: their names
beside models/unet.py and models/controlnet.py.

The file exists because the pipelines of Stable Diffusion, of latent diffusion and of ControlNet
hold the same blocks under the same names.
"""

from collections.abc import Container

from vlp_jax.interop.blocks import norm
from vlp_jax.interop.diffusers import conv, levels, vector_embed
from vlp_jax.interop.rules import Rule, Table

CROSS, PLAIN, CONTROL = "UNet2DConditionModel", "UNet2DModel", "ControlNetModel"


def unet_rules(part: str, theirs: str = "", plain: bool = False) -> tuple[Rule, ...]:
    """A U-Net, or the half of it that a ControlNet copies.

    Args:
      part: ours. theirs: what stands before their names.
      plain: its attentions are plain, as in UNet2DModel.
    """
    return (
        *vector_embed(f"{part}/time_embed", f"{theirs}time_embedding"),
        *vector_embed(f"{part}/added_embed", f"{theirs}add_embedding"),
        Rule(f"{part}/labels/embedding", f"{theirs}class_embedding.weight"),
        *conv(f"{part}/conv_in", f"{theirs}conv_in"),
        *(r for side in ("down", "mid", "up") for r in levels(f"{part}/", theirs, side, plain)),
        *norm(f"{part}/norm_out", f"{theirs}conv_norm_out"),
        *conv(f"{part}/conv_out", f"{theirs}conv_out"),
    )


def control_rules(part: str, theirs: str = "") -> tuple[Rule, ...]:
    """A ControlNet; part: ours; theirs: what stands before their names."""
    hint = f"{theirs}controlnet_cond_embedding"
    return (
        *conv(f"{part}/hint/conv_in", f"{hint}.conv_in"),
        *conv(f"{part}/hint/conv{{n}}", f"{hint}.blocks.{{n}}"),
        *conv(f"{part}/hint/out", f"{hint}.conv_out"),
        *conv(f"{part}/zero_mid", f"{theirs}controlnet_mid_block"),
        *conv(f"{part}/zero{{n}}", f"{theirs}controlnet_down_blocks.{{n}}"),
        *unet_rules(part, theirs),
    )


def is_plain(names: Container[str], theirs: str = "") -> bool:
    """Whether a U-Net's attentions are plain, by the names of its tensors, theirs or ours."""
    ours = "unet/mid_attn0/attn/qkv/kernel"
    return f"{theirs}mid_block.attentions.0.group_norm.weight" in names or ours in names


TABLES = {
    CROSS: Table("diffusers U-Net", unet_rules("unet")),
    PLAIN: Table("diffusers plain U-Net", unet_rules("unet", plain=True)),
    CONTROL: Table("diffusers ControlNet", control_rules("control")),
}
