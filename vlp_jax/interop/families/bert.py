"""Hugging Face BertModel (modeling_bert.py) alone, or under `bert.` beside heads, which are left;
also as sentence-transformers packs it, whose pooling is read.

The file exists to hold what is this family's alone.
"""

import os
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.blocks import linear, norm
from vlp_jax.interop.config_values import filled, told_length
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import (
    IGNORED,
    HuggingFace,
    bert_layers,
    left_out,
    read_layers,
    write_layers,
)
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import read_json

_DEFAULTS = {  # of BertConfig
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "position_embedding_type": "absolute",
    "is_decoder": False,
}
_POOLING = os.path.join("1_Pooling", "config.json")  # of sentence-transformers
_MODES = {"pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean"}


class Bert(HuggingFace):
    """A BERT, with its pooler where it is in the file."""

    has = (
        "embeddings.word_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "encoder.layer.0.attention.self.query.weight",
    )
    ignored = (*IGNORED, r"cls\..*", r"classifier\..*", r"qa_outputs\..*")
    archs = "bert"
    methods = ("encoder",)
    untold = ("text.pool", "text.pooler")
    title, model_type = "BertModel", "bert"
    rules = (
        Rule("text/token_embed/embedding", "embeddings.word_embeddings.weight"),
        Rule("text/pos_embed", "embeddings.position_embeddings.weight"),
        Rule("text/type_embed/embedding", "embeddings.token_type_embeddings.weight"),
        *norm("text/norm_embed", "embeddings.LayerNorm"),
        *bert_layers("text", "encoder.layer.{i}"),
        *linear("text/pooler/dense", "pooler.dense"),
    )

    def known_names(self, state: State) -> State:
        """Classes with a head put the network under `bert.`, and files that come from TensorFlow
        call a norm's scale and bias gamma and beta."""

        def known(name: str) -> str:
            name = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
            return name.replace("LayerNorm.beta", "LayerNorm.bias")

        return {known(name): tensor for name, tensor in state.items()}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: an unknown activation, other positions, a decoder.
        """
        if not config:
            return {}
        c = filled(_DEFAULTS, config, where)
        if c["position_embedding_type"] != "absolute" or c["is_decoder"]:
            what = "position_embedding_type='absolute' and is_decoder=false"
            raise UserError(f"{where}: only {what} are read")
        sizes = {
            "vocab_size": c["vocab_size"],
            "context_length": c["max_position_embeddings"],
            "num_heads": c["num_attention_heads"],
            "types": c["type_vocab_size"],
        }
        return {"name": "encoder", "text": {"name": "bert", **read_layers(c, where), **sizes}}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The pooler is there or not; heads are left; pooling as beside the weights."""
        method["text"]["pooler"] = "pooler.dense.weight" in state
        path, notes = os.path.join(beside.folder, _POOLING), left_out(self, state)
        if not beside.config or not os.path.isfile(path):
            return notes
        modes = [mode for mode, on in read_json(path).items() if on is True and "_mode_" in mode]
        if len(modes) == 1 and modes[0] in _MODES:
            method["text"]["pool"] = _MODES[modes[0]]
            return notes
        return [*notes, f"{path}: {modes} is not known; texts are the state of [CLS]"]

    def text_length(self, beside: Beside, positions: int) -> int:
        """As the files say, where that is less."""
        said = [positions]
        for name, key in (
            ("sentence_bert_config.json", "max_seq_length"),
            ("tokenizer_config.json", "model_max_length"),
        ):
            path = os.path.join(beside.folder, name)
            if beside.config and os.path.isfile(path):
                said.append(told_length(path, key, positions))
        return min(said)

    def takes(self, method: Config) -> bool:
        """A BERT alone."""
        return super().takes(method) and (method.get("text") or {}).get("name") == "bert"

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """BertConfig.

        Raises:
          UserError: a BERT without token types.
        """
        text = method["text"]
        if not text["types"]:
            raise UserError("--to=hf: BertModel cannot be method.text.types=0")
        return write_layers(text, text["num_heads"]) | {
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "type_vocab_size": text["types"],
            "pad_token_id": 0,
        }


FAMILY = Bert()
