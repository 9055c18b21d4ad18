"""A decoder-only language model, trained on texts alone (the next token of each, in nats), or as it
was released.

The file exists so that small language models can be made here, and released ones converted, read
and measured, before a picture is shown to them.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import ANY, Field, Text
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring
from vlp_jax.losses.language import counted, text_loss
from vlp_jax.methods.base import Function, Method, Part
from vlp_jax.methods.kits.writing import Writer, after_words, caller, likelihood, write
from vlp_jax.models.flops import lm_flops
from vlp_jax.models.towers import make_tower

KEYS = ("method.lm.vocab_size", "method.text_length", "method.end_ids")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel(Method):
    """One part, `lm` (models/decoder_lm.py).

    Attributes:
      lm: its config.
      text_length: tokens of a training text; 0: as many as the network was made for.
      start_id: begins a text that has no prompt, where the tokenizer has no start; -1: none does.
      end_ids: end what is written; where there are none, texts end at max_new or by a stop word.
      label_smoothing: of the loss.
      dtype, remat, unroll: defaults of the network.
    """

    lm: Mapping[str, Any]
    text_length: int = 0
    start_id: int = -1
    end_ids: tuple[int, ...] = ()
    label_smoothing: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for ids that are none, or texts longer than the network takes."""
        size, places = self.net.vocab_size, self.net.places
        for key, ids in (("start_id", (self.start_id,)), ("end_ids", self.end_ids)):
            for one in ids:
                if not (0 <= one < size or (key == "start_id" and one == -1)):
                    raise UserError(f"method.{key}={one}: no id below method.lm.vocab_size={size}")
        if not 0 <= self.text_length <= places:
            most = f"the language model takes {places} tokens"
            raise UserError(f"method.text_length={self.text_length}: {most}")

    @cached_property
    def net(self) -> nn.Module:
        """The network."""
        shared = dict(dtype=self.dtype, remat=self.remat, unroll=self.unroll)
        return make_tower(self.lm, "method.lm", **shared)

    def fields(self) -> dict[str, Field]:
        """text: int32[B, T] with its end, and text_mask."""
        return {"text": self.texts(self.text_length or self.net.places, cut=True)}

    def texts(self, length: Size, **how: Any) -> Text:
        """A field of texts of so many tokens."""
        end = self.end_ids[0] if len(self.end_ids) == 1 and how.get("cut") else -1
        return Text(length, self.net.vocab_size, mask=True, keys=KEYS, end=end, **how)

    def parts(self) -> dict[str, Part]:
        """lm."""
        return {"lm": Part(self.net, (jax.ShapeDtypeStruct((1, 2), jnp.int32),))}

    def totals(self, x: Inputs) -> dict[str, Array]:
        """rows, and the tokens that are predicted."""
        tokens = counted(x.batch["text_mask"]).sum()
        return {**super().totals(x), "tokens": jnp.maximum(jnp.float32(tokens), 1)}

    def logits(self, v: Vars, x: Inputs) -> Array:
        """float32[B, T, V] of each next token."""
        return self.apply("lm", v, x, x.batch["text"], x.batch.get("text_mask"))[1]["logits"]

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: summed losses of the texts with and without smoothing, float32[B]."""
        logits, ids = self.logits(v, x), x.batch["text"]
        loss, plain = text_loss(logits, ids, counted(x.batch["text_mask"]), self.label_smoothing)
        return {"loss": loss, "nats": plain}, Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The mean over tokens; nats: without smoothing, whose exponential is the perplexity."""
        shares = {name: x.share(each, "tokens") for name, each in rows.items()}
        return shares.pop("loss"), Aux(shares)

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one text."""
        return lm_flops(self.net, text_length or self.fields()["text"].length)

    def writer(self, v: Vars, x: Inputs) -> Writer:
        """The network, which goes on from a prompt."""
        return after_words(*caller(self, v, x, "lm", self.net))

    def prompt(self, x: Inputs) -> tuple[Array, Array | None]:
        """The field `prompt` with its mask; start_id where a prompt is empty."""
        ids, mask = x.batch.get("prompt"), x.batch.get("prompt_mask")
        if ids is None:
            ids, mask = jnp.zeros((len(x.index), 1), jnp.int32), None
            empty = jnp.ones((len(x.index), 1), bool)
        else:
            mask = jnp.ones(ids.shape, bool) if mask is None else mask
            empty = ~mask[:, :1]
        if self.start_id < 0:
            return ids, mask
        first = jnp.arange(ids.shape[1]) == 0
        mask = None if mask is None else mask | (empty & first)
        return jnp.where(empty & first, self.start_id, ids), mask

    def functions(self) -> dict[str, Function]:
        """lm_logits: float32[B, T, V] of each next token; nats: {loss, tokens} float32[B], what a
        text's tokens after the first cost and how many there are; generate_text: what follows
        `prompt` (decoding/steps.py Written); loglik: float32[B, K], how likely each of `texts`,
        int32[B, K, L], follows it, their first id left out.
        """
        most = self.net.places
        text = {"text": self.texts(most)}
        prompt = {"prompt": self.texts(most, open=True, optional=True)}

        def lm_logits(v: Vars, x: Inputs, _: None) -> Array:
            return self.logits(v, x)

        def nats(v: Vars, x: Inputs, _: None) -> dict[str, Array]:
            ids, mask = x.batch["text"], x.batch.get("text_mask")
            count = counted(jnp.ones(ids.shape, bool) if mask is None else mask)
            loss = text_loss(self.logits(v, x), ids, count)[1]
            return {"loss": loss, "tokens": count.sum(1).astype(jnp.float32)}

        def generate_text(v: Vars, x: Inputs, how: Writing) -> dict[str, Array]:
            stop = (*self.end_ids, *how.stop)
            return write(self.writer(v, x), *self.prompt(x), how, stop, x.rng)._asdict()

        def loglik(v: Vars, x: Inputs, how: Scoring) -> Array:
            given = x.batch["texts"], x.batch.get("texts_mask")
            return likelihood(self.writer(v, x), *self.prompt(x), *given, how)

        return {
            "lm_logits": Function(lm_logits, text),
            "nats": Function(nats, text),
            "generate_text": Function(generate_text, prompt, Writing, most),
            "loglik": Function(
                loglik, prompt | {"texts": self.texts(most, start=True, count=ANY)}, Scoring, most
            ),
        }
