"""Tiny single files of Stable Diffusion under their original names, made by walking the modules as
CompVis/latent-diffusion builds them; no table of ours is asked.

tests/interop and tests/peers run this file for its functions.
"""

import numpy as np

WIDTHS, CONTEXT = (32, 64), 64  # of the U-Net; its norms have 32 groups
VAE_WIDTHS = (32, 64)
LENGTH, WORDS = 8, 40


def res(at, before, after, told, found):
    """ResBlock of openaimodel.py."""
    found[f"{at}.in_layers.0"] = (before,)
    found[f"{at}.in_layers.2"] = (after, before, 3, 3)
    found[f"{at}.emb_layers.1"] = (after, told)
    found[f"{at}.out_layers.0"] = (after,)
    found[f"{at}.out_layers.3"] = (after, after, 3, 3)
    if before != after:
        found[f"{at}.skip_connection"] = (after, before, 1, 1)


def spatial(at, width, depth, linear, context, found):
    """SpatialTransformer of attention.py; a name that ends in `!` has no bias."""
    square = (width, width) if linear else (width, width, 1, 1)
    found |= {f"{at}.norm": (width,), f"{at}.proj_in": square, f"{at}.proj_out": square}
    for n in range(depth):
        block = f"{at}.transformer_blocks.{n}"
        for name, seen in (("attn1", width), ("attn2", context)):
            found[f"{block}.{name}.to_q!"] = (width, width)
            found[f"{block}.{name}.to_k!"] = found[f"{block}.{name}.to_v!"] = (width, seen)
            found[f"{block}.{name}.to_out.0"] = (width, width)
        found[f"{block}.ff.net.0.proj"] = (8 * width, width)
        found[f"{block}.ff.net.2"] = (width, 4 * width)
        found |= {f"{block}.norm{k}": (width,) for k in (1, 2, 3)}


def unet(depths, linear, added=0, inputs=4, context=CONTEXT, blocks=1):
    """UNetModel of openaimodel.py; depths: of the levels."""
    at, found, told = "model.diffusion_model", {}, 4 * WIDTHS[0]
    found |= {f"{at}.time_embed.0": (told, WIDTHS[0]), f"{at}.time_embed.2": (told, told)}
    if added:
        found |= {f"{at}.label_emb.0.0": (told, added), f"{at}.label_emb.0.2": (told, told)}
    found[f"{at}.input_blocks.0.0"] = (WIDTHS[0], inputs, 3, 3)
    skips, width, number = [WIDTHS[0]], WIDTHS[0], 0
    for level, wide in enumerate(WIDTHS):
        for _ in range(blocks):
            number += 1
            res(f"{at}.input_blocks.{number}.0", width, wide, told, found)
            width = wide
            if depths[level]:
                place = f"{at}.input_blocks.{number}.1"
                spatial(place, width, depths[level], linear, context, found)
            skips.append(width)
        if level < len(WIDTHS) - 1:
            number += 1
            found[f"{at}.input_blocks.{number}.0.op"] = (width, width, 3, 3)
            skips.append(width)
    res(f"{at}.middle_block.0", width, width, told, found)
    spatial(f"{at}.middle_block.1", width, depths[-1] or 1, linear, context, found)
    res(f"{at}.middle_block.2", width, width, told, found)
    number = 0
    for level in reversed(range(len(WIDTHS))):
        for n in range(blocks + 1):
            place, inner = f"{at}.output_blocks.{number}", 1
            res(f"{place}.0", width + skips.pop(), WIDTHS[level], told, found)
            width = WIDTHS[level]
            if depths[level]:
                spatial(f"{place}.1", width, depths[level], linear, context, found)
                inner = 2
            if level and n == blocks:
                found[f"{place}.{inner}.conv"] = (width, width, 3, 3)
            number += 1
    return found | {f"{at}.out.0": (width,), f"{at}.out.2": (4, width, 3, 3)}


def _resnet(at, before, after, found):
    found |= {f"{at}.norm1": (before,), f"{at}.conv1": (after, before, 3, 3)}
    found |= {f"{at}.norm2": (after,), f"{at}.conv2": (after, after, 3, 3)}
    if before != after:
        found[f"{at}.nin_shortcut"] = (after, before, 1, 1)


def _middle(at, width, found):
    for n in (1, 2):
        _resnet(f"{at}.mid.block_{n}", width, width, found)
    found[f"{at}.mid.attn_1.norm"] = (width,)
    found |= {f"{at}.mid.attn_1.{n}": (width, width, 1, 1) for n in ("q", "k", "v", "proj_out")}


def autoencoder(at="first_stage_model", blocks=1):
    """AutoencoderKL of autoencoder.py."""
    found, width, last = {}, VAE_WIDTHS[0], len(VAE_WIDTHS) - 1
    found[f"{at}.encoder.conv_in"] = (width, 3, 3, 3)
    for level, wide in enumerate(VAE_WIDTHS):
        for n in range(blocks):
            _resnet(f"{at}.encoder.down.{level}.block.{n}", width, wide, found)
            width = wide
        if level < last:
            found[f"{at}.encoder.down.{level}.downsample.conv"] = (width, width, 3, 3)
    _middle(f"{at}.encoder", width, found)
    found |= {f"{at}.encoder.norm_out": (width,), f"{at}.encoder.conv_out": (8, width, 3, 3)}
    found |= {f"{at}.quant_conv": (8, 8, 1, 1), f"{at}.post_quant_conv": (4, 4, 1, 1)}
    found[f"{at}.decoder.conv_in"] = (width, 4, 3, 3)
    _middle(f"{at}.decoder", width, found)
    for level in reversed(range(len(VAE_WIDTHS))):
        for n in range(blocks + 1):
            _resnet(f"{at}.decoder.up.{level}.block.{n}", width, VAE_WIDTHS[level], found)
            width = VAE_WIDTHS[level]
        if level:
            found[f"{at}.decoder.up.{level}.upsample.conv"] = (width, width, 3, 3)
    return found | {f"{at}.decoder.norm_out": (width,), f"{at}.decoder.conv_out": (3, width, 3, 3)}


def transformers_tower(at, width, layers):
    """CLIPTextModel; `=` before a name's end: it is whole, without weight and bias."""
    body = f"{at}.text_model"
    found = {f"{body}.embeddings.token_embedding.weight=": (WORDS, width)}
    found[f"{body}.embeddings.position_embedding.weight="] = (LENGTH, width)
    for n in range(layers):
        layer = f"{body}.encoder.layers.{n}"
        found |= {f"{layer}.self_attn.{k}_proj": (width, width) for k in ("q", "k", "v", "out")}
        found |= {f"{layer}.layer_norm{k}": (width,) for k in (1, 2)}
        found |= {f"{layer}.mlp.fc1": (4 * width, width), f"{layer}.mlp.fc2": (width, 4 * width)}
    return found | {f"{body}.final_layer_norm": (width,)}


def open_clip_tower(at, width, layers):
    """The text side of open_clip's CLIP, with its projection and its scale."""
    found = {f"{at}.token_embedding.weight=": (WORDS, width), f"{at}.logit_scale=": ()}
    found |= {f"{at}.positional_embedding=": (LENGTH, width)}
    for n in range(layers):
        block = f"{at}.transformer.resblocks.{n}"
        found |= {f"{block}.attn.in_proj_weight=": (3 * width, width)}
        found |= {
            f"{block}.attn.in_proj_bias=": (3 * width,),
            f"{block}.attn.out_proj": (width,) * 2,
        }
        found |= {f"{block}.ln_{k}": (width,) for k in (1, 2)}
        found |= {
            f"{block}.mlp.c_fc": (4 * width, width),
            f"{block}.mlp.c_proj": (width, 4 * width),
        }
    return found | {f"{at}.ln_final": (width,), f"{at}.text_projection=": (width, width)}


def modules(kind):
    """{module: shape of its weight} of sd1, sd2 or sdxl."""
    if kind == "sd1":
        texts = transformers_tower("cond_stage_model.transformer", 64, 2)
        return unet((1, 0), False) | autoencoder() | texts
    if kind == "sd2":
        texts = open_clip_tower("cond_stage_model.model", 64, 3)
        return unet((1, 0), True) | autoencoder() | texts
    first = transformers_tower("conditioner.embedders.0.transformer", 64, 2)
    second = open_clip_tower("conditioner.embedders.1.model", 64, 2)
    net = unet((0, 2), True, added=64 + 6 * 256, context=128)
    return net | autoencoder() | first | second


def tensors(kind, seed=0):
    """{name: float32 array}."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in modules(kind).items():
        bare, whole = name.rstrip("!="), name.endswith("=")
        weight = bare if whole else f"{bare}.weight"
        one = len(shape) == 1 and not whole  # a norm
        scale = 0.02 if whole else max(1, int(np.prod(shape[1:]))) ** -0.5
        found[weight] = rng.normal(one, 0.1 if one else scale, shape).astype(np.float32)
        if name == bare:
            found[f"{bare}.bias"] = rng.normal(0, 0.1, shape[:1]).astype(np.float32)
    return found
