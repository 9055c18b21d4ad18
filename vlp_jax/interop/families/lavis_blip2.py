"""salesforce/LAVIS's first stage of BLIP-2 (blip2_qformer.py): pre-trained files, which hold what
learned, beside eva_vit_g.pth, the frozen eye; and those fine-tuned for retrieval, which hold both.
They say no sizes (`--arch`).

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
from vlp_jax.interop.family import Beside, Family
from vlp_jax.interop.qformer import cross_every, layer_rules, word_rules
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State, Tensor

_VIT, _BERT, _HEAD = "visual_encoder", "Qformer.bert", "Qformer.cls.predictions"
_WORDS = f"{_BERT}.embeddings"
EYE = "eva_vit_g"  # the name of its file
EYE_RULES = (
    *patches("image/patch_embed", f"{_VIT}.patch_embed.proj"),
    Rule("image/cls_token", f"{_VIT}.cls_token", "1 1 d -> d"),
    Rule("image/pos_embed", f"{_VIT}.pos_embed", "1 n d -> n d"),
    *blocks(
        "image", f"{_VIT}.blocks.{{i}}", ("attn.qkv.weight", "attn.qkv.bias"), "attn.proj",
        ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"),
    ),
    *norm("image_norm", "ln_vision"),
)  # fmt: skip
QFORMER_RULES = (
    Rule("queries", "query_tokens", "1 q d -> q d"),
    *word_rules(_WORDS),
    *norm("qformer/norm_embed", f"{_WORDS}.LayerNorm"),
)
_RULES = (
    *EYE_RULES,
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
    rf"{_VIT}\.(norm|fc_norm|head)\..*",
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
        return Table("salesforce/LAVIS", (*_RULES, *layers), IGNORED)

    def known_names(self, state: State) -> State:
        """The eye's biases of queries and values as those of a fused product."""
        return _with_key_biases(state)

    def further(self, state: State, folder: str, read: Callable[[str], State]) -> State:
        """The eye beside the file, without its last layer.

        Raises:
          UserError: there is none.
        """
        if f"{_VIT}.patch_embed.proj.weight" in state:
            return {}
        found = sorted(glob.glob(os.path.join(glob.escape(folder), f"{EYE}.*")))
        if not found:
            raise UserError(f"{folder}: holds no frozen eye; put LAVIS's {EYE}.pth beside the file")
        eye = read(found[0])
        last = max(
            (int(n) for name in eye for n in re.findall(r"^blocks\.(\d+)\.", name)), default=0
        )
        kept = {
            n: t for n, t in eye.items() if not n.startswith((f"blocks.{last}.", "norm.", "head."))
        }
        return _with_key_biases({f"{_VIT}.{name}": tensor for name, tensor in kept.items()})

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """Captions are cleaned as its data sets do."""
        return {"clean": "blip"}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The pictures' size by the positions. Raises UserError for a tensor that must be there
        twice and is not alike."""
        check_tied(state, _TIED, "the file")
        places, image = state[f"{_VIT}.pos_embed"].shape, method["image"]
        if len(places) == 3:  # else it does not fit, as its shape tells
            image["image_size"] = math.isqrt(max(places[1] - 1, 1)) * image["patch_size"]
        return []


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
