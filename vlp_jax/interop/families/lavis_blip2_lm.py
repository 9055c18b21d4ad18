"""salesforce/LAVIS's second stage of BLIP-2, and InstructBLIP (blip2_opt.py, blip2_t5.py,
blip2_vicuna_instruct.py, blip2_t5_instruct.py): files of what learned. Beside one lie the frozen
eye (lavis_blip2.py), and the frozen language model as transformers saves it, a folder `lm`; of an
InstructBLIP the BERT's tokenizer, a folder `qformer_tokenizer`.

The file exists to hold what is this family's alone: names of three linear maps, sizes that no
config says.
"""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.blocks import linear
from vlp_jax.interop.families.hf_blip2_lm import (
    LMS,
    MOST,
    check_ends,
    lm_family,
    lm_of,
    prefixed,
    words_of,
)
from vlp_jax.interop.families.lavis_blip2 import (
    CLIP,
    IGNORED,
    QFORMER_RULES,
    LavisBlip2,
    clip_sizes,
    eye_of,
    eye_rules,
    side,
)
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.qformer import IMAGE, cross_every, layer_rules, read_eye, read_qformer
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import read_json

_LM, _FOLDER = "lm_model.", "lm"
_MAPS = re.compile(r"(opt|t5|llm)_(proj|model)\.")  # what stands before either's names
_LINE = 50118  # OPT's "\n", which ends its texts
_WORDS = "Qformer.bert.embeddings.word_embeddings.weight"
_BERT = "Qformer.bert.encoder.layer.{i}"


class LavisBlip2LM(LavisBlip2):
    """Files whose `model` holds query_tokens, a Qformer and a map into a language model."""

    has = ("query_tokens", "Qformer.bert.encoder.layer.0.attention.self.query.weight",
           "lm_proj.weight")  # fmt: skip
    methods = ("blip2_lm",)
    one_tokenizer = False
    config_name = f"{_FOLDER}/config.json"
    folders = {"text": _FOLDER, "qformer": "qformer_tokenizer"}

    def table(self, names: Any) -> Table:
        """Those of the language model follow what is beside the file."""
        own = lm_of(names, _LM)
        layers = layer_rules(_BERT, "self", cross_every(names))
        rules = (*eye_rules(names), *QFORMER_RULES, *linear("proj/out", "lm_proj"))
        ignored = (*IGNORED, *(rf"lm_model\.{name}" for name in own.ignored))
        return Table("salesforce/LAVIS", (*rules, *layers, *prefixed(own, _LM)), ignored)

    def known_names(self, state: State) -> State:
        """Whatever the language model is."""
        renamed = {_MAPS.sub(r"lm_\2.", name, count=1): tensor for name, tensor in state.items()}
        return super().known_names(renamed)

    def further(self, state: State, folder: str, read: Callable[[str], State]) -> State:
        """The eye and the language model.

        Raises:
          UserError: either is not there.
        """
        found, config = super().further(state, folder, read), os.path.join(folder, self.config_name)
        if not os.path.isfile(config):
            what = "holds no frozen language model; put its folder of transformers beside the file"
            raise UserError(f"{folder}: {what} as {_FOLDER}")
        kind, lm = read_json(config).get("model_type"), read(os.path.dirname(config))
        lm = lm_family(kind).known_names(lm) if kind in LMS else lm
        return {**found, **{_LM + name: tensor for name, tensor in lm.items()}}

    def held(self, state: State, beside: Beside) -> State:
        """Without a head of words that the words' table is once more."""
        some, own = self._alone(beside), lm_of(state, _LM)
        lm = {n.removeprefix(_LM): t for n, t in state.items() if n.startswith(_LM)}
        kept = own.held(lm, some)
        return {n: t for n, t in state.items() if not n.startswith(_LM)} | {
            _LM + name: tensor for name, tensor in kept.items()
        }

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """The language model of its config beside the published eye and Q-Former; {} without one.

        Raises:
          UserError: another language model, or what its own family refuses.
        """
        if not config:
            return {}
        kind = config.get("model_type", "")
        if kind not in LMS:
            raise UserError(f"{where}: model_type {kind!r} is not read{nearest(kind, LMS)}")
        text = lm_family(kind).method(config, where)
        lm, ends = text["lm"], _ends(text, kind)
        if kind == "t5":
            lm = lm | {"activation": "gelu"}  # exact, whatever its config says
        return {
            "name": "blip2_lm",
            "image": read_eye({}, where) | IMAGE,
            "image_norm_eps": 1e-5,
            "qformer": read_qformer({}, where)[0] | {"texts": "none"},
            "lm": lm,
            "end_ids": ends,
            "start_id": text["start_id"],
            "text_length": max(1, min(MOST, lm["context_length"] - 32)),
        }

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """What the tensors say: the pictures' size, queries, words that these read. Raises
        UserError where nothing says what ends texts."""
        if eye_of(state) == CLIP:
            method["image"] |= clip_sizes(state)
        image = method["image"]
        image["image_size"] = side(state) * image["patch_size"]
        net, ends = method["qformer"], method["end_ids"]
        net["num_queries"] = state["query_tokens"].shape[-2]
        if _WORDS in state:
            net |= {"texts": "read", "vocab_size": state[_WORDS].shape[0]}
            length = max(1, min(MOST, (method["lm"]["context_length"] - net["num_queries"]) // 2))
            method |= {"instructed": True, "text_length": length, "prompt_length": length}
        lm = {n.removeprefix(_LM): t for n, t in state.items() if n.startswith(_LM)}
        notes = lm_of(state, _LM).complete(method, lm, self._alone(beside))
        if ends == (_LINE,):
            method["end_ids"] = ends
        check_ends(method, beside.file)
        return notes

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """A language model reads every space and line as it is; see `words_of`."""
        path = os.path.join(beside.folder, "config.json")  # that of `folders` is its tokenizer's
        config = read_json(path) if os.path.isfile(path) else {}
        kind = config.get("model_type")
        ends = _ends(lm_family(kind).method(config, path), kind) if kind in LMS else ()
        return words_of(kind, file, ends)

    def _alone(self, beside: Beside) -> Beside:
        """What lies beside the language model."""
        return dataclasses.replace(beside, folder=os.path.join(beside.folder, _FOLDER))


def _ends(text: Config, kind: str) -> tuple[int, ...]:
    """What ends texts of a language model of this model_type, whose own family says `text`."""
    line = kind == "opt" and text["lm"]["vocab_size"] > _LINE
    return (_LINE,) if line else text["end_ids"]


FAMILY = LavisBlip2LM()
