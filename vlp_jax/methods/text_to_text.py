"""A language model of an encoder and a decoder (T5): one text to another, trained on pairs of texts
or as it was released.

The file exists beside language_model.py since what is written here is no continuation of what is
read.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Text
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.losses.language import token_loss
from vlp_jax.methods.base import Function, Method, Part
from vlp_jax.methods.kits.writing import after_encoding, write
from vlp_jax.models import t5
from vlp_jax.models.towers import make_tower

KEYS = ("method.lm.vocab_size", "method.text_length", "method.end_ids")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToText(Method):
    """One part, `lm` (models/t5.py).

    Attributes:
      lm: its config.
      text_length, target_length: tokens of what is read and of what is written; 0: as many as the
        network was made for.
      start_id: begins what the decoder reads.
      end_ids: end what is written.
      label_smoothing: of the loss.
      dtype, remat, unroll: defaults of the network.
    """

    lm: Mapping[str, Any]
    text_length: int = 0
    target_length: int = 0
    start_id: int = 0
    end_ids: tuple[int, ...] = (1,)
    label_smoothing: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for ids that are none of the vocabulary."""
        size = self.net.vocab_size
        for key, ids in (("start_id", (self.start_id,)), ("end_ids", self.end_ids)):
            for one in ids:
                if not 0 <= one < size:
                    need = f"no id below method.lm.vocab_size={size}"
                    raise UserError(f"method.{key}={one}: {need}")

    @cached_property
    def net(self) -> nn.Module:
        """The network."""
        shared = dict(dtype=self.dtype, remat=self.remat, unroll=self.unroll)
        return make_tower(self.lm, "method.lm", **shared)

    def fields(self) -> dict[str, Field]:
        """text and target: int32[B, T] and int32[B, U] with their ends, text_mask, target_mask."""
        most = self.net.context_length
        lengths = {"text": self.text_length, "target": self.target_length}
        return {name: self.texts(length or most) for name, length in lengths.items()}

    def texts(self, length: Size) -> Text:
        """A field of texts of so many tokens."""
        return Text(length, self.net.vocab_size, mask=True, keys=KEYS)

    def parts(self) -> dict[str, Part]:
        """lm."""
        return {"lm": Part(self.net, t5.reads())}

    def totals(self, x: Inputs) -> dict[str, Array]:
        """rows, and the tokens that are predicted."""
        tokens = jnp.float32(x.batch["target_mask"].sum())
        return {**super().totals(x), "tokens": jnp.maximum(tokens, 1)}

    def logits(self, v: Vars, x: Inputs, target: Array) -> Array:
        """float32[B, U, V] of each token after those of target."""
        ids, mask = x.batch["text"], x.batch.get("text_mask")
        return self.apply("lm", v, x, ids, mask, target)[1]["logits"]

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: summed losses of the targets with and without smoothing, float32[B]."""
        ids, mask = x.batch["target"], x.batch["target_mask"]
        before = jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=self.start_id)
        logits = self.logits(v, x, before)
        sums = [
            jnp.where(mask, token_loss(logits, ids, smoothing), 0).sum(1)
            for smoothing in (self.label_smoothing, 0.0)
        ]
        return dict(zip(("loss", "nats"), sums, strict=True)), Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The mean over tokens; nats: without smoothing."""
        shares = {name: x.share(each, "tokens") for name, each in rows.items()}
        return shares.pop("loss"), Aux(shares)

    def functions(self) -> dict[str, Function]:
        """lm_logits: float32[B, U, V] of each token after those of `target`, which starts with
        start_id; generate_answer: what is written of `text` (decoding/steps.py Written).
        """
        most = self.net.context_length
        text = {"text": self.texts(most)}
        target = {"target": dataclasses.replace(self.texts(most), mask=False)}

        def lm_logits(v: Vars, x: Inputs, _: None) -> Array:
            return self.logits(v, x, x.batch["target"])

        def generate_answer(v: Vars, x: Inputs, how: Writing) -> dict[str, Array]:
            def run(*args: Any, **given: Any) -> Any:
                return self.apply("lm", v, x, *args, **given)

            ids, mask = x.batch["text"], x.batch.get("text_mask")
            start = jnp.full((len(ids), 1), self.start_id, jnp.int32)
            writer, stop = after_encoding(run, self.net, ids, mask), (*self.end_ids, *how.stop)
            return write(writer, start, None, how, stop, x.rng)._asdict()

        return {
            "lm_logits": Function(lm_logits, text | target),
            "generate_answer": Function(generate_answer, text, Writing, most),
        }
