"""What the language models of Hugging Face transformers share: blocks under their names, words of a
config that mean the same, ends of texts.

The file exists so that a family of decoders is its own names and switches.
"""

import os
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import typed
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import ACTIVATIONS, HuggingFace
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import read_json

_ACTIVATIONS = {**ACTIVATIONS, "gelu_new": "gelu_tanh"}  # the same function
_GENERATION = "generation_config.json"
HEAD = "lm_head.weight"
# What a decoder is where a family's `sizes` do not say otherwise.
_USUAL = dict(
    kv_heads=0, head_dim=0, word_width=0, positions="rotary", position_offset=0, rotary_share=1.0,
    rope_scaling="none", window=0, norm="rms", final_norm=True, post_norm=False, parallel=False,
    gated=True, qkv_bias=False, out_bias=False, mlp_bias=False, qkv_clip=0.0, attention_scale=0.0,
)  # fmt: skip
_ROPES = {"default": "none", "linear": "linear", "dynamic": "dynamic", "llama3": "llama3"}
_ROPE = {"factor": "rope_factor", "low_freq_factor": "rope_low", "high_freq_factor": "rope_high"}
_ROPE |= {"original_max_position_embeddings": "rope_length"}


def words(embed: str, head: str = HEAD) -> tuple[Rule, ...]:
    """The tables of words."""
    return (
        Rule("lm/token_embed/embedding", embed),
        Rule("lm/head/embedding", head),
    )


def norms(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A norm, its bias where there is one."""
    return (Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias"))


def maps(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A linear map of every layer, its bias where there is one."""
    return (
        Rule(f"{ours}/kernel", f"{theirs}.weight", "l o i -> l i o"),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def out_of_heads(theirs: str) -> tuple[Rule, ...]:
    """The map after attention."""
    ours = "lm/blocks/attn/out"
    return (
        Rule(f"{ours}/kernel", f"{theirs}.weight", "l o (h k) -> l h k o"),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def into_heads(theirs: str, names: tuple[str, str, str]) -> tuple[Rule, ...]:
    """Separate maps of queries, keys and values, grouped or not; theirs: with `{}` for a name."""
    query, *both = (theirs.replace("{}", name) for name in names)
    found = []
    for end, inputs, kernel in (("weight", " i", "kernel"), ("bias", "", "bias")):
        i = inputs and " i"
        found += [
            Rule(
                f"lm/blocks/attn/qkv/{kernel}",
                tuple(f"{name}.{end}" for name in (query, *both)),
                f"l three (h k){i} -> l{i} h three k",
            ),
            Rule(f"lm/blocks/attn/query/{kernel}", f"{query}.{end}", f"l (h k){i} -> l{i} h k"),
            Rule(
                f"lm/blocks/attn/key_value/{kernel}",
                tuple(f"{name}.{end}" for name in both),
                f"l two (h k){i} -> l{i} h two k",
            ),
        ]
    return tuple(found)


class LanguageModel(HuggingFace):
    """A decoder of transformers alone.

    Class attributes: kinds: model_types that it reads; defaults: of its config class. `sizes` says
    the rest.
    """

    bare = True
    archs = "language_model"
    methods = ("language_model",)
    kinds: tuple[str, ...] = ()
    defaults: Mapping[str, Any]
    untold = ()
    head = HEAD

    @property
    def model_type(self) -> str:
        """The first of its kinds."""
        return self.kinds[0]

    def foreign(self, config: Config) -> str:
        """See Family."""
        said = config.get("model_type", self.model_type)
        return "" if said in self.kinds else repr(said)

    def held(self, state: State, beside: Beside) -> State:
        """Without the head, which some files hold once more, where the config ties it."""
        tied = {**self.defaults, **beside.config}["tie_word_embeddings"]
        known = beside.config and tied
        return {n: t for n, t in state.items() if n != self.head} if known else state

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: an unknown activation, a switch that our decoder lacks.
        """
        if not config:
            return {}
        c = filled(self.defaults, config, where)
        net = {"name": "decoder_lm", "vocab_size": c["vocab_size"]}
        net |= {"tied": c["tie_word_embeddings"], **self.sizes(c, where)}
        return {"name": "language_model", "lm": net, **ids_of(c, net["vocab_size"], where)}

    def sizes(self, c: Config, where: str) -> dict[str, Any]:
        """Fields of models/decoder_lm.py of a config filled up. Raises UserError."""
        raise NotImplementedError(self.name)

    def told(self, net: Config) -> dict[str, Any]:
        """The inverse of `sizes`."""
        raise NotImplementedError(self.name)

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """More ends of texts, as transformers generates by."""
        path, net = os.path.join(beside.folder, _GENERATION), method["lm"]
        if beside.config and os.path.isfile(path):
            more = ids_of({**beside.config, **read_json(path)}, net["vocab_size"], path)
            method["end_ids"] = more["end_ids"] or method.get("end_ids", ())
        if not method.get("end_ids"):
            return ["its config names no eos_token_id: texts end at max_new or by a stop word"]
        return []

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """A language model reads every space and line as it is; a SentencePiece model says nothing
        of a start, which all decoders that come with one have."""
        del method
        if file.endswith(".model"):
            return {"clean": "none", "start": True}
        ends = ids_of(beside.config, vocab_size, beside.file)["end_ids"]
        return {"clean": "none"} | ({"end_id": ends[0]} if file and ends else {})

    def ends_texts(self, method: Config, tokenizer: str) -> bool:
        """No: what it reads is a prompt, which it goes on from."""
        del method, tokenizer
        return False

    def takes(self, method: Config) -> bool:
        """The one whose own switches say the whole network."""
        if method["name"] not in self.methods or method["lm"]["name"] != "decoder_lm":
            return False
        net = method["lm"]
        try:
            whole = self.sizes(filled(self.defaults, self.told(net), ""), "")
        except (UserError, KeyError):
            return False
        return all(net[key] == value for key, value in {**_USUAL, **whole}.items())

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """config.json. Raises UserError where the ends are not the tokenizer's."""
        net, ends = method["lm"], method["end_ids"]
        said = {"vocab_size": net["vocab_size"], "tie_word_embeddings": net["tied"]}
        said |= {"eos_token_id": in_order(ends)}
        said |= {"bos_token_id": None if method["start_id"] < 0 else method["start_id"]}
        return said | self.told(net)


def ids_of(c: Config, vocab_size: int, where: str) -> dict[str, Any]:
    """{start_id, end_ids} of a config. Raises UserError for one that is no id of the vocabulary."""
    start, ends = c.get("bos_token_id"), c.get("eos_token_id")
    ends = tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)
    for key, ids in (("bos_token_id", () if start is None else (start,)), ("eos_token_id", ends)):
        for one in ids:
            if not 0 <= typed(f"{where}: {key}", one, int) < vocab_size:
                need = f"must be an id below vocab_size={vocab_size}"
                raise UserError(f"{where}: {key}={one}: {need}")
    return {"start_id": -1 if start is None else start, "end_ids": ends}


def in_order(ids: tuple[int, ...]) -> int | list[int] | None:
    """Ids as a config says them: a lone one, several, or none."""
    return ids[0] if len(ids) == 1 else list(ids) or None


def activation(name: Any, where: str, key: str = "hidden_act") -> str:
    """Ours. Raises UserError for one that is not known."""
    if name not in _ACTIVATIONS:
        hint = nearest(str(name), _ACTIVATIONS)
        raise UserError(f"{where}: {key} {name!r} is not known{hint}")
    return _ACTIVATIONS[name]


def activation_name(ours: str) -> str:
    """Theirs."""
    return next(name for name, own in ACTIVATIONS.items() if own == ours)


def read_rope(c: Config, where: str, share: str = "partial_rotary_factor") -> dict[str, Any]:
    """Rotary fields of a config, whose `rope_parameters` older ones call `rope_scaling` and lay
    beside `rope_theta`.

    Raises:
      UserError: a kind of scaling that is not read.
    """
    said = c.get("rope_parameters") or c.get("rope_scaling") or {}
    if not isinstance(said, Mapping):
        raise UserError(f"{where}: rope_parameters is {said!r}, it must be a mapping")
    number = lambda key, value, kind=float: typed(f"{where}: {key}", value, kind)  # noqa: E731
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in _ROPES:
        hint = nearest(str(kind), _ROPES)
        raise UserError(f"{where}: rope_type {kind!r} is not read{hint}")
    found = {"rope_theta": number("rope_theta", said.get("rope_theta", c["rope_theta"]))}
    own = said.get("partial_rotary_factor", c.get(share, 1.0))
    found["rotary_share"] = number(share, own)
    found["rope_scaling"] = _ROPES[kind]
    for key, own in _ROPE.items() if kind != "default" else ():
        if key in said and (kind == "llama3" or key == "factor"):
            found[own] = number(key, said[key], int if own == "rope_length" else float)
    return found


def write_rope(net: Config) -> dict[str, Any]:
    """The inverse of `read_rope`."""
    names = {ours: theirs for theirs, ours in _ROPES.items()}
    kind = names[net["rope_scaling"]]
    said = {"rope_type": kind, "rope_theta": net["rope_theta"]}
    if net["rotary_share"] != 1:
        said["partial_rotary_factor"] = net["rotary_share"]
    if kind != "default":
        said["factor"] = net["rope_factor"]
    if kind == "llama3":
        said |= {theirs: net[ours] for theirs, ours in _ROPE.items()}
        said["original_max_position_embeddings"] = net["rope_length"] or net["context_length"]
    return {"rope_parameters": said}
