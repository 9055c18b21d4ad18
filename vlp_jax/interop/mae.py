"""Name tables of masked autoencoders: Hugging Face `ViTMAEForPreTraining` and facebookresearch/mae.

Names as in transformers 5 (modeling_vit_mae.py) and models_mae.py. Both store the fixed position
tables, which are no parameters here: they are compared on the way in and written on the way out.
The file exists to hold these tables and what only config.json says.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.hf import ACTIVATIONS, mlp_ratio
from vlp_jax.interop.rules import Family, Rule
from vlp_jax.interop.tensors import State, Tensor

POSITIONS = {  # our path (of a parameter only where positions are learned) -> their names
    "image/pos_embed": ("vit.embeddings.position_embeddings", "pos_embed"),
    "decoder/pos_embed": ("decoder.decoder_pos_embed", "decoder_pos_embed"),
}


def _linear(ours: str, theirs: str, stacked: bool = False) -> tuple[Rule, ...]:
    layout = "l o i -> l i o" if stacked else "o i -> i o"
    return (
        Rule(f"{ours}/kernel", f"{theirs}.weight", layout),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def _norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias"))


def _blocks(ours: str, norms: tuple[str, str], out: str, mlp: tuple[str, str]) -> tuple[Rule, ...]:
    """Rules of a stack's norms, output projection and MLP, whose names the libraries spell alike
    but for the words.
    """
    return (
        *_norm(f"{ours}/norm1", norms[0]),
        *_norm(f"{ours}/norm2", norms[1]),
        Rule(f"{ours}/attn/out/kernel", f"{out}.weight", "l o (h k) -> l h k o"),
        Rule(f"{ours}/attn/out/bias", f"{out}.bias"),
        *_linear(f"{ours}/mlp/fc1", mlp[0], stacked=True),
        *_linear(f"{ours}/mlp/fc2", mlp[1], stacked=True),
    )


def _official_blocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    ours, theirs = f"{ours}/blocks", f"{theirs}.{{i}}"
    qkv = f"{theirs}.attn.qkv"
    norms, mlp = (f"{theirs}.norm1", f"{theirs}.norm2"), (f"{theirs}.mlp.fc1", f"{theirs}.mlp.fc2")
    return (
        Rule(f"{ours}/attn/qkv/kernel", f"{qkv}.weight", "l (three h k) i -> l i h three k"),
        Rule(f"{ours}/attn/qkv/bias", f"{qkv}.bias", "l (three h k) -> l h three k"),
        *_blocks(ours, norms, f"{theirs}.attn.proj", mlp),
    )


def _hf_blocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    ours, theirs = f"{ours}/blocks", f"{theirs}.{{i}}"
    heads = [f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value")]
    weights, biases = (tuple(f"{h}.{end}" for h in heads) for end in ("weight", "bias"))
    norms = (f"{theirs}.layernorm_before", f"{theirs}.layernorm_after")
    mlp = (f"{theirs}.intermediate.dense", f"{theirs}.output.dense")
    return (
        Rule(f"{ours}/attn/qkv/kernel", weights, "l three (h k) i -> l i h three k"),
        Rule(f"{ours}/attn/qkv/bias", biases, "l three (h k) -> l h three k"),
        *_blocks(ours, norms, f"{theirs}.attention.output.dense", mlp),
    )


def _ends(which: int, tower: str, decoder: str, norm: str, patches: str) -> tuple[Rule, ...]:
    """Rules of everything outside the blocks; `which`: the column of POSITIONS."""
    return (
        *(Rule(path, names[which], "1 n d -> n d") for path, names in POSITIONS.items()),
        Rule("image/cls_token", f"{tower}cls_token", "1 1 d -> d"),
        Rule("image/patch_embed/kernel", f"{patches}.weight", "d c p q -> p q c d"),
        Rule("image/patch_embed/bias", f"{patches}.bias"),
        *_norm("image/norm_post", norm),
        Rule("decoder/mask_token", f"{decoder}mask_token", "1 1 d -> d"),
        *_linear("decoder/embed", f"{decoder}decoder_embed"),
        *_norm("decoder/norm_post", f"{decoder}decoder_norm"),
        *_linear("decoder/pred", f"{decoder}decoder_pred"),
    )


HF_MAE = Family(
    "Hugging Face ViTMAEForPreTraining",
    (
        *_ends(
            0,
            "vit.embeddings.",
            "decoder.",
            "vit.layernorm",
            "vit.embeddings.patch_embeddings.projection",
        ),
        *_hf_blocks("image", "vit.encoder.layer"),
        *_hf_blocks("decoder", "decoder.decoder_layers"),
    ),
)
OFFICIAL_MAE = Family(
    "facebookresearch/mae",
    (
        *_ends(1, "", "", "norm", "patch_embed.proj"),
        *_official_blocks("image", "blocks"),
        *_official_blocks("decoder", "decoder_blocks"),
    ),
)


def known_names(state: State) -> State:
    """Some versions of transformers write the decoder's layers as `decoder_encoder.layer`."""
    found, wanted = "decoder.decoder_encoder.layer.", "decoder.decoder_layers."
    return {name.replace(found, wanted): tensor for name, tensor in state.items()}


def positions(state: State) -> dict[str, Tensor]:
    """The position tables of a checkpoint by our paths: [1, 1 + N, D], unread."""
    return {
        path: state[name] for path, names in POSITIONS.items() for name in names if name in state
    }


def method_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The method's fields {image, decoder, mask_ratio, norm_pix} that a config.json says.

    Raises:
      UserError: an unknown activation, a projection without bias, an encoder and a decoder of
        another MLP width than a multiple of theirs.
    """
    c = {**_DEFAULTS, **config}
    if c["hidden_act"] not in ACTIVATIONS:
        hint = nearest(str(c["hidden_act"]), ACTIVATIONS)
        raise UserError(f"{where}: hidden_act {c['hidden_act']!r} is not known{hint}")
    if not c["qkv_bias"] or c["num_channels"] != 3:
        raise UserError(f"{where}: only qkv_bias=true and num_channels=3 are read")
    shared = {"activation": ACTIVATIONS[c["hidden_act"]], "norm_eps": float(c["layer_norm_eps"])}
    image = {
        "image_size": c["image_size"],
        "patch_size": c["patch_size"],
        "width": c["hidden_size"],
        "num_layers": c["num_hidden_layers"],
        "head_width": c["hidden_size"] // c["num_attention_heads"],
        "mlp_ratio": mlp_ratio(c["hidden_size"], c["intermediate_size"]),
    }
    decoder = {
        "width": c["decoder_hidden_size"],
        "num_layers": c["decoder_num_hidden_layers"],
        "num_heads": c["decoder_num_attention_heads"],
        "mlp_ratio": mlp_ratio(c["decoder_hidden_size"], c["decoder_intermediate_size"]),
    }
    return {
        "image": image | shared,
        "decoder": decoder | shared,
        "mask_ratio": float(c["mask_ratio"]),
        "norm_pix": bool(c["norm_pix_loss"]),
    }


_DEFAULTS = {  # of ViTMAEConfig
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}


def check_fits(method: Any, where: str) -> None:
    """Raises UserError, which begins with `where`, for a MAE method that neither library can be:
    mean pooling without a class token, a norm before the blocks, patches without a bias, mask
    tokens in the encoder, an encoder and a decoder of different eps or activation.
    """
    image = method.image_tower
    decoder = image if method.decoder is None else method.decoder_net
    reasons = {
        "a tower without a class token": not image.has_cls,
        "a norm before the blocks": image.pre_norm,
        "a patch embedding without bias": not image.conv_bias,
        "mask tokens in the encoder": method.mask_token_in_encoder,
        "another norm_eps or activation in the decoder": (decoder.norm_eps, decoder.activation)
        != (image.norm_eps, image.activation),
    }
    for what, found in reasons.items():
        if found:
            raise UserError(f"{where} cannot be {what}")


def unsaid(method: Any, preprocessing: Mapping[str, Any]) -> str:
    """What facebookresearch/mae's files do not say and their loader has to know, in one line."""
    image = method.image_tower
    heads = f"num_heads={image.width // image.head_width}"
    if method.decoder is not None:
        heads += f", decoder_num_heads={method.decoder_net.num_heads}"
    pixels = f"mean={tuple(preprocessing['mean'])} and std={tuple(preprocessing['std'])}"
    return (
        f"the file holds weights alone; load it with {heads}, norms of eps={image.norm_eps:g},"
        f" activation {image.activation}, on pictures normalised by {pixels}"
    )


def model_config(method: Any) -> dict[str, Any]:
    """Writes config.json for a MAE method.

    Raises:
      UserError: an encoder alone, and see `check_fits`.
    """
    where = "--to=hf: ViTMAEForPreTraining"
    if method.decoder is None:
        raise UserError(f"{where} cannot be an encoder alone; --to=mae can")
    check_fits(method, where)
    image, decoder = method.image_tower, method.decoder_net
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_act": names[image.activation],
        "layer_norm_eps": image.norm_eps,
        "qkv_bias": True,
        "num_channels": 3,
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "hidden_size": image.width,
        "num_hidden_layers": image.num_layers,
        "num_attention_heads": image.width // image.head_width,
        "intermediate_size": int(image.width * image.mlp_ratio),
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.num_layers,
        "decoder_num_attention_heads": decoder.num_heads,
        "decoder_intermediate_size": int(decoder.width * decoder.mlp_ratio),
        "mask_ratio": method.mask_ratio,
        "norm_pix_loss": method.norm_pix,
    }
