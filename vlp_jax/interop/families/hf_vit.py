"""Hugging Face ViTModel (modeling_vit.py) alone, or with the head of a classifier, which is left.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import linear, norm, patches
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import HuggingFace, left_out, read_vit, vit_layers, write_vit
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

_DEFAULTS = {  # of ViTConfig
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "pooler_act": "tanh",
    "pooler_output_size": None,
}


class HfVit(HuggingFace):
    """A ViT with a class token, and its pooler where it is in the file."""

    has = (
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.attention.attention.query.weight",
    )
    lacks = ("decoder.decoder_pred.weight",)
    ignored = (r"classifier\..*", r"decoder\..*", r"embeddings\.mask_token")
    archs = "vit"
    release = preprocess.VIT
    methods = ("encoder",)
    untold = ("image.pos_embed", "image.pooler")
    title, model_type, processor = "ViTModel", "vit", "ViT"
    rules = (
        Rule("image/cls_token", "embeddings.cls_token", "1 1 d -> d"),
        Rule("image/pos_embed", "embeddings.position_embeddings", "1 n d -> n d"),
        *patches("image/patch_embed", "embeddings.patch_embeddings.projection"),
        *vit_layers("image", "encoder.layer.{i}"),
        *norm("image/norm_post", "layernorm"),
        *linear("image/pooler/dense", "pooler.dense"),
    )

    def known_names(self, state: State) -> State:
        """Classes with a head put the network under `vit.`."""
        return {name.removeprefix("vit."): tensor for name, tensor in state.items()}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: an unknown activation, a projection without bias, another pooler.
        """
        if not config:
            return {}
        c = filled(_DEFAULTS, config, where)
        if not c["qkv_bias"] or c["num_channels"] != 3:
            raise UserError(f"{where}: only qkv_bias=true and num_channels=3 are read")
        if c["pooler_act"] != "tanh" or c["pooler_output_size"] not in (None, c["hidden_size"]):
            raise UserError(f"{where}: only pooler_act='tanh' of the hidden size is read")
        fixed = dict(pool="cls", pos_embed="learned", pre_norm=False, conv_bias=True)
        return {"name": "encoder", "image": read_vit(c, where) | fixed | {"weight_init": "mae"}}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The pooler is there or not; heads are left."""
        method["image"]["pooler"] = "pooler.dense.weight" in state
        return left_out(self, state)

    def takes(self, method: Config) -> bool:
        """A ViT alone."""
        return super().takes(method) and (method.get("image") or {}).get("name") == "vit"

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """ViTConfig."""
        return {**write_vit(method["image"]), "qkv_bias": True, "num_channels": 3}


FAMILY = HfVit()
