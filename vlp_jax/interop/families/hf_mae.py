"""Hugging Face ViTMAEForPreTraining (modeling_vit_mae.py).

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf import HuggingFace, read_layers, read_vit, vit_layers, write_layers
from vlp_jax.interop.hf import write_vit as write_image
from vlp_jax.interop.mae import MaskedAutoencoder, check_fits, ends
from vlp_jax.interop.tensors import State

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
_DECODER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class HfMae(HuggingFace, MaskedAutoencoder):
    """Encoder and decoder, with their tables."""

    has = ("decoder.decoder_pred.weight",)
    ignored = ()
    title, model_type, processor = "ViTMAEForPreTraining", "vit_mae", "ViT"
    rules = (
        *ends(
            "vit.embeddings.",
            "decoder.",
            "vit.layernorm",
            "vit.embeddings.patch_embeddings.projection",
            ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"),
        ),
        *vit_layers("image", "vit.encoder.layer.{i}"),
        *vit_layers("decoder", "decoder.decoder_layers.{i}"),
    )

    def known_names(self, state: State) -> State:
        """Some versions of transformers write the decoder's layers as `decoder_encoder.layer`."""
        found, wanted = "decoder.decoder_encoder.layer.", "decoder.decoder_layers."
        return {name.replace(found, wanted): tensor for name, tensor in state.items()}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: an unknown activation, a projection without bias.
        """
        if not config:
            return {}
        c = filled(_DEFAULTS, config, where)
        inner = {key: c[f"decoder_{key}"] for key in _DECODER}
        encoder, decoder = read_vit(c, where), read_layers({**c, **inner}, where)
        if not c["qkv_bias"] or c["num_channels"] != 3:
            raise UserError(f"{where}: only qkv_bias=true and num_channels=3 are read")
        fixed = dict(pool="cls", pos_embed="sincos", pre_norm=False, conv_bias=True)
        return {
            "name": "mae",
            "image": encoder | fixed | {"weight_init": "mae"},
            "decoder": decoder | {"num_heads": inner["num_attention_heads"]},
            "mask_ratio": float(c["mask_ratio"]),
            "norm_pix": bool(c["norm_pix_loss"]),
        }

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """ViTMAEConfig.

        Raises:
          UserError: an encoder alone, and see interop/mae.py check_fits.
        """
        where = "--to=hf: ViTMAEForPreTraining"
        if not method.get("decoder"):
            raise UserError(f"{where} cannot be an encoder alone; --to=mae can")
        check_fits(method, where)
        image, decoder = method["image"], method["decoder"]
        inner = write_layers(decoder, decoder["num_heads"])
        return {
            **write_image(image),
            **{f"decoder_{key}": inner[key] for key in _DECODER},
            "qkv_bias": True,
            "num_channels": 3,
            "mask_ratio": method["mask_ratio"],
            "norm_pix_loss": method["norm_pix"],
        }


FAMILY = HfMae()
