"""Hugging Face BertModel (modeling_bert.py) alone, or under `bert.` beside heads, which are left;
also as sentence-transformers packs it, whose pooling is read.

The file exists to hold what is this family's alone.
"""

import json
import os
import re
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.bert import BERT_DEFAULTS, bert_rules, read_bert, write_bert
from vlp_jax.interop.config_values import filled, told_length
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import IGNORED, HuggingFace, left_out
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import read_json

_DEFAULTS = {**BERT_DEFAULTS, "position_embedding_type": "absolute", "is_decoder": False}
_POOLING = os.path.join("1_Pooling", "config.json")  # of sentence-transformers
_MODULES, _KNOWN = "modules.json", ("Transformer", "Pooling", "Normalize")
_ALL_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
_MODES = {"pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean"}
_MODES |= {"cls": "first", "mean": "mean"}  # as newer files say it, under `pooling_mode`


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
    rules = bert_rules()

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
        return {"name": "encoder", "text": read_bert(c, where)}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The pooler is there or not; heads are left; pooling as beside the weights."""
        method["text"]["pooler"] = "pooler.dense.weight" in state
        path, notes = os.path.join(beside.folder, _POOLING), left_out(self, state)
        if not beside.config or not os.path.isfile(path):
            return notes
        notes += _further(os.path.join(beside.folder, _MODULES))
        said = read_json(path)
        modes = [mode for mode, on in said.items() if on is True and "_mode_" in mode]
        modes = modes or [said[key] for key in ("pooling_mode",) if key in said]
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

    def is_bert(self, method: Config) -> bool:
        """A network of models/bert.py alone."""
        known = (method.get("text") or {}).get("name") == "bert"
        return method["name"] in self.methods and known

    def takes(self, method: Config) -> bool:
        """A BERT alone, but for one without token types, which is a DistilBERT."""
        return self.is_bert(method) and bool(method["text"].get("types", 2))

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """Texts go to the tokenizer as they are."""
        return {"clean": "none"}

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """config.json, and for a mean what sentence-transformers reads: its three modules."""
        found = super().configs(method, pictures, tokenizer)
        if method["text"]["pool"] != "mean":
            return found
        width = {"word_embedding_dimension": method["text"]["width"]}
        modes = {f"pooling_mode_{name}": name == "mean_tokens" for name in _ALL_MODES}
        return found | {_POOLING: width | modes}

    def files(self, method: Config) -> dict[str, bytes]:
        """The list of the modules, where there is a mean."""
        if method["text"]["pool"] != "mean":
            return {}
        kinds = zip(("", "1_Pooling", "2_Normalize"), _KNOWN, strict=True)
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ]
        return {_MODULES: json.dumps(modules, indent=2).encode()}

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """BertConfig."""
        return write_bert(method["text"])


def _further(path: str) -> list[str]:
    """A note where sentence-transformers would go on with modules that are not read."""
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as file:
        kinds = re.findall(r'"type":\s*"[\w.]*?(\w+)"', file.read())
    left = [kind for kind in kinds if kind not in _KNOWN]
    return [f"{path}: {', '.join(left)} left out; rows are what goes into it"] if left else []


FAMILY = Bert()
