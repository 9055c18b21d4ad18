"""A BERT's names and config in transformers, alone or as the text tower of a larger model.

The file exists because several families hold one under different prefixes.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.interop.blocks import linear, norm
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf import bert_layers, read_layers, write_layers
from vlp_jax.interop.rules import Rule

BERT_DEFAULTS: Mapping[str, Any] = {  # of BertConfig, and of AlignTextConfig
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}


def bert_rules(prefix: str = "") -> tuple[Rule, ...]:
    """The part `text` as a BERT whose names begin with `prefix`."""
    words = f"{prefix}embeddings"
    return (
        Rule("text/token_embed/embedding", f"{words}.word_embeddings.weight"),
        Rule("text/pos_embed", f"{words}.position_embeddings.weight"),
        Rule("text/type_embed/embedding", f"{words}.token_type_embeddings.weight"),
        *norm("text/norm_embed", f"{words}.LayerNorm"),
        *bert_layers("text", f"{prefix}encoder.layer.{{i}}"),
        *linear("text/pooler/dense", f"{prefix}pooler.dense"),
    )


def read_bert(config: Config, where: str) -> dict[str, Any]:
    """The tower of a config that is filled up. Raises UserError as `read_layers`."""
    return {
        "name": "bert",
        **read_layers(config, where),
        "vocab_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
        "num_heads": config["num_attention_heads"],
        "types": config["type_vocab_size"],
    }


def write_bert(text: Config) -> dict[str, Any]:
    """The inverse of `read_bert`."""
    return write_layers(text, text["num_heads"]) | {
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
        "type_vocab_size": text["types"],
        "pad_token_id": 0,
    }
