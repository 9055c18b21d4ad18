"""BLIP that answers: the encoder reads a question beside a picture, and a decoder of its own writes
the answer beside the question's states (arXiv:2201.12086, section 4.4 and Figure 5; reference:
salesforce/BLIP blip_vqa.py).

Every answer of a question costs its summed loss times the share of annotators who gave it; the sum
is divided by the questions, not by tokens. The file exists because its decoder never sees the
picture.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
from einops import rearrange, repeat

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import ANY, Field
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring
from vlp_jax.losses.language import counted, text_loss
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.grounded import KEYS, Grounded
from vlp_jax.methods.kits.writing import Writer
from vlp_jax.models.flops import med_flops
from vlp_jax.models.med import MED, reads
from vlp_jax.nn.cache import States


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLIPAnswers(Grounded):
    """Parts image, text (an encoder) and answer (a decoder).

    Attributes:
      answer: config of the second MED; the others: see Grounded, whose text is the question.
      answers: distinct answers of a question that are learned, the commonest.
      answer_length: tokens of one; the tokenizer `answer` cuts and pads to it.
      label_smoothing: of the loss.
    """

    answer: Mapping[str, Any]
    answers: Size = 4
    answer_length: Size = 10
    label_smoothing: Rate = 0.1

    def __post_init__(self) -> None:
        """Raises UserError for other roles, or two vocabularies."""
        for key, role in (("text", "encoder"), ("answer", "decoder")):
            said = getattr(self, key).get("roles", "both")
            if said != role:
                raise UserError(f"method.{key}.roles={said!r}: must be {role!r}")
        ours, theirs = self.answer_net.vocab_size, self.text_net.vocab_size
        if ours != theirs:
            said = f"method.answer.vocab_size={ours}: must be method.text.vocab_size"
            raise UserError(f"{said}={theirs}")

    @cached_property
    def answer_net(self) -> MED:
        """The network that writes answers."""
        return self.tower("answer")

    def parts(self) -> dict[str, Part]:
        """image, text, answer."""
        answer = Part(self.answer_net, reads(self.answer_net, self.text_net.width))
        return {**super().parts(), "answer": answer}

    def fields(self) -> dict[str, Field]:
        """image; text, the question; answer: int32[B, K, T'] with answer_mask and answer_weight."""
        found = super().fields()
        how = dict(tokenizer="answer", count=self.answers, cut=False, mark=self.marks["decode"])
        how |= dict(length=self.answer_length, keys=(KEYS[0], "method.answer_length", KEYS[2]))
        answer = dataclasses.replace(found["text"], **how)
        question = dataclasses.replace(found["text"], mark=self.marks["ground"])
        return found | {"text": question, "answer": answer}

    def check_batch(self, batch_size: int) -> None:
        """See Grounded; answers too."""
        super().check_batch(batch_size)
        self.check_length("answer")

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: the weighted loss of each question's answers float32[B], and its loss without
        smoothing."""
        asked, count = self.question(v, x), self.answers
        each = States(*(repeat(a, "b ... -> (b k) ...", k=count) for a in asked))
        ids, mask = (
            rearrange(x.batch[name], "b k t -> (b k) t") for name in ("answer", "answer_mask")
        )
        keys = jax.vmap(lambda key: jax.random.split(key, count))(x.rng)  # [B, K]
        wide = x.replace(rng=keys.reshape(-1))
        logits = self.apply("answer", v, wide, ids, mask, each, mode="decode")[1]["logits"]
        losses = text_loss(logits, ids, counted(mask), self.label_smoothing)
        losses = [rearrange(loss, "(b k) -> b k", k=count) for loss in losses]
        answer, unsmoothed = ((loss * x.batch["answer_weight"]).sum(1) for loss in losses)
        return {"answer": answer, "unsmoothed": unsmoothed}, Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The mean over questions; metrics: the same without smoothing."""
        return x.share(rows["answer"]), Aux({"unsmoothed": x.share(rows["unsmoothed"])})

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one question with its answers."""
        length = text_length or self.text_length
        asked = med_flops(self.text_net, "ground", length, self.states_shape)
        states = length, self.text_net.width
        told = med_flops(self.answer_net, "decode", self.answer_length, states)
        return super().flops() + asked + self.answers * told

    def question(self, v: Vars, x: Inputs) -> States:
        """The question's states [B, T, D] beside the picture, with its mask."""
        ids, mask = x.batch["text"], x.batch.get("text_mask")
        return States(self.read(v, x, "ground", ids, mask, self.see(v, x, self.pixels(x)))[0], mask)

    def functions(self) -> dict[str, Function]:
        """answer_logits: float32[B, T', V] of each next token of `answer`, which starts with [DEC],
        to the question `text`, which starts with [ENC]; answer_loglik:
        float32[B, K], how likely each of `answers`, int32[B, K, L] from [DEC] on, is, and
        generate_answer (decoding/steps.py Written), to it; the others: see Grounded."""
        fields = self.fields()
        found = super().functions()

        def answer_logits(v: Vars, x: Inputs, _: None) -> Array:
            given = x.batch["answer"], x.batch.get("answer_mask"), self.question(v, x)
            return self.apply("answer", v, x, *given, mode="decode")[1]["logits"]

        def answerer(v: Vars, x: Inputs) -> Writer:
            return self.writer(v, x, "answer", self.answer_net, self.question(v, x))

        def generate_answer(v: Vars, x: Inputs, how: Writing) -> dict[str, Array]:
            return self.written(answerer(v, x), x, how)

        def answer_loglik(v: Vars, x: Inputs, how: Scoring) -> Array:
            return self.likely(answerer(v, x), x, "answers", how)

        asked = {"image": fields["image"], "text": self.given("ground")}
        told = dict(most=self.answer_net.context_length)
        read = asked | {"answer": self.given("decode", **told)}
        several = {"answers": self.given("decode", count=ANY, tokenizer="answer", **told)}
        return found | {
            "answer_logits": Function(answer_logits, read),
            "answer_loglik": Function(
                answer_loglik, asked | several, Scoring, self.answer_net.context_length
            ),
            "generate_answer": Function(
                generate_answer, asked, Writing, self.answer_net.context_length
            ),
        }
