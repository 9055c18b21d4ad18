"""BLIP that answers: the encoder reads a question beside a picture, and a decoder of its own writes
the answer beside the question's states (arXiv:2201.12086, section 4.4 and Figure 5).

The file exists because its decoder never sees the picture.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.grounded import Grounded
from vlp_jax.models.med import MED, reads
from vlp_jax.nn.cache import States


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLIPAnswers(Grounded):
    """Parts image, text (an encoder) and answer (a decoder); nothing trains them yet.

    Attributes:
      answer: config of the second MED; the others: see Grounded, whose text is the question.
    """

    answer: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raises UserError for other roles."""
        for key, role in (("text", "encoder"), ("answer", "decoder")):
            said = getattr(self, key).get("roles", "both")
            if said != role:
                raise UserError(f"method.{key}.roles={said!r}: must be {role!r}")

    @cached_property
    def answer_net(self) -> MED:
        """The network that writes answers."""
        return self.tower("answer")

    def parts(self) -> dict[str, Part]:
        """image, text, answer."""
        answer = Part(self.answer_net, reads(self.answer_net, self.text_net.width))
        return {**super().parts(), "answer": answer}

    def encode(self, v: Vars, x: Inputs) -> tuple[Any, Aux]:
        """Raises UserError: nothing here trains."""
        raise UserError("method.name=blip_vqa: has no loss yet")

    def question(self, v: Vars, x: Inputs) -> States:
        """The question's states [B, T, D] beside the picture, with its mask."""
        ids, mask = x.batch["text"], x.batch.get("text_mask")
        return States(self.read(v, x, "ground", ids, mask, self.see(v, x, self.pixels(x)))[0], mask)

    def functions(self) -> dict[str, Function]:
        """answer_logits: float32[B, T', V] of each next token of `answer`, which starts with [DEC],
        to the question `text`, which starts with [ENC]; generate_answer: to it
        (decoding/steps.py Written); the others: see Grounded."""
        fields = self.fields()
        found = super().functions()

        def answer_logits(v: Vars, x: Inputs, _: None) -> Array:
            given = x.batch["answer"], x.batch.get("answer_mask"), self.question(v, x)
            return self.apply("answer", v, x, *given, mode="decode")[1]["logits"]

        def generate_answer(v: Vars, x: Inputs, how: Writing) -> dict[str, Array]:
            asked = self.question(v, x)
            return self.written(v, x, "answer", self.answer_net, asked, "prompt", how)

        asked = {"image": fields["image"], "text": self.given("ground")}
        read = asked | {"answer": self.given("decode")}
        return found | {
            "answer_logits": Function(answer_logits, read),
            "generate_answer": Function(generate_answer, asked, Writing),
        }
