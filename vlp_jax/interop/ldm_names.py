"""Names of CompVis/latent-diffusion and of Stability's generative-models, as single files of Stable
Diffusion have them: openaimodel.py's U-Net, diffusionmodules/model.py's autoencoder, and text
towers under the names of transformers or of open_clip.

Blocks are numbered in the order in which they run, whatever they are, so rules are made for the
sizes that the names at hand have. The file exists because these files have no
config beside them, and names of their own.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from vlp_jax.interop.blocks import linear, norm
from vlp_jax.interop.diffusers import conv, transformer
from vlp_jax.interop.rules import Rule

UNET, VAE = "model.diffusion_model.", "first_stage_model."


class Levels(NamedTuple):
    """How a U-Net is divided: levels, and residual blocks of each on the way down; attend: levels
    with attention."""

    count: int
    blocks: int
    attend: frozenset[int]


def run(names: Collection[str], pattern: str, first: int = 0) -> int:
    """How many of pattern.format(first), pattern.format(first + 1), ... there are."""
    count = 0
    while pattern.format(first + count) in names:
        count += 1
    return count


def unet_levels(names: Collection[str]) -> Levels:
    """Of a U-Net under its original names, whose resolution is changed by convolutions."""
    ins, outs = f"{UNET}input_blocks", f"{UNET}output_blocks"
    blocks, count = run(names, f"{ins}.{{}}.0.in_layers.0.weight", first=1), 1
    while f"{ins}.{count * (blocks + 1)}.0.op.weight" in names:
        count += 1
    starts = {level: (count - 1 - level) * (blocks + 1) for level in range(count)}
    attend = {level for level, at in starts.items() if f"{outs}.{at}.1.norm.weight" in names}
    return Levels(count, blocks, frozenset(attend))


def unet_rules(part: str, levels: Levels) -> Iterator[Rule]:
    """openaimodel.py."""
    yield from linear(f"{part}/time_embed/fc1", f"{UNET}time_embed.0")
    yield from linear(f"{part}/time_embed/fc2", f"{UNET}time_embed.2")
    yield from linear(f"{part}/added_embed/fc1", f"{UNET}label_emb.0.0")
    yield from linear(f"{part}/added_embed/fc2", f"{UNET}label_emb.0.2")
    yield Rule(f"{part}/labels/embedding", f"{UNET}label_emb.weight")
    yield from conv(f"{part}/conv_in", f"{UNET}input_blocks.0.0")
    step, last = levels.blocks + 1, levels.count - 1
    for level in range(levels.count):
        down, up = f"{UNET}input_blocks", f"{UNET}output_blocks"
        order = last - level
        for n in range(levels.blocks):
            at = f"{down}.{1 + level * step + n}"
            yield from _res(f"{part}/down{level}_res{n}", f"{at}.0")
            yield from transformer(f"{part}/down{level}_attn{n}", f"{at}.1")
        for n in range(step):
            at = f"{up}.{order * step + n}"
            yield from _res(f"{part}/up{order}_res{n}", f"{at}.0")
            yield from transformer(f"{part}/up{order}_attn{n}", f"{at}.1")
        yield from conv(f"{part}/down{level}_sample/conv", f"{down}.{(level + 1) * step}.0.op")
        behind = 2 if level in levels.attend else 1
        up = f"{up}.{(order + 1) * step - 1}.{behind}.conv"
        yield from conv(f"{part}/up{order}_sample/conv", up)
    yield from _res(f"{part}/mid_res0", f"{UNET}middle_block.0")
    yield from transformer(f"{part}/mid_attn0", f"{UNET}middle_block.1")
    yield from _res(f"{part}/mid_res1", f"{UNET}middle_block.2")
    yield from norm(f"{part}/norm_out", f"{UNET}out.0")
    yield from conv(f"{part}/conv_out", f"{UNET}out.2")


def _res(ours: str, theirs: str) -> Iterator[Rule]:
    """ResBlock of openaimodel.py."""
    yield from norm(f"{ours}/norm1", f"{theirs}.in_layers.0")
    yield from conv(f"{ours}/conv1", f"{theirs}.in_layers.2")
    yield from linear(f"{ours}/time", f"{theirs}.emb_layers.1")
    yield from norm(f"{ours}/norm2", f"{theirs}.out_layers.0")
    yield from conv(f"{ours}/conv2", f"{theirs}.out_layers.3")
    yield from conv(f"{ours}/shortcut", f"{theirs}.skip_connection")


def autoencoder_levels(names: Collection[str], theirs: str = VAE) -> int:
    """How many an autoencoder has, under its original names."""
    return run(names, f"{theirs}encoder.down.{{}}.block.0.norm1.weight")


def autoencoder_rules(part: str, count: int, theirs: str = VAE) -> Iterator[Rule]:
    """diffusionmodules/model.py of so many levels, which its decoder numbers from the finest."""
    yield Rule(f"{part}/codebook/embedding", f"{theirs}quantize.embedding.weight")
    for name in ("quant_conv", "post_quant_conv"):
        yield from conv(f"{part}/{name}", f"{theirs}{name}")
    for half, side, move in (("encoder", "down", "down"), ("decoder", "up", "up")):
        path, names = f"{part}/{half}/", f"{theirs}{half}."
        yield from conv(f"{path}conv_in", f"{names}conv_in")
        yield from norm(f"{path}norm_out", f"{names}norm_out")
        yield from conv(f"{path}conv_out", f"{names}conv_out")
        for n in (0, 1):
            yield from _vae_res(f"{path}mid_res{n}", f"{names}mid.block_{n + 1}")
        yield from _vae_attention(f"{path}mid_attn0", f"{names}mid.attn_1")
        for own in range(count):
            at = f"{names}{side}.{own if half == 'encoder' else count - 1 - own}"
            yield from _vae_res(f"{path}{side}{own}_res{{n}}", f"{at}.block.{{n}}")
            yield from _vae_attention(f"{path}{side}{own}_attn{{n}}", f"{at}.attn.{{n}}")
            yield from conv(f"{path}{side}{own}_sample/conv", f"{at}.{move}sample.conv")


def _vae_res(ours: str, theirs: str) -> Iterator[Rule]:
    """ResnetBlock of model.py."""
    for n in (1, 2):
        yield from norm(f"{ours}/norm{n}", f"{theirs}.norm{n}")
        yield from conv(f"{ours}/conv{n}", f"{theirs}.conv{n}")
    yield from conv(f"{ours}/shortcut", f"{theirs}.nin_shortcut")


def _vae_attention(ours: str, theirs: str) -> Iterator[Rule]:
    """AttnBlock of model.py, whose maps are 1 x 1 convolutions."""
    weights, biases = (
        tuple(f"{theirs}.{name}.{end}" for name in "qkv") for end in ("weight", "bias")
    )
    yield from norm(f"{ours}/norm", f"{theirs}.norm")
    yield Rule(f"{ours}/attn/qkv/kernel", weights, "three (h k) i 1 1 -> i h three k")
    yield Rule(f"{ours}/attn/qkv/bias", biases, "three (h k) -> h three k")
    yield Rule(f"{ours}/attn/out/kernel", f"{theirs}.proj_out.weight", "o (h k) 1 1 -> h k o")
    yield Rule(f"{ours}/attn/out/bias", f"{theirs}.proj_out.bias")
