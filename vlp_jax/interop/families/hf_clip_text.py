"""Hugging Face CLIPTextModel and CLIPTextModelWithProjection (modeling_clip.py): the text tower of
CLIP without its pictures, as Stable Diffusion's pipelines hold it.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.interop.clip_text import (
    PLAIN,
    clip_text_rules,
    read_clip_text,
    whole_names,
    write_clip_text,
)
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf import HuggingFace
from vlp_jax.interop.tensors import State


class HfClipText(HuggingFace):
    """A text tower, with its projection where it is in the file."""

    has = ("text_model.embeddings.token_embedding.weight",)
    lacks = ("vision_model.embeddings.patch_embedding.weight", "text_model.head.weight")
    archs = "clip"
    methods = ("encoder",)
    title, model_type = PLAIN, "clip_text_model"
    rules = clip_text_rules("text")

    def known_names(self, state: State) -> State:
        """transformers 5 leaves `text_model.` out."""
        return whole_names(state)

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config. Raises UserError as `read_clip_text`."""
        return {"name": "encoder", "text": read_clip_text(config, where)} if config else {}

    def takes(self, method: Config) -> bool:
        """A causal transformer alone."""
        return super().takes(method) and (method.get("text") or {}).get("name") == "text"

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """CLIPTextConfig of the class that has these parts."""
        del pictures, tokenizer
        return {self.config_name: write_clip_text(method["text"])}


FAMILY = HfClipText()
