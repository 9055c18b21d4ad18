"""Hugging Face CLIPModel (modeling_clip.py); there is no ResNet CLIP in transformers.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.clip_text import check_end
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import HuggingFace, clip_towers, read_towers, write_towers
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

_DEFAULTS = {  # of CLIPVisionConfig and CLIPTextConfig, transformers 5.24
    "vision": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                   num_attention_heads=12, image_size=224, patch_size=32, num_channels=3,
                   hidden_act="quick_gelu", layer_norm_eps=1e-5),
    "text": dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12,
                 num_attention_heads=8, vocab_size=49408, max_position_embeddings=77,
                 eos_token_id=49407, hidden_act="quick_gelu", layer_norm_eps=1e-5),
}  # fmt: skip
_FIXED = {  # what CLIPModel is, whatever its config says
    "image": dict(pool="cls", pos_embed="learned", pre_norm=True, conv_bias=False, head_bias=False),
    "text": dict(pool="argmax", causal=True, head_bias=False),
}


class HfClip(HuggingFace):
    """A dual encoder that pools where the largest id is."""

    has = ("vision_model.embeddings.patch_embedding.weight",)
    lacks = ("vision_model.head.probe", "vision_model.encoder.layers.0.self_attn.qkv.weight")
    archs = "clip"
    release = preprocess.HF_CLIP
    methods = ("clip", "siglip")
    title, model_type, processor = "CLIPModel", "clip", "CLIP"
    rules = (
        *clip_towers(),
        Rule("image/head/kernel", "visual_projection.weight", "o i -> i o"),
        Rule("text/head/kernel", "text_projection.weight", "o i -> i o"),
        Rule("logit_scale", "logit_scale"),
    )

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: an end token that is not the largest id; see hf.py read_towers.
        """
        if not config:
            return {}
        image, words, text = read_towers(config, _DEFAULTS, _FIXED, where)
        check_end(text, where)
        embed_dim = filled({"projection_dim": 512}, config, where)["projection_dim"]
        return {"name": "clip", "embed_dim": embed_dim, "image": image, "text": words}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Says whose activation is taken where there is no config."""
        activation = method["image"].get("activation")
        note = f"no config.json beside the weights; activation {activation!r} is the name's"
        return [] if beside.config else [note]

    def takes(self, method: Config) -> bool:
        """All but what looks like a SiglipModel."""
        return super().takes(method) and method["image"].get("pool") != "map"

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """CLIPConfig.

        Raises:
          UserError: a bias of the logits; an image tower without a class in transformers.
        """
        if method["name"] == "siglip":
            raise UserError("--to=hf: CLIPModel cannot be method.name='siglip' with a logit_bias")
        vision, words = write_towers(method, "clip")
        end = words["vocab_size"] - 1
        own = tokenizer["end"] if tokenizer else end
        # Any id but the last makes CLIPModel look for that id; 2 makes it take the largest.
        words |= {"eos_token_id": end if own == end else 2, "bos_token_id": end - 1}
        last = {"projection_dim": method["embed_dim"]}  # CLIPTextModelWithProjection reads text's
        words |= {"pad_token_id": 0}
        return {"vision_config": vision | last, "text_config": words | last, **last}


FAMILY = HfClip()
