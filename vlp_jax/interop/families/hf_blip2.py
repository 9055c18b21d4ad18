"""Hugging Face Blip2ForImageTextRetrieval (modeling_blip_2.py): the first stage of BLIP-2 without
its head of words.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import linear
from vlp_jax.interop.config_values import class_of, filled
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import HuggingFace, write_vit
from vlp_jax.interop.qformer import (
    EMBED_RULES,
    EYE_RULES,
    IMAGE,
    cross_every,
    layer_rules,
    read_eye,
    read_qformer,
    unread_width,
    word_rules,
    write_qformer,
)
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State

_END = 102  # [SEP] of bert-base-uncased, which the config does not say
RULES = (
    *EYE_RULES,
    *EMBED_RULES,
    *word_rules("embeddings"),
    *linear("image_proj/out", "vision_projection"),
    *linear("text_proj/out", "text_projection"),
    *linear("itm/out", "itm_head"),
)


class HfBlip2(HuggingFace):
    """A frozen eye, the Q-Former, and the heads that contrast and match."""

    has = ("query_tokens", "itm_head.weight", "vision_model.embeddings.class_embedding")
    archs = "blip2"
    release = preprocess.BLIP
    methods = ("blip2",)
    compared = (*HuggingFace.compared, "image_norm_eps", "embed_dim")
    untold = (*HuggingFace.untold, "qformer.texts")
    title, model_type, processor = "Blip2ForImageTextRetrieval", "blip-2", "Blip"

    def table(self, names: Any) -> Table:
        """The names of a file or of ours, which say every which layer looks at the picture."""
        layers = layer_rules("qformer.encoder.layer.{i}", "attention", cross_every(names))
        unsaid = {"temperature": 0.07}  # the reference's first value
        title = f"Hugging Face {self.title}"
        return Table(title, (*RULES, *layers), self.ignored, unsaid=unsaid)

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: another class, a picture's attention without biases, a Q-Former without texts,
            an unknown activation.
        """
        if not config:
            return {}
        class_of(config, (self.title,), where)
        vision = read_eye(config, where)
        net, words = read_qformer(config.get("qformer_config"), f"{where}: qformer_config")
        if not words["use_qformer_text_input"]:
            raise UserError(f"{where}: only use_qformer_text_input=true is read")
        sizes = {"image_text_hidden_size": 256, "num_query_tokens": 32}
        sizes = filled(sizes, config, where)
        net |= {"texts": "read", "num_queries": sizes["num_query_tokens"]}
        return {
            "name": "blip2",
            "losses": ("itc", "itm"),
            "embed_dim": sizes["image_text_hidden_size"],
            "image": vision | IMAGE,
            "image_norm_eps": vision["norm_eps"],
            "qformer": net,
            "end_id": _END if net["vocab_size"] > _END else -1,
            "text_length": min(32, net["context_length"]),
        }

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Tells what the file does not hold."""
        notes = ["the file holds no temperature; 0.07 is taken"]
        return [*notes, *unread_width(beside.config)]

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """Blip2Config.

        Raises:
          UserError: a head of words, or no head that matches; an image tower of another kind.
        """
        image, net = method["image"], method["qformer"]
        if "itg" in method["losses"] or "itm" not in method["losses"]:
            what = f"{self.title} is losses=('itc', 'itm')"
            raise UserError(f"--to=hf: {what}; this model has losses={tuple(method['losses'])}")
        if image["name"] != "vit" or image["pre_norm"] or not image["conv_bias"]:
            raise UserError("--to=hf: transformers has no BLIP-2 without EVA-CLIP's ViT")
        return {
            "vision_config": {"model_type": "blip_2_vision_model", **write_vit(image)},
            "qformer_config": write_qformer(net, image["width"]),
            "num_query_tokens": net["num_queries"],
            "image_text_hidden_size": method["embed_dim"],
        }


FAMILY = HfBlip2()
