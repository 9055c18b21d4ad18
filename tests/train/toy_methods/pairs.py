"""Pictures and captions as sums of a few numbers each, under CLIP's loss: a toy.

The file exists because a child of the fault tests mostly traces its model: this one has what a
fault can spoil (a coupled loss, a draw of every row, extra state, a clamp, a weight that can be
frozen) in a tenth of CLIP's time.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from tiny import LENGTH, SIZE, VOCAB

from vlp_jax.core.fields import Picture, Text
from vlp_jax.core.inputs import Aux
from vlp_jax.core.vectors import unit
from vlp_jax.losses.contrastive import softmax_contrastive
from vlp_jax.methods.base import Leaf, Method, Part

WIDTH = 8


def drawn(*shape):
    """A network that is one array of random numbers."""
    return Part(Leaf(lambda rng: jax.random.normal(rng, shape)))


@dataclasses.dataclass(frozen=True)
class Pairs(Method):
    """Attributes: noise: of a picture's sums in training."""

    coupled: ClassVar[bool] = True
    noise: float = 0.1

    def fields(self):
        return {"image": Picture(SIZE), "text": Text(LENGTH, VOCAB)}

    def parts(self):
        parts = {"pixels": drawn(SIZE * 3, WIDTH), "mix": drawn(WIDTH, WIDTH)}
        return {**parts, "words": drawn(VOCAB, WIDTH), "logit_scale": Part(Leaf(2.0))}

    def state(self, v, rng):
        return {"middle": jnp.zeros(WIDTH), "steps": jnp.int32(0)}

    def encode(self, v, x):
        lines = jnp.float32(x.batch["image"]).mean(1) / 255 - 0.5  # [b, S, 3]
        sums = lines.reshape(len(lines), -1) @ v.params["pixels"] @ v.params["mix"]
        sums += self.noise * jax.vmap(lambda key: jax.random.normal(key, (WIDTH,)))(x.rng)
        words = v.params["words"][x.batch["text"]].mean(1)
        return {"image": unit(sums - v.extra["middle"]), "text": unit(words)}, Aux()

    def objective(self, v, rows, x):
        loss, metrics = softmax_contrastive(rows["image"], rows["text"], v.params["logit_scale"])
        middle = 0.9 * v.extra["middle"] + 0.1 * rows["image"].mean(0)
        return loss, Aux(metrics, {"middle": middle})

    def follow(self, v, step):
        return {"steps": jnp.int32(step)}

    def project(self, params):
        return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0, 4)}
