"""salesforce/BLIP (models/blip*.py): pre-trained files, and those fine-tuned for captions, for
retrieval, for answers and for pairs of pictures (NLVR2). They say no sizes (`--arch`); which parts
there are, and the size of the pictures, is read off the tensors.

The file exists to hold what is this family's alone: pre-trained files hold what encoder and decoder
share twice, and the momentum teacher and its queues.
"""

import math
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.blip import (
    DECODER_LM,
    ENCODER,
    TIED,
    WORDS,
    check_tied,
    decoder_rules,
    encoder_rules,
    first_merged,
    pair_rules,
    repeated,
    whole_decoder,
)
from vlp_jax.interop.blocks import blocks, linear, norm, patches
from vlp_jax.interop.family import Arrays, Beside, Config, Family
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State

_VIT = "visual_encoder"
_RULES = (
    *patches("image/patch_embed", f"{_VIT}.patch_embed.proj"),
    Rule("image/cls_token", f"{_VIT}.cls_token", "1 1 d -> d"),
    Rule("image/pos_embed", f"{_VIT}.pos_embed", "1 n d -> n d"),
    *blocks(
        "image", f"{_VIT}.blocks.{{i}}", ("attn.qkv.weight", "attn.qkv.bias"), "attn.proj",
        ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"),
    ),
    *norm("image/norm_post", f"{_VIT}.norm"),
    *linear("image_proj/out", "vision_proj"),
    *linear("text_proj/out", "text_proj"),
    *linear("itm/out", "itm_head"),
    *linear("judge/fc1", "cls_head.0"),
    *linear("judge/out", "cls_head.2"),
    Rule("temperature", "temp"),
)  # fmt: skip
_TEACHER = (
    rf"({_VIT}|text_encoder|vision_proj|text_proj)_m\..*", "(image|text|idx)_queue", "queue_ptr",
    "ptr_queue",
)  # fmt: skip
_IGNORED = (r".*\.position_ids", *(name.replace(".", r"\.") for name, _ in TIED), *_TEACHER)
_BUILT = dict(name="vit", pool="none", cls_token=True, pre_norm=False, stem=(), activation="gelu")
_PAIRS = "cls_head."  # judges two pictures
_REPEATED = r"text_decoder\.bert\.(?!encoder\.layer\.\d+\.attention\.).*"


class Blip(Family):
    """Files whose `model` holds visual_encoder and text_encoder or text_decoder."""

    has = (f"{_VIT}.patch_embed.proj.weight", f"{_VIT}.pos_embed")
    lacks = ("query_tokens", f"{ENCODER}bert.{WORDS}")  # BLIP-2, ALBEF
    archs = "blip"
    release = preprocess.BLIP
    antialias = False
    library, to, alone = "salesforce/BLIP", "blip", True
    methods = ("blip", "blip_vqa")  # that are written; files of NLVR2 are read
    one_tokenizer = True

    def table(self, names: Any) -> Table:
        """The names of the task that the tensors `names` are of."""
        encoder, decoder, matches = _parts(names)
        if _has(names, _PAIRS):
            rules = pair_rules("text", names)
        elif encoder and decoder and matches:
            rules = (*decoder_rules("text"), *encoder_rules("text"))
        elif encoder and decoder:
            rules = (*encoder_rules("text"), *whole_decoder("answer"))
        else:
            rules = whole_decoder("text") if decoder else encoder_rules("text")
        ignored = (*_IGNORED, _REPEATED) if encoder and decoder and matches else _IGNORED
        return Table("salesforce/BLIP", (*_RULES, *rules), ignored)

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """Questions and captions are cleaned as its data sets do (pre_question, pre_caption)."""
        return {"clean": "blip_question" if method == "blip_vqa" else "blip"}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The task, and the pictures' size by the positions.

        Raises:
          UserError: a tensor that must be there twice and is not alike.
        """
        encoder, decoder, matches = _parts(state)
        image, text = method["image"], method["text"]
        places = state[f"{_VIT}.pos_embed"].shape
        if len(places) == 3:  # else it does not fit, as its shape tells
            image["image_size"] = math.isqrt(max(places[1] - 1, 1)) * image["patch_size"]
        if _has(state, _PAIRS):
            method.pop("embed_dim", None)  # of an architecture's pre-training
            method["name"] = "blip_nlvr"
            text |= {"roles": "encoder", "merge_from": first_merged(state)}
            return []
        pairs = [*TIED, *(repeated(state) if matches else ())]
        check_tied(state, pairs, "the file")
        if encoder and decoder and not matches:
            method.pop("embed_dim", None)  # of an architecture's pre-training
            method |= {"name": "blip_vqa", "answer": {**text, "roles": "decoder"}}
            text["roles"] = "encoder"
            return []
        text["roles"] = "both" if encoder and decoder else "encoder" if encoder else "decoder"
        method["losses"] = (*(("itc", "itm") if matches else ()), *(("lm",) if decoder else ()))
        teacher = [name for name in state if "_m." in name or "queue" in name]
        return [f"{len(teacher)} tensors of the momentum teacher are left"] if teacher else []

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """None. Raises UserError for what its code does not build."""
        image = method["image"]
        for key, value in _BUILT.items():
            if image.get(key) != value:
                said = f"method.image.{key}={image.get(key)!r}"
                raise UserError(f"--to={self.to}: {self.library} builds {value!r}, not {said}")
        return {}

    def spread(self, state: Arrays) -> dict[str, Arrays]:
        """With what its files hold more than once."""
        found, bert = dict(state), f"{DECODER_LM}bert."
        if _has(state, DECODER_LM) and _has(state, "itm_head."):
            shared = (name for name in state if name.startswith(ENCODER))
            for name in shared:
                found.setdefault(bert + name.removeprefix(ENCODER), state[name])
        for name, original in TIED:
            if original in found:
                found[name] = found[original]
        return super().spread(found)

    def notes(self, method: Config, pictures: Config) -> list[str]:
        """How it is loaded."""
        how = "model.load_state_dict(safetensors.torch.load_file(FILE), strict=False)"
        image = method["image"]
        sizes = f"image_size={image['image_size']}, norms of eps={image['norm_eps']:g}"
        teacher = ", then model.copy_params() for the momentum teacher, which is not in it"
        more = teacher if "itc" in method.get("losses", ()) else ""
        return [f"the file holds weights alone ({sizes}): {how}{more}"]


def _parts(names: Any) -> tuple[bool, bool, bool]:
    """Whether there is an encoder, a decoder and a head that matches, in its words or ours."""
    answers = _has(names, "answer/")
    encoder = _has(names, ENCODER) or _has(names, "text/blocks/attn/")
    decoder = _has(names, DECODER_LM) or _has(names, "text/head/") or answers
    return encoder, decoder, _has(names, "itm_head.") or _has(names, "itm/")


def _has(names: Any, prefix: str) -> bool:
    """Whether there is anything of a part: what it lacks is told by name."""
    return any(name.startswith(prefix) for name in names)


FAMILY = Blip()
