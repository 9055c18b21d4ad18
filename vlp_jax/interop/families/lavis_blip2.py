"""salesforce/LAVIS's first stage of BLIP-2 (blip2_qformer.py): pre-trained files, which hold what
learned, beside eva_vit_g.pth or clip_vit_L.pth, the frozen eye; and those fine-tuned for retrieval,
which hold both. They say no sizes (`--arch`).

The file exists to hold what is this family's alone: an eye in a file of its own, without biases of
its keys, and a head of words that repeats the words' table.
"""

import glob
import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.blip import check_tied
from vlp_jax.interop.blocks import blocks, linear, norm, patches
from vlp_jax.interop.families.open_clip import resblocks
from vlp_jax.interop.family import Beside, Family
from vlp_jax.interop.qformer import cross_every, layer_rules, word_rules
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State, Tensor

_VIT, _BERT, _HEAD = "visual_encoder", "Qformer.bert", "Qformer.cls.predictions"
_WORDS = f"{_BERT}.embeddings"
EVA, CLIP = "eva_vit_g", "clip_vit_L"  # names of the eyes' files
_CLIP_LAYERS = 23  # of CLIP's 24, the last of which nothing reads
_EVA_RULES = (
    *patches("image/patch_embed", f"{_VIT}.patch_embed.proj"),
    Rule("image/cls_token", f"{_VIT}.cls_token", "1 1 d -> d"),
    Rule("image/pos_embed", f"{_VIT}.pos_embed", "1 n d -> n d"),
    *blocks(
        "image", f"{_VIT}.blocks.{{i}}", ("attn.qkv.weight", "attn.qkv.bias"), "attn.proj",
        ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"),
    ),
    *norm("image_norm", "ln_vision"),
)  # fmt: skip
_CLIP_RULES = (
    *patches("image/patch_embed", f"{_VIT}.conv1"),
    Rule("image/cls_token", f"{_VIT}.class_embedding"),
    Rule("image/pos_embed", f"{_VIT}.positional_embedding"),
    *norm("image/norm_pre", f"{_VIT}.ln_pre"),
    *resblocks("image", f"{_VIT}.transformer"),
    *norm("image_norm", "ln_vision"),
)
QFORMER_RULES = (
    Rule("queries", "query_tokens", "1 q d -> q d"),
    *word_rules(_WORDS),
    *norm("qformer/norm_embed", f"{_WORDS}.LayerNorm"),
)
_RULES = (
    *QFORMER_RULES,
    *linear("qformer/head/dense", f"{_HEAD}.transform.dense"),
    *norm("qformer/head/norm", f"{_HEAD}.transform.LayerNorm"),
    Rule("qformer/head/bias", f"{_HEAD}.bias"),
    *linear("image_proj/out", "vision_proj"),
    *linear("text_proj/out", "text_proj"),
    *linear("itm/out", "itm_head"),
    Rule("temperature", "temp"),
)
_TIED = (
    (f"{_HEAD}.decoder.weight", f"{_WORDS}.word_embeddings.weight"),
    (f"{_HEAD}.decoder.bias", f"{_HEAD}.bias"),
)
IGNORED = (
    r".*\.position_ids", *(name.replace(".", r"\.") for name, _ in _TIED),
    rf"{_VIT}\.(norm|fc_norm|head|ln_post)\..*", rf"{_VIT}\.proj",
)  # fmt: skip


class LavisBlip2(Family):
    """Files whose `model` holds query_tokens and a Qformer."""

    has = ("query_tokens", f"{_WORDS}.word_embeddings.weight", "itm_head.weight")
    archs = "blip2"
    release = preprocess.BLIP
    antialias = False
    methods = ("blip2",)
    one_tokenizer = True

    def table(self, names: Any) -> Table:
        """Every which layer looks at the picture is what the names say."""
        layers = layer_rules(f"{_BERT}.encoder.layer.{{i}}", "self", cross_every(names))
        return Table("salesforce/LAVIS", (*eye_rules(names), *_RULES, *layers), IGNORED)

    def known_names(self, state: State) -> State:
        """The eye's biases of queries and values as those of a fused product."""
        return _with_key_biases(state)

    def further(self, state: State, folder: str, read: Callable[[str], State]) -> State:
        """The eye beside the file, of the width that the Q-Former asks, without its last layer.

        Raises:
          UserError: there is none.
        """
        if eye_of(state):
            return {}
        both = [sorted(glob.glob(os.path.join(glob.escape(folder), f"{n}.*"))) for n in (EVA, CLIP)]
        found = [files[0] for files in both if files]
        if not found:
            ask = f"put LAVIS's {EVA}.pth (or {CLIP}.pth) beside the file"
            raise UserError(f"{folder}: holds no frozen eye; {ask}")
        eyes, norm = [read(file) for file in found], state.get("ln_vision.weight")
        fits = [eye for eye in eyes if norm is not None and _width(eye) == norm.shape]
        return _frozen((fits or eyes)[0])

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """Captions are cleaned as its data sets do."""
        return {"clean": "blip"}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The pictures' size by the positions. Raises UserError for a tensor that must be there
        twice and is not alike."""
        check_tied(state, _TIED, "the file")
        image = method["image"]
        image["image_size"] = side(state) * image["patch_size"]
        return []


def eye_of(names: Any) -> str:
    """EVA or CLIP, by the names of its tensors; '' where there is none."""
    firsts = {EVA: f"{_VIT}.patch_embed.proj.weight", CLIP: f"{_VIT}.conv1.weight"}
    return next((eye for eye, first in firsts.items() if first in names), "")


def eye_rules(names: Any) -> tuple[Rule, ...]:
    """Of the eye that the names are of."""
    return _CLIP_RULES if eye_of(names) == CLIP else _EVA_RULES


def clip_sizes(state: State) -> dict[str, Any]:
    """Fields of CLIP's ViT (models/archs/blip2.py `L`), as its tensors say."""
    width, _, patch, _ = state[f"{_VIT}.conv1.weight"].shape
    layers = sum(name.endswith(".ln_1.weight") for name in state if name.startswith(_VIT))
    how = dict(pre_norm=True, conv_bias=False, activation="quick_gelu", norm_eps=1e-5)
    sizes = dict(width=width, patch_size=patch, num_layers=layers, head_width=64, mlp_ratio=4.0)
    return how | sizes


def side(state: State) -> int:
    """Patches along a side, by the positions."""
    at = "positional_embedding" if eye_of(state) == CLIP else "pos_embed"
    places = (*state[f"{_VIT}.{at}"].shape[:-1], 1)[-2:]  # of another rank it does not fit
    return math.isqrt(max(places[0] - 1, 1))


def _width(eye: State) -> tuple[int, ...]:
    """(D,), by the class token."""
    named = [tensor for name, tensor in eye.items() if name in ("cls_token", "class_embedding")]
    return named[0].shape[-1:] if named else ()


def _frozen(eye: State) -> State:
    """An eye's own file as part of a whole one."""
    clip = "conv1.weight" in eye
    layer = re.compile(r"transformer\.resblocks\.(\d+)\." if clip else r"blocks\.(\d+)\.")
    numbers = {name: int(found[1]) for name in eye if (found := layer.match(name))}
    count = _CLIP_LAYERS if clip else max(numbers.values(), default=0)
    unread = ("norm.", "head.", "ln_post.", "proj")
    kept = {
        f"{_VIT}.{name}": tensor
        for name, tensor in eye.items()
        if numbers.get(name, -1) < count and not name.startswith(unread)
    }
    return _with_key_biases(kept)


def _with_key_biases(state: State) -> State:
    """q_bias and v_bias as the bias of queries, keys and values: keys have none, which is zeros."""
    found = dict(state)
    for name in [name for name in state if name.endswith(".attn.q_bias")]:
        stem = name.removesuffix("q_bias")
        query, value = found.pop(name), found.pop(f"{stem}v_bias", None)
        if value is None:
            raise UserError(f"the file holds {name} without {stem}v_bias")

        def read(query: Tensor = query, value: Tensor = value) -> np.ndarray:
            first = query.read()
            return np.concatenate([first, np.zeros_like(first), value.read()])

        found[f"{stem}qkv.bias"] = Tensor((3 * query.shape[0],), query.code, read)
    return found


FAMILY = LavisBlip2()
