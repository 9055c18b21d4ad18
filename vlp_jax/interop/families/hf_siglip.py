"""Hugging Face SiglipModel (modeling_siglip.py).

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import linear, norm
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import HuggingFace, clip_towers, read_towers, write_towers
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.siglip import tokenizer_options
from vlp_jax.interop.tensors import State

_LAYERS = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
               num_attention_heads=12, hidden_act="gelu_pytorch_tanh",
               layer_norm_eps=1e-6)  # fmt: skip
_DEFAULTS = {  # of SiglipVisionConfig and SiglipTextConfig
    "vision": dict(_LAYERS, image_size=224, patch_size=16, num_channels=3, vision_use_head=True),
    "text": dict(_LAYERS, vocab_size=32000, max_position_embeddings=64, projection_size=None),
}
_FIXED = {  # what SiglipModel is, whatever its config says
    "image": dict(pool="map", pos_embed="learned", pre_norm=False, conv_bias=True, project=False),
    "text": dict(pool="last", causal=False, head_bias=True),
}
_HEAD = "vision_model.head"
_FUSED = f"{_HEAD}.attention.in_proj"
_QUERY, _BOTH = (0, 1, 3), (1, 3, 3)  # shares of a fused query, key and value
_POOL = (
    Rule("image/pool/probe", f"{_HEAD}.probe", "1 1 d -> d"),
    Rule("image/pool/attn/query/kernel", f"{_FUSED}_weight", "(h k) i -> i h k", _QUERY),
    Rule("image/pool/attn/query/bias", f"{_FUSED}_bias", "(h k) -> h k", _QUERY),
    Rule("image/pool/attn/key_value/kernel", f"{_FUSED}_weight", "(two h k) i -> i h two k", _BOTH),
    Rule("image/pool/attn/key_value/bias", f"{_FUSED}_bias", "(two h k) -> h two k", _BOTH),
    Rule("image/pool/attn/out/kernel", f"{_HEAD}.attention.out_proj.weight", "o (h k) -> h k o"),
    Rule("image/pool/attn/out/bias", f"{_HEAD}.attention.out_proj.bias"),
    *norm("image/pool/norm", f"{_HEAD}.layernorm"),
    *linear("image/pool/mlp/fc1", f"{_HEAD}.mlp.fc1"),
    *linear("image/pool/mlp/fc2", f"{_HEAD}.mlp.fc2"),
)


class HfSiglip(HuggingFace):
    """A dual encoder with attention pooling and a bias of the logits."""

    has = ("vision_model.head.probe",)
    archs = "clip"
    release = preprocess.SIGLIP
    methods = ("siglip", "clip")
    sees_padding = True
    title, model_type, processor = "SiglipModel", "siglip", "Siglip"
    rules = (
        *clip_towers(),
        *_POOL,
        *linear("text/head", "text_model.head"),
        Rule("logit_scale", "logit_scale", "1 ->"),
        Rule("logit_bias", "logit_bias", "1 ->"),
    )

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config. Raises UserError: see hf.py
        read_towers."""
        if not config:
            return {}
        image, words, text = read_towers(config, _DEFAULTS, _FIXED, where)
        embed_dim = int(text["projection_size"] or text["hidden_size"])
        return {"name": "siglip", "embed_dim": embed_dim, "image": image, "text": words}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Says whose activation is taken where there is no config."""
        activation = method["image"].get("activation")
        note = f"no config.json beside the weights; activation {activation!r} is the name's"
        return [] if beside.config else [note]

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """As the release does."""
        return tokenizer_options(None, file, vocab_size)

    def takes(self, method: Config) -> bool:
        """Image towers with attention pooling."""
        return super().takes(method) and method["image"].get("pool") == "map"

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """SiglipConfig. Raises UserError where there is no bias of the logits."""
        if method["name"] != "siglip":
            name = method["name"]
            raise UserError(
                f"--to=hf: SiglipModel cannot be method.name={name!r} with no logit_bias"
            )
        vision, words = write_towers(method, "siglip")
        words["projection_size"] = method["embed_dim"]
        return {"vision_config": vision, "text_config": words}


FAMILY = HfSiglip()
