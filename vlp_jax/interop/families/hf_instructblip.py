"""Hugging Face InstructBlipForConditionalGeneration (modeling_instructblip.py): BLIP-2's second
stage whose queries read the instruction too, by a tokenizer of their own.

The file exists to hold what is this family's alone: the rest is Blip2ForConditionalGeneration's.
"""

from typing import Any

from vlp_jax.interop.blocks import norm
from vlp_jax.interop.families.hf_blip2_lm import MOST, HfBlip2LM
from vlp_jax.interop.family import Config
from vlp_jax.interop.qformer import word_rules

_WORDS = "qformer.embeddings"


class HfInstructBlip(HfBlip2LM):
    """An eye, a Q-Former that reads, a linear map and a language model."""

    has = ("query_tokens", "language_projection.weight", f"{_WORDS}.layernorm.weight")
    title, model_type = "InstructBlipForConditionalGeneration", "instructblip"
    embed_rules = (*word_rules(_WORDS), *norm("qformer/norm_embed", f"{_WORDS}.layernorm"))
    parts = {"vision": "instructblip_vision_model", "qformer": "instructblip_qformer"}
    instructs = True
    folders = {"qformer": "qformer_tokenizer"}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """See HfBlip2LM."""
        found = super().method(config, where)
        if found:
            found |= {"instructed": True, "qformer": found["qformer"] | {"texts": "read"}}
        return found

    def lengths(self, room: int) -> dict[str, int]:
        """Half of the room each."""
        length = max(1, min(MOST, room // 2))
        return {"text_length": length, "prompt_length": length}


FAMILY = HfInstructBlip()
