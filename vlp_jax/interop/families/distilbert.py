"""Hugging Face DistilBertModel (modeling_distilbert.py) alone, or under `distilbert.` beside heads,
which are left: a BERT without token types and pooler, in words of its own.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.blocks import blocks, norm, split
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.families.bert import Bert
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import IGNORED, read_layers, write_layers
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

_DEFAULTS = {  # of DistilBertConfig
    "vocab_size": 30522,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "activation": "gelu",
    "max_position_embeddings": 512,
}
_NAMES = {  # theirs -> as BertConfig calls it
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}
_LAYER = "transformer.layer.{i}"


class DistilBert(Bert):
    """A DistilBERT."""

    has = (
        "embeddings.word_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "transformer.layer.0.attention.q_lin.weight",
    )
    ignored = (*IGNORED, r"vocab_\w+\..*", r"(pre_)?classifier\..*", r"qa_outputs\..*")
    archs = "distilbert"
    title, model_type = "DistilBertModel", "distilbert"
    rules = (
        Rule("text/token_embed/embedding", "embeddings.word_embeddings.weight"),
        Rule("text/pos_embed", "embeddings.position_embeddings.weight"),
        *norm("text/norm_embed", "embeddings.LayerNorm"),
        *blocks(
            "text",
            _LAYER,
            split("attention.{}_lin", ("q", "k", "v")),
            "attention.out_lin",
            ("sa_layer_norm", "output_layer_norm"),
            ("ffn.lin1", "ffn.lin2"),
        ),
    )

    def known_names(self, state: State) -> State:
        """Classes with a head put the network under `distilbert.`."""
        return {name.removeprefix("distilbert."): tensor for name, tensor in state.items()}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: an unknown activation.
        """
        if not config:
            return {}
        c = filled(_DEFAULTS, config, where)
        known = {_NAMES.get(key, key): value for key, value in c.items()} | {
            "layer_norm_eps": 1e-12
        }
        sizes = {
            "vocab_size": c["vocab_size"],
            "context_length": c["max_position_embeddings"],
            "num_heads": c["n_heads"],
            "types": 0,
            "pooler": False,
        }
        return {"name": "encoder", "text": {"name": "bert", **read_layers(known, where), **sizes}}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Heads are left; pooling as beside the weights."""
        notes = super().complete(method, state, beside)
        method["text"]["pooler"] = False
        return notes

    def takes(self, method: Config) -> bool:
        """A BERT alone, without token types and pooler."""
        return self.is_bert(method) and not method["text"].get("types", 2)

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """DistilBertConfig.

        Raises:
          UserError: norms of another epsilon, which its class has written into it.
        """
        text = method["text"]
        if text["norm_eps"] != 1e-12 or text["pooler"]:
            what = f"norm_eps={text['norm_eps']:g}, pooler={text['pooler']}"
            raise UserError(f"--to=hf: DistilBertModel cannot be method.text.{what}")
        said = write_layers(text, text["num_heads"])
        return {theirs: said[ours] for theirs, ours in _NAMES.items()} | {
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "sinusoidal_pos_embds": False,
            "pad_token_id": 0,
        }


FAMILY = DistilBert()
