"""BLIP that judges whether a sentence is true of two pictures (NLVR2; arXiv:2201.12086, section
5.4; reference: salesforce/BLIP blip_nlvr.py).

The text's encoder looks at each picture by a cross-attention of its own (models/med.py
merge_from), and the state of [ENC] is classified. The file exists because pairs of pictures have
their own network and their own draw: the two may change places, and `left` and `right` with them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Label
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Chance
from vlp_jax.core.types import Array
from vlp_jax.losses.language import token_loss
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.grounded import Grounded
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.flops import med_flops
from vlp_jax.models.head import Head

PAIR = ("image", "second_image")  # fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLIPPairs(Grounded):
    """Parts image, text (an encoder that looks at two pictures) and judge.

    Attributes:
      swap: share of pairs that change places in training.
      sides: the ids of `left` and `right`, which change places in a sentence where its pictures do;
        (): no words do.
      The others: see Grounded.
    """

    swap: Chance = 0.5
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises UserError for a text side that looks at one picture, or sides that are no two."""
        if self.text_net.merge_from < 0:
            raise UserError("method.text.merge_from=-1: two pictures need it, 6 of 12 layers")
        self.text_net.stack_config()
        if len(self.sides) not in (0, 2):
            raise UserError(f"method.sides={self.sides}: the ids of left and right, or ()")

    def fields(self) -> dict[str, Field]:
        """image and second_image, each with draws of its own; text; label: 0 false, 1 true."""
        found = super().fields()
        text = dataclasses.replace(found["text"], mark=self.marks["ground"])
        return {**dict.fromkeys(PAIR, found["image"]), "text": text, "label": Label(2)}

    def parts(self) -> dict[str, Part]:
        """image, text, judge."""
        width = self.text_net.width
        return {**super().parts(), "judge": Part(Head(2, (width,)), (floats(1, width),))}

    def pair(self, v: Vars, x: Inputs) -> Array:
        """Normalised tokens of both pictures, [B, 2, N, D]."""
        both = jnp.stack([x.batch[name] for name in PAIR], axis=1)
        keys = jax.vmap(lambda key: jax.random.split(key, 2))(x.rng)  # [B, 2]
        wide = x.replace(rng=keys.reshape(-1))
        pixels = self.prepare(rearrange(both, "b two h w c -> (b two) h w c"), wide.keys)
        return rearrange(self.see(v, wide, pixels), "(b two) n d -> b two n d", two=2)

    def judged(self, v: Vars, x: Inputs, states: Array, ids: Array) -> Array:
        """float32[B, 2], logits of false and true, of what [ENC] saw."""
        ids, mask = self.marked(ids, "ground"), x.batch.get("text_mask")
        read, _ = self.read(v, x, "ground", ids, mask, states)
        return self.apply("judge", v, x, read[:, 0].astype(jnp.float32))

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: the cross-entropy of each pair and whether its judgement is right."""
        states, ids = self.pair(v, x), x.batch["text"]
        if x.train and self.swap:
            draw = jax.vmap(lambda key: jax.random.bernoulli(key, self.swap))
            turned = draw(x.fold("swap").rng)  # [B]
            states = jnp.where(turned[:, None, None, None], states[:, ::-1], states)
            ids = jnp.where(turned[:, None], exchanged(ids, self.sides), ids)
        logits, truth = self.judged(v, x, states, ids), x.batch["label"]
        return {"loss": token_loss(logits, truth), "right": logits.argmax(-1) == truth}, Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The mean cross-entropy; metrics: accuracy."""
        return x.share(rows["loss"]), Aux({"accuracy": x.share(rows["right"])})

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one sentence about two pictures."""
        length = text_length or self.text_length
        return 2 * super().flops() + med_flops(self.text_net, "ground", length, self.states_shape)

    def functions(self) -> dict[str, Function]:
        """pair_logits: float32[B, 2] of false and true, of the sentence `text` about `image` and
        `second_image`; the others: see Grounded."""
        fields = self.fields()
        read = {name: fields[name] for name in PAIR} | {"text": self.given("ground")}

        def pair_logits(v: Vars, x: Inputs, _: None) -> Array:
            return self.judged(v, x, self.pair(v, x), x.batch["text"])

        return super().functions() | {"pair_logits": Function(pair_logits, read)}


def exchanged(ids: Array, sides: tuple[int, ...]) -> Array:
    """ids with the two of `sides` in each other's places.

    Worked example: [7, 5, 6, 5] with sides (5, 6) is [7, 6, 5, 6].
    """
    if not sides:
        return ids
    left, right = sides
    return jnp.where(ids == left, right, jnp.where(ids == right, left, ids))
