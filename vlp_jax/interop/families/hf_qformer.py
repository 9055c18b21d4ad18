"""Hugging Face Blip2QFormerModel alone (modeling_blip_2.py): a Q-Former whose queries, and texts
where it has any, come embedded.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.interop.blocks import norm
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf import HuggingFace
from vlp_jax.interop.qformer import cross_every, layer_rules, read_qformer, write_qformer
from vlp_jax.interop.rules import Table


class HfQFormer(HuggingFace):
    """A network of models/qformer.py alone."""

    has = ("layernorm.weight", "encoder.layer.0.crossattention.attention.query.weight")
    archs = "qformer"
    methods = ("qformer",)
    compared = ("context_width",)
    untold = ("qformer.num_queries",)
    title, model_type = "Blip2QFormerModel", "blip_2_qformer"

    def table(self, names: Any) -> Table:
        """The names of a file or of ours, which say every which layer looks at the picture."""
        layers = layer_rules("encoder.layer.{i}", "attention", cross_every(names))
        rules = (*norm("qformer/norm_embed", "layernorm"), *layers)
        return Table(f"Hugging Face {self.title}", rules, self.ignored)

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config. Raises UserError as `read_qformer`."""
        if not config:
            return {}
        net, c = read_qformer(config, where)
        net["texts"] = "states" if c["use_qformer_text_input"] else "none"
        return {"name": "qformer", "qformer": net, "context_width": c["encoder_hidden_size"]}

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """Blip2QFormerConfig."""
        return write_qformer(method["qformer"], method["context_width"])


FAMILY = HfQFormer()
