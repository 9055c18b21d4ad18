"""The sizes of a U-Net, an autoencoder and text towers, read off the shapes of a single file of
Stable Diffusion (ldm_names.py has the names).

Heads are not in any shape: 8 of SD 1, whose transformers' maps are convolutions, else 64 columns
each. The file exists because such files come without a config.
"""

from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.interop.hf import mlp_ratio
from vlp_jax.interop.ldm_names import UNET, VAE, autoencoder_levels, run, unet_levels
from vlp_jax.interop.tensors import State

HEAD, ID = 64, 256  # columns of a head, and of each number that XL tells


def read_unet(state: State) -> dict[str, Any]:
    """Fields of models/unet.py UNet, with its name. Raises UserError: a table of labels, which
    only the x4 upscaler has."""
    if f"{UNET}label_emb.weight" in state:
        raise UserError(f"{UNET}label_emb.weight: a U-Net with labels (the upscaler) is not read")
    count, blocks, _ = unet_levels(state)
    starts = [f"{UNET}input_blocks.{1 + level * (blocks + 1)}" for level in range(count)]
    widths = tuple(shape(state, f"{at}.0.out_layers.3.weight")[0] for at in starts)
    depth = lambda at: run(state, f"{at}.transformer_blocks.{{}}.norm1.weight")  # noqa: E731
    middle = f"{UNET}middle_block.1"
    linear = len(shape(state, f"{middle}.proj_in.weight")) == 2
    return {
        "name": "unet",
        "in_channels": shape(state, f"{UNET}input_blocks.0.0.weight")[1],
        "out_channels": shape(state, f"{UNET}out.2.weight")[0],
        "widths": widths,
        "depths": tuple(depth(f"{at}.1") for at in starts),
        "middle_depth": depth(middle),
        "heads": tuple(max(1, width // HEAD) if linear else 8 for width in widths),
        "linear": linear,
        "res_blocks": blocks,
        **_added(state),
    }


def context_width(state: State) -> int:
    """Columns of the states that the U-Net looks at."""
    return shape(state, f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1]


def _added(state: State) -> dict[str, int]:
    """What XL adds to the time: a text of 1280 columns, and six numbers, or the refiner's five."""
    name = f"{UNET}label_emb.0.0.weight"
    if name not in state:
        return {}
    count = 5 if context_width(state) == 1280 else 6
    pooled = shape(state, name)[1] - count * ID
    return {"pooled_width": pooled, "time_ids": count, "id_width": ID}


def read_autoencoder(state: State, theirs: str = VAE) -> dict[str, Any]:
    """Fields of models/autoencoder.py Autoencoder, with its name."""
    down = f"{theirs}encoder.down."
    count = autoencoder_levels(state, theirs)
    codes = f"{theirs}quantize.embedding.weight"
    attend = tuple(f"{down}{level}.attn.0.norm.weight" in state for level in range(count))
    outs = shape(state, f"{theirs}encoder.conv_out.weight")[0]
    found = {"codes": 0}
    if codes in state:
        found = dict(zip(("codes", "code_width"), shape(state, codes), strict=True))
    return {
        "name": "autoencoder",
        "latent_channels": outs if codes in state else outs // 2,
        "widths": tuple(
            shape(state, f"{down}{level}.block.0.conv2.weight")[0] for level in range(count)
        ),
        "attend": attend if any(attend) else (),
        "middle_attention": f"{theirs}encoder.mid.attn_1.norm.weight" in state,
        "res_blocks": run(state, f"{down}0.block.{{}}.norm1.weight"),
        **found,
    }


_HF = (  # of transformers: ids, places, a layer, its hidden map, activation
    "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
    "text_model.encoder.layers.{}.layer_norm1.weight",
    "text_model.encoder.layers.0.mlp.fc1.weight",
    "quick_gelu",
)
_OPEN_CLIP = (
    "token_embedding.weight",
    "positional_embedding",
    "transformer.resblocks.{}.ln_1.weight",
    "transformer.resblocks.0.mlp.c_fc.weight",
    "gelu",
)


def read_tower(state: State, theirs: str, cut: int = 0) -> dict[str, Any]:
    """Fields of models/text.py TextTransformer, with its name.

    Args:
      theirs: what stands before the names, of transformers (its activation is OpenAI's) or
        open_clip. cut: blocks at the end that are left out.
    """
    names = _OPEN_CLIP if f"{theirs}{_OPEN_CLIP[0]}" in state else _HF
    ids, places, layer, hidden = (theirs + name for name in names[:4])
    count, width = shape(state, ids)
    projection = f"{theirs}text_projection"
    return {
        "name": "text",
        "vocab_size": count,
        "context_length": shape(state, places)[0],
        "width": width,
        "num_layers": run(state, layer) - cut,
        "num_heads": max(1, width // HEAD),
        "embed_dim": shape(state, projection)[1] if projection in state and not cut else 0,
        "mlp_ratio": mlp_ratio(width, shape(state, hidden)[0]),
        "activation": names[4],
    }


def read_schedule(state: State) -> dict[str, Any]:
    """Fields of a Schedule but for its prediction: Stable Diffusion's, or what the betas that lie
    in the file say. Raises UserError for betas of another rule."""
    found = {"name": "scaled_linear", "start": 0.00085, "end": 0.012, "times": 1000, "offset": 1}
    if "betas" not in state:
        return found
    betas = state["betas"].read().astype(np.float64)
    rules = {"scaled_linear": 0.5, "linear": 1.0}
    for name, power in rules.items():
        row = np.linspace(betas[0] ** power, betas[-1] ** power, len(betas)) ** (1 / power)
        if np.allclose(row, betas, rtol=1e-4, atol=0):
            start, end = (float(f"{beta:.6g}") for beta in (betas[0], betas[-1]))
            return found | dict(name=name, start=start, end=end, times=len(betas))
    raise UserError(f"betas: of no known schedule; known: {', '.join(rules)}")


def shape(state: State, name: str) -> tuple[int, ...]:
    """That of a tensor. Raises UserError where it is not there."""
    if name not in state:
        raise UserError(f"lacks {name}")
    return state[name].shape
