"""Hugging Face AlignModel (modeling_align.py): an EfficientNet without its last convolution, a BERT
whose first token is projected, a temperature that divides.

The file exists to hold what is this family's alone.
"""

import os
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.bert import BERT_DEFAULTS, bert_rules, read_bert, write_bert
from vlp_jax.interop.blocks import linear
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.efficientnet import (
    COUNTED,
    DEFAULTS,
    hf_names,
    pooled_width,
    read_efficientnet,
    write_efficientnet,
)
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import IGNORED, HuggingFace
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import read_json

_IMAGE = hf_names("vision_model.")
_TOKENS = 64  # of AlignProcessor


class HfAlign(HuggingFace):
    """A dual encoder of an EfficientNet and a BERT."""

    has = ("vision_model.embeddings.convolution.weight", "text_projection.weight", "temperature")
    ignored = (*IGNORED, COUNTED)
    archs = "align"
    release = preprocess.ALIGN
    methods = ("align",)
    untold = ("text.pooler",)
    title, model_type, processor = "AlignModel", "align", "EfficientNet"
    rules = (
        *_IMAGE.rules(),
        *bert_rules("text_model."),
        *linear("text/head", "text_projection"),
        Rule("temperature", "temperature"),
    )

    def table(self, names: Any) -> Table:
        """The rules of the class, and its counters."""
        del names
        return Table(f"Hugging Face {self.title}", self.rules, self.ignored, _IMAGE.counters())

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: see interop/efficientnet.py and interop/hf.py; a pooled map of another width
            than the projection's.
        """
        if not config:
            return {}
        sides = ("vision_config", DEFAULTS), ("text_config", BERT_DEFAULTS)
        vision, words = (filled(usual, config.get(k) or {}, f"{where}: {k}") for k, usual in sides)
        image, embed_dim = read_efficientnet(vision, 0, where), config.get("projection_dim", 640)
        if embed_dim != pooled_width(vision):
            what = f"projection_dim {embed_dim} is not the {pooled_width(vision)} channels"
            raise UserError(
                f"{where}: {what} of vision_config's last stage, which are not projected"
            )
        text = read_bert(words, where) | {"pool": "first"}
        return {"name": "align", "embed_dim": embed_dim, "image": image, "text": text}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The pooler, which nothing uses, is there or not."""
        method["text"]["pooler"] = "text_model.pooler.dense.weight" in state
        return []

    def text_length(self, beside: Beside, positions: int) -> int:
        """64, or as the tokenizer beside it says."""
        path = os.path.join(beside.folder, "tokenizer_config.json")
        said = read_json(path).get("model_max_length") if os.path.isfile(path) else None
        return int(min(positions, said or _TOKENS))

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """AlignConfig.

        Raises:
          UserError: other towers, a picture's vector that is projected.
        """
        image, text = method["image"], method["text"]
        if (image["name"], text["name"]) != ("efficientnet", "bert"):
            raise UserError("--to=hf: AlignModel is an EfficientNet and a BERT")
        width = method["embed_dim"]
        return {
            "vision_config": {
                "model_type": "align_vision_model",
                **write_efficientnet(image, width),
            },
            "text_config": {"model_type": "align_text_model", **write_bert(text)},
            "projection_dim": width,
        }


FAMILY = HfAlign()
