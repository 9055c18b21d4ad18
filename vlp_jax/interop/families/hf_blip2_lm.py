"""Hugging Face Blip2ForConditionalGeneration (modeling_blip_2.py): BLIP-2's second stage, an eye
and a Q-Former without texts in front of an OPT, a LLaMA or a T5.

The file exists to hold what is this family's alone; a language model's names are its own family's.
"""

import dataclasses
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import linear
from vlp_jax.interop.config_values import class_of, filled
from vlp_jax.interop.family import Beside, Config, families
from vlp_jax.interop.hf import HuggingFace, write_vit
from vlp_jax.interop.hf_lm import HEAD
from vlp_jax.interop.qformer import (
    EMBED_RULES,
    EYE_RULES,
    IMAGE,
    cross_every,
    layer_rules,
    read_eye,
    read_qformer,
    unread_width,
    write_qformer,
)
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State

LMS = ("opt", "llama", "t5")  # model_types, and names of their families behind hf_
MOST = 128  # tokens of a prompt or a text, as LAVIS trains
_LM = "language_model."
_PROCESSOR = "processor_config.json"


def words_of(kind: str | None, file: str, ends: tuple[int, ...]) -> dict[str, Any]:
    """How a language model, by its model_type, reads texts: a SentencePiece model does not say that
    a decoder's begin with its start, and no file that OPT's end with a line here."""
    if file.endswith(".model"):
        return {"clean": "none"} | ({} if kind == "t5" else {"start": True})
    return {"clean": "none"} | ({"end_id": ends[0]} if file and ends else {})


class HfBlip2LM(HuggingFace):
    """An eye, a Q-Former, a linear map and a language model.

    Class attributes: embed_rules: names of what embeds queries and texts; parts: {section of the
    config: its model_type}; instructs: queries read the prompt.
    """

    has = ("query_tokens", "language_projection.weight", "qformer.layernorm.weight")
    archs = "blip2"
    release = preprocess.BLIP
    methods = ("blip2_lm",)
    compared = (*HuggingFace.compared, "image_norm_eps", "end_ids")
    untold = (*HuggingFace.untold, "lm.context_length")
    title, model_type, processor = "Blip2ForConditionalGeneration", "blip-2", "Blip"
    embed_rules: tuple[Rule, ...] = EMBED_RULES
    parts = {"vision": "blip_2_vision_model", "qformer": "blip_2_qformer"}
    instructs = False

    def table(self, names: Any) -> Table:
        """The names of a file or of ours, which say what the language model is."""
        own = lm_of(names, _LM)
        rules = prefixed(own, _LM)
        layers = layer_rules("qformer.encoder.layer.{i}", "attention", cross_every(names))
        eye = (*EYE_RULES, *self.embed_rules, *linear("proj/out", "language_projection"))
        ignored = (*self.ignored, *(rf"language_model\.{name}" for name in own.ignored))
        return Table(f"Hugging Face {self.title}", (*eye, *layers, *rules), ignored)

    def held(self, state: State, beside: Beside) -> State:
        """Without a head of words that the words' table is once more."""
        if not beside.config or not self.method(beside.config, beside.file)["lm"]["tied"]:
            return state
        return {name: tensor for name, tensor in state.items() if name != _LM + HEAD}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: another class or language model, a picture's attention without biases, what the
            language model's own family refuses.
        """
        if not config:
            return {}
        class_of(config, (self.title,), where)
        words = filled({}, config.get("text_config") or {}, f"{where}: text_config")
        lm = words.get("model_type", "opt")
        if lm not in LMS:
            raise UserError(
                f"{where}: text_config: model_type {lm!r} is not read{nearest(lm, LMS)}"
            )
        vision = read_eye(config, where)
        net, _ = read_qformer(config.get("qformer_config"), f"{where}: qformer_config")
        count = filled({"num_query_tokens": 32}, config, where)["num_query_tokens"]
        text = lm_family(lm).method(words, f"{where}: text_config")
        return {
            "name": "blip2_lm",
            "image": vision | IMAGE,
            "image_norm_eps": vision["norm_eps"],
            "qformer": net | {"texts": "none", "num_queries": count},
            "lm": text["lm"],
            "end_ids": text["end_ids"],
            "start_id": text["start_id"],
            **self.lengths(text["lm"]["context_length"] - count),
        }

    def takes(self, method: Config) -> bool:
        """One whose queries read, or do not."""
        return super().takes(method) and method.get("instructed", False) == self.instructs

    def lengths(self, room: int) -> dict[str, int]:
        """Tokens of texts where there is room for so many."""
        return {"text_length": max(1, min(MOST, room))}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """What the language model's own family reads off the tensors and files. Raises UserError
        where nothing says what ends its texts."""
        own = {name.removeprefix(_LM): tensor for name, tensor in state.items()}
        family = lm_of(state, _LM)
        some = dataclasses.replace(beside, config=beside.config.get("text_config") or {})
        notes = family.complete(method, own, some)
        check_ends(method, f"{beside.file}: text_config")
        return [*notes, *unread_width(beside.config)]

    def manifest(self, beside: Beside) -> dict[str, Any]:
        """The id that stands for a picture's vectors."""
        slot = beside.config.get("image_token_index")
        return {"image_token": slot} if isinstance(slot, int) else {}

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """A language model reads every space and line as it is; see `words_of`."""
        own = "text_config" in beside.config  # the queries' words lie in a folder of their own
        ends = self.method(beside.config, beside.file)["end_ids"] if own else ()
        return words_of((beside.config.get("text_config") or {}).get("model_type"), file, ends)

    def ends_texts(self, method: Config, tokenizer: str) -> bool:
        """What a decoder reads is a prompt; an encoder's texts end, and those of queries."""
        return tokenizer != "text" or method["lm"]["name"] == "t5"

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """With how many places a processor makes for a picture."""
        found = super().configs(method, pictures, tokenizer)
        kind = f"{self.title.removesuffix('ForConditionalGeneration')}Processor"
        said = {"processor_class": kind, "num_query_tokens": method["qformer"]["num_queries"]}
        return found | {_PROCESSOR: said}

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """The config of the class.

        Raises:
          UserError: soft prompts, a language model that the class is not written with.
        """
        image, net, lm = method["image"], method["qformer"], method["lm"]
        if method["soft_prompt"]:
            raise UserError(f"--to=hf: {self.title} has no soft prompts")
        said = {"name": "text_to_text" if lm["name"] == "t5" else "language_model", "lm": lm}
        own = next((kind for kind in LMS if lm_family(kind).takes(said)), None)
        if own is None:
            raise UserError(f"--to=hf: {self.title} is written with {', '.join(LMS)} alone")
        start = max(method["start_id"], 0) if own == "t5" else method["start_id"]
        ids = {"start_id": start, "end_ids": method["end_ids"]}
        text = lm_family(own).config_json(said | ids, tokenizer) | {"model_type": own}
        qformer = write_qformer(net, image["width"]) | {"model_type": self.parts["qformer"]}
        return {
            "vision_config": {"model_type": self.parts["vision"], **write_vit(image)},
            "qformer_config": qformer,
            "text_config": text,
            "num_query_tokens": net["num_queries"],
            "image_token_index": _slot(method, tokenizer),
        }


def _slot(method: Config, tokenizer: Config | None) -> int:
    """The id of a picture's places: as it came, else the first behind the tokenizer's, which the
    processor adds, else the last of the table."""
    size = method["lm"]["vocab_size"]
    found = method["image_token"], (tokenizer or {}).get("image", -1), size - 1
    return next(slot for slot in found if 0 <= slot < size)


def check_ends(method: Config, where: str) -> None:
    """Raises UserError where nothing says what ends texts; where: the config that should."""
    if not method["end_ids"]:
        raise UserError(f"{where}: names no eos_token_id, and no text would ever end")


def lm_family(kind: str) -> HuggingFace:
    """The family of a language model by its model_type."""
    return families()[f"hf_{kind}"]


def lm_of(names: Any, prefix: str) -> HuggingFace:
    """That of the language model, by the names of ours, or of theirs behind a prefix."""
    own = {name.removeprefix(prefix) for name in names}
    if own.intersection(("lm/encoder/bias", "shared.weight")):
        return lm_family("t5")
    positions = ("lm/pos_embed", "model.decoder.embed_positions.weight")
    return lm_family("opt" if own.intersection(positions) else "llama")


def prefixed(family: HuggingFace, prefix: str) -> tuple[Rule, ...]:
    """The rules of a language model alone as they are here."""
    found = []
    for rule in family.rules:
        theirs: str | tuple[str, ...] = rule.theirs
        one = isinstance(theirs, str)
        named = prefix + theirs if one else tuple(prefix + name for name in theirs)
        found.append(dataclasses.replace(rule, theirs=named))
    return tuple(found)


FAMILY = HfBlip2LM()
