"""A picture's states and one BERT that reads beside them: what BLIP's trainings share (blip.md 2).

The file exists so that pre-training, captioning and answering say their losses and nothing else.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vlp_jax.augment import pictures
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import ANY, Field, Numbers, Text
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.varied import Varied
from vlp_jax.methods.kits.writing import Writer, beside_states, caller, likelihood, prompt_of, write
from vlp_jax.models.med import MED, reads
from vlp_jax.nn.cache import States

KEYS = ("method.text.vocab_size", "method.text_length", "method.end_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounded(Varied):
    """Parts image (all normalised tokens of a ViT, the class token first) and text (models/med.py).

    Attributes:
      text: config of the MED; the others: see Varied and Trunk.
      text_length: tokens of a training text.
      dec_id: the id of [DEC], which begins what is written; -1: the last but one of the vocabulary.
        [ENC], which begins what is read beside a picture, is the id after it.
      end_id: the id of [SEP], which ends texts.
    """

    text: Mapping[str, Any]
    image_mean: tuple[float, float, float] = pictures.CLIP_MEAN
    image_std: tuple[float, float, float] = pictures.CLIP_STD
    text_length: Size = 30
    dec_id: int = -1
    end_id: int = 102

    fill = (128.0, 128.0, 128.0)  # as in the reference

    @functools.cached_property
    def text_net(self) -> MED:
        """The network of texts."""
        return self.tower("text")

    @functools.cached_property
    def states_shape(self) -> tuple[int, int]:
        """(tokens of a picture, their width)."""
        return self.image_shapes["pooled"].shape[1:]

    @property
    def marks(self) -> dict[str, int]:
        """The first id of a text by the mode that reads it; `text` keeps its own.

        Raises:
          UserError: the vocabulary has no place for both.
        """
        size = self.text_net.vocab_size
        dec = size - 2 if self.dec_id < 0 else self.dec_id
        if not 0 <= dec < size - 1:
            need = f"[DEC] and [ENC] are two ids below method.text.vocab_size={size}"
            raise UserError(f"method.dec_id={self.dec_id}: {need}")
        return {"decode": dec, "ground": dec + 1}

    def fields(self) -> dict[str, Field]:
        """image and text: int32[B, T] from [CLS] to [SEP], with text_mask."""
        # the tokenizer's own ids lie below [DEC] and [ENC]
        size = self.text_net.vocab_size
        known = min(size, *self.marks.values())
        how = dict(own=size - known, keys=KEYS, mask=True, cut=True, start=True, end=self.end_id)
        text = Text(self.text_length, known, **how)
        return {**super().fields(), "text": text}

    def check_batch(self, batch_size: int) -> None:
        """See Method; texts keep to their network's places."""
        super().check_batch(batch_size)
        self.check_length("text")

    def check_length(self, part: str) -> None:
        """Raises UserError where the texts of `part` are longer than its network takes."""
        length, places = getattr(self, f"{part}_length"), self.tower(part).context_length
        if length > places:
            most = f"method.{part}.context_length={places}"
            raise UserError(f"method.{part}_length={length}: must be at most {most}")

    def given(self, mode: str, **how: Any) -> Text:
        """The field of a text that a function takes as it is; its first id is that of a mode."""
        size, most = self.text_net.vocab_size, self.text_net.context_length
        usual = dict(mask=True, mark=self.marks.get(mode, -1), most=most)
        return Text(self.text_length, size, **usual | how)

    def parts(self) -> dict[str, Part]:
        """image and text."""
        count, width = self.states_shape
        return {**super().parts(), "text": Part(self.text_net, reads(self.text_net, width, count))}

    def see(self, v: Vars, x: Inputs, pixels: Array) -> Array:
        """Normalised tokens [B, N, D] of float32[B, S, S, 3]."""
        return self.run_image(v, x, pixels)[0]

    def pixels(self, x: Inputs) -> Array:
        """The field image as the tower takes it."""
        return self.prepare(x.batch["image"], x.keys)

    def read(
        self, v: Vars, x: Inputs, mode: str, ids: Array, mask: Array | None, states: Array | None
    ) -> tuple[Array, dict[str, Any]]:
        """The MED in a mode on ids as they are: (states [B, T, D], its other outputs)."""
        return self.apply("text", v, x, ids, mask, states, mode=mode)

    def marked(self, ids: Array, mode: str) -> Array:
        """ids with the first one of a mode."""
        return ids.at[:, 0].set(self.marks[mode])

    def functions(self) -> dict[str, Function]:
        """image_states: float32[B, N, D]; where `text` writes, lm_logits: float32[B, T, V] of each
        next token of a text that starts with [DEC], generate_text: what follows `prompt`, [DEC]
        alone where there is none (decoding/steps.py Written), and loglik: float32[B, K], how likely
        each of `texts`, int32[B, K, L] from [DEC] on, follows it; features, pixels: see Trunk.
        """
        image = {"image": self.fields()["image"]}
        prompt = self.given("decode", open=True, optional=True)

        def image_states(v: Vars, x: Inputs, _: None) -> Array:
            return self.see(v, x, self.pixels(x)).astype(jnp.float32)

        def features(v: Vars, x: Inputs, _: None) -> Array:
            return image_states(v, x, None)[:, 0]

        def lm_logits(v: Vars, x: Inputs, _: None) -> Array:
            states = self.see(v, x, self.pixels(x))
            ids, mask = x.batch["text"], x.batch.get("text_mask")
            return self.read(v, x, "decode", ids, mask, states)[1]["logits"]

        def speaker(v: Vars, x: Inputs) -> Writer:
            states = States(self.see(v, x, self.pixels(x)))
            return self.writer(v, x, "text", self.text_net, states)

        def generate_text(v: Vars, x: Inputs, how: Writing) -> dict[str, Array]:
            return self.written(speaker(v, x), x, how)

        def loglik(v: Vars, x: Inputs, how: Scoring) -> Array:
            return self.likely(speaker(v, x), x, "texts", how)

        found = {
            "features": Function(features, image),
            "image_states": Function(image_states, image),
        }
        if self.text_net.roles != "encoder":
            found["lm_logits"] = Function(lm_logits, image | {"text": self.given("decode")})
            read = image | {"prompt": prompt}
            found["generate_text"] = Function(
                generate_text, read, Writing, self.text_net.context_length
            )
            texts = {"texts": self.given("decode", count=ANY)}
            found["loglik"] = Function(loglik, read | texts, Scoring, self.text_net.context_length)
        return super().functions() | found

    def writer(self, v: Vars, x: Inputs, part: str, net: MED, states: States) -> Writer:
        """`part`, whose network is `net`, beside states."""
        return beside_states(*caller(self, v, x, part, net), states)

    def written(self, writer: Writer, x: Inputs, how: Writing) -> dict[str, Array]:
        """What is written after the prompt: decoding/steps.py Written as a dict."""
        prompt = prompt_of(x, self.marks["decode"])
        return write(writer, *prompt, how, (self.end_id, *how.stop), x.rng)._asdict()

    def likely(self, writer: Writer, x: Inputs, texts: str, how: Scoring) -> Array:
        """float32[B, K], how likely each of the field `texts` is after the prompt."""
        given = x.batch[texts], x.batch.get(f"{texts}_mask")
        return likelihood(writer, *prompt_of(x, self.marks["decode"]), *given, how)

    @property
    def states_field(self) -> Numbers:
        """image_states as another function reads them."""
        return Numbers(self.states_shape)
