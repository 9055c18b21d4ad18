"""BLIP-2's second stage: what the queries saw, put in front of a frozen language model's words
(arXiv:2301.12597, section 3.2; reference: salesforce/LAVIS blip2_opt.py and blip2_t5.py).

The language model is a decoder (OPT, LLaMA, ...), which reads the queries, a prompt and the text
one after the other, or a T5, whose encoder reads the queries and a prompt and whose decoder writes
the text. By switches: prompt tuning (arXiv:2104.08691), and queries that read the prompt too
(InstructBLIP, arXiv:2305.06500). The file exists to hold what stands behind the queries.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import ANY, Field, Text
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Range, Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring
from vlp_jax.losses.language import token_loss
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.querying import Querying
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.methods.kits.writing import (
    Writer,
    after_encoding,
    after_words,
    caller,
    likelihood,
    write,
)
from vlp_jax.models import t5
from vlp_jax.models.flops import lm_flops, qformer_flops, t5_flops
from vlp_jax.models.head import Head
from vlp_jax.models.t5 import T5
from vlp_jax.nn.precision import DTYPES

KEYS = ("method.lm.vocab_size", "method.text_length", "method.end_ids")
Words = tuple[Array, Array]  # ids int32[B, T] and which are real, bool[B, T]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLIP2LM(Querying):
    """Querying (methods/kits/querying.py) with a linear map `proj` into the words of `lm`.

    Attributes:
      lm: config of the language model (models/decoder_lm.py, models/t5.py).
      frozen_lm, lm_dtype: it stays as it is, its weights in this dtype.
      text_length, prompt_length: tokens of the text, and of the prompt before it, which is read and
        not learned; 0: there is none.
      start_id: begins what a T5 writes (-1: it is 0), and what a decoder does where there is no
        prompt (-1: nothing does).
      end_ids: end what is written; a single one must be the tokenizer's own end, among several
        nobody checks which ends training texts. A T5's `split` ends what is read with the first.
      split: of a T5 without prompts: each text is cut in two at random, the first part is read.
      prompt_tokens: of a text's beginning, its start included, which without prompts is read and
        not learned ("a photo of").
      soft_prompt: learned vectors before the queries', in place of words.
      instructed: queries read the prompt, too, by a tokenizer of their own (`qformer`).
      label_smoothing: of the loss.
    """

    lm: Mapping[str, Any]
    frozen_lm: bool = True
    lm_dtype: str = "float32"
    text_length: Size = 32
    prompt_length: Annotated[int, Range(0)] = 0
    start_id: int = -1
    end_ids: tuple[int, ...]
    split: bool = False
    prompt_tokens: Annotated[int, Range(0)] = 0
    soft_prompt: Annotated[int, Range(0)] = 0
    instructed: bool = False
    label_smoothing: Rate = 0.0

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        size, places = self.lm_net.vocab_size, self.places
        if self.lm_dtype not in DTYPES:
            hint = nearest(self.lm_dtype, DTYPES)
            raise UserError(f"method.lm_dtype: unknown {self.lm_dtype!r}{hint}")
        if not self.end_ids:
            raise UserError(
                "method.end_ids=(): name an id that ends a text, or none would ever end"
            )
        for key, ids, least in (("end_ids", self.end_ids, 0), ("start_id", (self.start_id,), -1)):
            if wrong := [one for one in ids if not least <= one < size]:
                raise UserError(f"method.{key}={wrong[0]}: no id below method.lm.vocab_size={size}")
        if self.split and (self.prompt_length or not self.encodes):
            raise UserError("method.split: is of a T5 without method.prompt_length")
        if self.prompt_tokens and (self.prompt_length or self.split):
            raise UserError("method.prompt_tokens: is of texts without method.prompt_length, split")
        if self.prompt_tokens >= self.text_length:
            all_of = f"leaves out all text_length={self.text_length} tokens of a text"
            raise UserError(f"method.prompt_tokens={self.prompt_tokens}: {all_of}")
        if self.instructed and not (self.prompt_length and self.query_net.has("read")):
            need = "needs method.prompt_length and method.qformer.texts='read'"
            raise UserError(f"method.instructed: {need}")
        before = self.seen + self.prompt_length
        if not self.encodes and before + self.text_length > places:
            said = f"{self.seen} queries, method.prompt_length={self.prompt_length} and"
            said += f" method.text_length={self.text_length}"
            raise UserError(f"{said}: the language model takes {places} tokens")

    @functools.cached_property
    def lm_net(self) -> nn.Module:
        """The language model."""
        return self.tower("lm")

    @property
    def encodes(self) -> bool:
        """Whether the language model is a T5."""
        return isinstance(self.lm_net, T5)

    @property
    def first(self) -> int:
        """The id that begins what is written, 0 where none is said."""
        return max(self.start_id, 0)

    @property
    def places(self) -> int:
        """Tokens that it takes at most."""
        return self.lm_net.context_length if self.encodes else self.lm_net.places

    @property
    def seen(self) -> int:
        """How many vectors stand before the words."""
        return self.soft_prompt + self.query_net.num_queries

    def fields(self) -> dict[str, Field]:
        """image, or image_states; text: int32[B, T] with its end; where there are prompts prompt:
        int32[B, P], which text goes on from without a start of its own, and where queries read
        them instruction: the same by their own tokenizer."""
        how = {"end": self.end_ids[0] if len(self.end_ids) == 1 else -1}
        if not self.prompt_length:
            return super().fields() | {"text": self.words(self.text_length, **how)}
        text = self.words(self.text_length, bare=True, **how)
        both = {"text": text, "prompt": self.begun(self.prompt_length)}
        return super().fields() | both | self.instruction

    def begun(self, length: int, **how: Any) -> Text:
        """A field of prompts: without their end, but for a T5, whose encoder reads it."""
        return self.words(length, open=not self.encodes, **how)

    def words(self, length: int, **how: Any) -> Text:
        """A field of words of the language model."""
        return Text(length, self.lm_net.vocab_size, mask=True, keys=KEYS, **how)

    @property
    def instruction(self) -> dict[str, Field]:
        """The field of what queries read, {} where they read nothing."""
        if not self.instructed:
            return {}
        how = dict(tokenizer="qformer", mask=True, of="prompt")
        length = min(self.prompt_length, self.query_net.context_length)
        return {"instruction": Text(length, self.query_net.vocab_size, **how)}

    @property
    def shown(self) -> dict[str, Field]:
        """See Querying; with the instruction."""
        return super().shown | self.instruction

    def parts(self) -> dict[str, Part]:
        """Those of Querying, proj, lm and, where there is one, soft_prompt."""
        net, found = self.lm_net, super().parts()
        wide = getattr(net, "word_width", 0) or net.width
        found["proj"] = Part(Head(wide), (floats(1, self.query_net.width),))
        inputs = t5.reads() if self.encodes else (jax.ShapeDtypeStruct((1, 2), jnp.int32),)
        dtype = self.lm_dtype if self.frozen_lm else "float32"
        found["lm"] = Part(net, inputs, self.frozen_lm, dtype)
        if self.soft_prompt:
            shape = self.soft_prompt, wide
            found["soft_prompt"] = Part(Leaf(lambda key: 0.02 * jax.random.normal(key, shape)))
        return found

    def totals(self, x: Inputs) -> dict[str, Array]:
        """rows, and the tokens that are learned."""
        tokens = self.parted(x)[1][1].sum()
        return {**super().totals(x), "tokens": jnp.maximum(jnp.float32(tokens), 1)}

    def parted(self, x: Inputs) -> tuple[Words | None, Words]:
        """(What is read before the text, the text)."""
        ids, mask = x.batch["text"], x.batch["text_mask"]
        if not (self.split or self.prompt_tokens):
            return self.prompt(x), (ids, mask)
        cut = jnp.full(len(ids), self.prompt_tokens)
        if self.split:
            rng, count = x.fold("split").rng, jnp.maximum(mask.sum(1), 2)
            cut = jax.vmap(lambda key, n: jax.random.randint(key, (), 1, n))(rng, count)
        place, cut = jnp.arange(ids.shape[1]), cut[:, None]
        later = place + cut
        rest = jnp.take_along_axis(ids, jnp.minimum(later, ids.shape[1] - 1), axis=1)
        first = ids, mask & (place < cut)
        if self.encodes:  # it reads an end, as of prompts
            first = jnp.where(place == cut, self.end_ids[0], ids), mask & (place <= cut)
        return first, (rest, later < mask.sum(1, keepdims=True))

    def prompt(self, x: Inputs) -> Words | None:
        """The field prompt where there is one."""
        ids, mask = x.batch.get("prompt"), x.batch.get("prompt_mask")
        if ids is None:
            return None
        return ids, jnp.ones(ids.shape, bool) if mask is None else mask

    def ask(self, v: Vars, x: Inputs) -> Array:
        """The queries' last states, where they are instructed beside the instruction."""
        if not self.instructed:
            return super().ask(v, x)
        given = x.batch["instruction"], x.batch.get("instruction_mask")
        states = self.norm(v, x, self.see(v, x))
        return self.read(v, x, "bidirectional", *given, states)[0][:, : self.query_net.num_queries]

    def prefix(self, v: Vars, x: Inputs) -> Array:
        """What stands before the words, float[B, S, W]."""
        shown = self.apply("proj", v, x, self.ask(v, x))
        if not self.soft_prompt:
            return shown
        learned = jnp.broadcast_to(
            v.params["soft_prompt"], (len(shown), *v.params["soft_prompt"].shape)
        )
        return jnp.concatenate([learned, shown], axis=1)

    def behind(self, v: Vars, x: Inputs, ids: Array, mask: Array) -> Words:
        """What stands before the words with the words, float[B, S + T, W], and what is real."""
        prefix = self.prefix(v, x)
        words = self.apply("lm", v, x, ids, mode="words")
        whole = jnp.concatenate([prefix.astype(words.dtype), words], axis=1)
        return whole, jnp.pad(mask, ((0, 0), (self.seen, 0)), constant_values=True)

    def predicted(self, v: Vars, x: Inputs, before: Words | None, text: Words) -> tuple:
        """(logits float32[B, N, V], the words that they are of int32[B, N], which are learned)."""
        ids, mask = text
        if self.encodes:
            read = before or (jnp.zeros((len(ids), 0), jnp.int32), jnp.zeros((len(ids), 0), bool))
            first = jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=self.first)
            return self.written(v, x, read, first), ids, mask
        learned = mask
        if before is not None:
            ids, mask, learned = packed(before, text)
        whole, real = self.behind(v, x, ids, mask)
        asked = self.seen - 1 + jnp.arange(ids.shape[1])[None]  # each word by what is before it
        return self.apply("lm", v, x, whole, real, None, asked)[1]["logits"], ids, learned

    def written(self, v: Vars, x: Inputs, read: Words, target: Array) -> Array:
        """A T5's logits float32[B, U, V] of each token after those of target."""
        return self.apply("lm", v, x, *self.behind(v, x, *read), target)[1]["logits"]

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: summed losses of the texts with and without smoothing, float32[B]."""
        logits, ids, learned = self.predicted(v, x, *self.parted(x))
        sums = [
            jnp.where(learned, token_loss(logits, ids, smoothing), 0).sum(1)
            for smoothing in (self.label_smoothing, 0.0)
        ]
        return dict(zip(("lm", "nats"), sums, strict=True)), Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The mean over tokens; nats: without smoothing."""
        shares = {name: x.share(each, "tokens") for name, each in rows.items()}
        return shares.pop("lm"), Aux(shares)

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one picture with its prompt and text."""
        mode = "bidirectional" if self.instructed else "queries"
        asked = qformer_flops(self.query_net, mode, self.prompt_length, self.states_shape)
        before, length = self.seen + self.prompt_length, text_length or self.text_length
        if self.encodes:
            return super().flops() + asked + t5_flops(self.lm_net, before, length)
        return super().flops() + asked + lm_flops(self.lm_net, before + length)

    def speaker(self, v: Vars, x: Inputs) -> tuple[Writer, Words]:
        """(The language model behind what it was shown, where it begins)."""
        run, net = caller(self, v, x, "lm", self.lm_net)
        start = jnp.full((len(x.index), 1), self.first, jnp.int32)
        begins = jnp.full(start.shape, self.start_id >= 0)
        if not self.encodes:
            return after_words(run, net, self.prefix(v, x)), self.prompt(x) or (start, begins)
        read = self.prompt(x) or (start, ~(start == start))
        return after_encoding(run, net, *self.behind(v, x, *read)), (start, start == start)

    def functions(self) -> dict[str, Function]:
        """lm_logits: float32[B, T, V] of the token after each of `text`, which stands behind the
        queries; of a T5, whose encoder reads `text`, float32[B, U, V] of the token after each of
        `target`, which starts with start_id. generate_text: what follows `prompt`
        (decoding/steps.py Written), and generate_answer the same where there must be one; loglik
        and answer_loglik: float32[B, K], how likely each of `texts`, or `answers`, int32[B, K, L],
        does, their first id left out. The others: see Querying.
        """
        shown, most = self.shown, self.places - (0 if self.encodes else self.seen)
        text = shown | {"text": self.words(most)}

        def lm_logits(v: Vars, x: Inputs, _: None) -> Array:
            ids, mask = x.batch["text"], x.batch.get("text_mask")
            words = ids, jnp.ones(ids.shape, bool) if mask is None else mask
            if self.encodes:
                return self.written(v, x, words, x.batch["target"])
            asked = self.seen + jnp.arange(ids.shape[1])[None]
            return self.apply("lm", v, x, *self.behind(v, x, *words), None, asked)[1]["logits"]

        def generate_text(v: Vars, x: Inputs, how: Writing) -> dict[str, Array]:
            writer, prompt = self.speaker(v, x)
            return write(writer, *prompt, how, (*self.end_ids, *how.stop), x.rng)._asdict()

        def loglik(texts: str, v: Vars, x: Inputs, how: Scoring) -> Array:
            writer, prompt = self.speaker(v, x)
            return likelihood(writer, *prompt, x.batch[texts], x.batch.get(f"{texts}_mask"), how)

        def scores(texts: str, read: dict[str, Field]) -> Function:
            several = {texts: self.words(most, start=True, count=ANY)}
            return Function(functools.partial(loglik, texts), read | several, Scoring, most)

        target = {"target": dataclasses.replace(self.words(most), mask=False)}
        read = shown | {"prompt": self.begun(most, optional=True)}
        asked = shown | {"prompt": self.begun(most)}
        found = super().functions()
        if self.instructed:
            del found["features"]  # which are of a picture alone
        return found | {
            "lm_logits": Function(lm_logits, text | (target if self.encodes else {})),
            "generate_text": Function(generate_text, read, Writing, most),
            "generate_answer": Function(generate_text, asked, Writing, most),
            "loglik": scores("texts", read),
            "answer_loglik": scores("answers", asked),
        }


def packed(first: Words, second: Words) -> tuple[Array, Array, Array]:
    """Two texts of every row one behind the other without padding between them: (ids int32[B, N],
    what is real, what of it is the second's, bool[B, N]).

    Worked example: 5 6 _ and 7 8 give 5 6 7 8 _, of which 7 8 are the second's.
    """
    ids, real = (jnp.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    later = jnp.arange(ids.shape[1]) >= first[0].shape[1]
    order = jnp.argsort(~real, axis=1, stable=True)
    take = lambda a: jnp.take_along_axis(a, order, axis=1)  # noqa: E731
    return take(ids), take(real), take(real & later)
