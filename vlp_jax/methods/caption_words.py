"""Which words would a caption of this picture hold? Detectors of words that learn from captions
alone (arXiv:1411.4952, section 3: multiple-instance learning by noisy-OR).

Every token of the tower gives each word a chance, and a picture lacks a word only if all of its
tokens do. The file exists because a tower learns what lies where from words long before it learns
it from sentences (BLIP's small form starts from such a tower), and to compare with: the words of a
caption are the simplest thing to predict of it (arXiv:2103.00020, Figure 2).
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.fields import Field, Text
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Range, Size
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.trunk import Trunk, floats

KEYS = ("method.vocab_size", "method.text_length")
LEAST = 1e-6  # of a word's chance, so that its logarithm is finite


class Detectors(nn.Module):
    """Tokens [B, N, D] to log(1 - p), float32[B, V], of p, that any token shows the word.

    Attributes:
      words: V.
      start: p of every word before training.
    """

    words: int
    start: float

    @nn.compact
    def __call__(self, tokens: Array, rng: Array | None = None) -> Array:
        del rng
        one = self.start / tokens.shape[1]
        bias = nn.initializers.constant(float(np.log(one / (1 - one))))
        each = nn.Dense(self.words, bias_init=bias, name="words")(tokens.astype(jnp.float32))
        return jnp.minimum(jax.nn.log_sigmoid(-each).sum(1), np.log1p(-LEAST))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionWords(Trunk):
    """Parts image (all normalised tokens of a ViT: pool='none') and head.

    Attributes:
      vocab_size: V; every id of the tokenizer is a word, [CLS] and [SEP] too, which cost nothing
        once they are known to be everywhere.
      text_length: tokens of a caption.
      start: chance of every word before training.
    """

    vocab_size: Size = 30524
    text_length: Size = 30
    start: Annotated[float, Range(1e-6, 0.5)] = 0.02

    def fields(self) -> dict[str, Field]:
        """image and text: int32[B, T] with text_mask."""
        text = Text(self.text_length, self.vocab_size, mask=True, keys=KEYS)
        return {**super().fields(), "text": text}

    def parts(self) -> dict[str, Part]:
        """image and head."""
        tokens = floats(*self.image_shapes["pooled"].shape)
        return {**super().parts(), "head": Part(Detectors(self.vocab_size, self.start), (tokens,))}

    def detect(self, v: Vars, x: Inputs) -> tuple[Array, Extra]:
        """(log(1 - p) float32[B, V], batch statistics that moved)."""
        tokens, _, moved = self.run_image(v, x, self.prepare(x.batch["image"], x.keys))
        return self.apply("head", v, x, tokens), moved

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows, each float32[B]: loss, the summed cross-entropy of all words, in nats; found, the
        share of a caption's words with p > 1/2; said, that of the words with p > 1/2 which are in
        the caption."""
        absent, moved = self.detect(v, x)
        ids, mask = x.batch["text"], x.batch["text_mask"]
        there = jnp.zeros(absent.shape, bool)
        there = jax.vmap(lambda row, at, real: row.at[at].max(real))(there, ids, mask)
        present = jnp.log(-jnp.expm1(absent))
        guess = absent < np.log(0.5)
        right = (guess & there).sum(1)
        loss = -jnp.where(there, present, absent).sum(1)
        found, said = (right / jnp.maximum(count.sum(1), 1) for count in (there, guess))
        return {"loss": loss, "found": found, "said": said}, Aux({}, moved)

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The mean over pictures."""
        shares = {name: x.share(each) for name, each in rows.items()}
        return shares.pop("loss"), Aux(shares)

    def functions(self) -> dict[str, Function]:
        """words: float32[B, V], the chance of each; the others: see Trunk."""

        def words(v: Vars, x: Inputs, _: None) -> Array:
            return -jnp.expm1(self.detect(v, x)[0])

        found = super().functions()
        return found | {"words": Function(words, found["features"].reads)}
