"""A text tower's field, part and call, whatever the network asks for beside the ids.

A network says so itself: `masked`, it takes a mask of the tokens that are real; `cuttable`, nothing
after a text's end changes what it pools. The file exists so that every method takes a causal
transformer or a BERT without knowing which.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.fields import Text
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.methods.base import Method, Part


def text_field(tower: nn.Module, cut: bool = True, key: str = "method.text") -> Text:
    """What `tower` reads; cut: whether batches may be cut to their longest text where it allows."""
    cut = cut and tower.cuttable
    return Text(tower.context_length, tower.vocab_size, mask=tower.masked, cut=cut, key=key)


def text_part(tower: nn.Module) -> Part:
    """`tower` as a part."""
    return Part(tower, (jax.ShapeDtypeStruct((1, tower.context_length), jnp.int32),))


def run_text(method: Method, v: Vars, x: Inputs, tower: nn.Module) -> tuple[Any, dict]:
    """`tower`, a form of the part `text`, on the field `text` and its mask: (embedding float32[B,
    E], outputs)."""
    mask = {"mask": x.batch.get("text_mask")} if tower.masked else {}
    return method.apply("text", v, x, x.batch["text"], net=tower, **mask)
