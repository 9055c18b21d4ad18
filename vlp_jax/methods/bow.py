"""Bags of visual words: which words does the clean picture hold? (BoWNet, arXiv:2002.12247; its
online form OBoW, arXiv:2012.11552)

A teacher turns the clean picture into a histogram of words; the student sees it perturbed and mixed
with another. The teacher is the moving average of the student, or, with momentum 1, the weights
that the run started from (`init_from='RUN:(batch_stats/)?image/.*'`), and its words are found as
training goes (nn/vocabulary.py). The file exists to hold the question.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlp_jax.augment import mixing
from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import STATS, Part
from vlp_jax.methods.kits.pretext import Answers, Pretext, grid_of, grid_shape
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.head import CosineHead
from vlp_jax.nn import vocabulary

SHOWN = 3  # words that are drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class BagOfWords(Pretext):
    """The student's pooled output gives a distribution over words.

    Attributes:
      words: size K of the vocabulary.
      momentum: of the teacher; 1 keeps it as it was at the start.
      memory: of the words' running means.
      cutmix: whether training pictures are mixed in pairs.
      scale: gamma of the head at the start.
    """

    words: int = 2048
    momentum: float = 0.99
    memory: float = 0.98
    cutmix: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.words < 2:
            raise UserError(f"method.words={self.words}: needs two or more")
        for key, high in (("momentum", 1.0), ("memory", 0.9999)):
            if not 0 <= getattr(self, key) <= high:
                raise UserError(f"method.{key}={getattr(self, key)}: from 0 to {high}")

    @property
    def head(self) -> CosineHead:
        """From the pooled output to words."""
        return CosineHead(self.words, self.scale)

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """head: on the student's mean token."""
        return {"head": Part(self.head, (floats(1, grid_shape(out).shape[-1]),))}

    def state(self, v: Vars, rng: Array) -> Extra:
        """The teacher, which starts as the student, and the vocabulary."""
        width = grid_shape(self.image_shapes).shape[-1]
        words = vocabulary.start(rngs.fold(rng, "words"), self.words, width)
        return {"teacher": jax.tree.map(jnp.copy, self.student(v)), "vocabulary": words}

    def student(self, v: Vars) -> dict:
        """What a teacher is made of: the tower's parameters and, where it has them, its batch
        statistics.
        """
        return {"image": v.params["image"]} | {k: v.extra[k] for k in v.extra if k == STATS}

    def histograms(self, v: Vars, x: Inputs) -> tuple[Array, Array, Array]:
        """Teacher features float[B, H, W, D] of clean pictures, their words int32[B, H, W], and
        histograms float32[B, K] that sum to 1.
        """
        ready = self.normalised(x.batch["image"].astype(jnp.float32))
        teacher = Vars(v.extra["teacher"], v.extra["teacher"])
        _, out, _ = self.run_image(teacher, x, ready)
        features = jax.lax.stop_gradient(grid_of(out))
        ids, _ = vocabulary.assign(v.extra["vocabulary"], features)
        bag = jax.nn.one_hot(ids, self.words).mean((1, 2))
        return features, ids, bag

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """logits and target float32[B, K]; usual float32[B, K], the log of how often words occur;
        ids int32[B, H, W] of the clean picture.
        """
        words = v.extra["vocabulary"]
        features, ids, bag = self.histograms(v, x.replace(train=False))
        often = jnp.maximum(words["often"], 1e-4)
        usual = jnp.broadcast_to(jnp.log(often / often.sum()), bag.shape)
        pixels = self.augmented(x.batch["image"], x.keys)
        if self.cutmix:
            pixels, bag = mixing.mix(pixels, bag, mixing.Mixing(cutmix=1.0), x.keys)
        _, out, moved = self.run_image(v, x, self.normalised(pixels))
        logits = self.apply("head", v, x, grid_of(out).mean((1, 2)))
        rows = {"logits": logits, "target": bag, "usual": usual, "ids": ids}
        seen = vocabulary.observe(words, features, ids)
        return rows, {**moved, "vocabulary": {name: seen[name] for name in vocabulary.SUMS}}

    def follow(self, v: Vars, step: Array) -> Extra:
        """Moves the teacher and the words."""
        del step
        near = lambda hers, mine: self.momentum * hers + (1 - self.momentum) * mine  # noqa: E731
        teacher = jax.tree.map(near, v.extra["teacher"], self.student(v))
        words = vocabulary.update(v.extra["vocabulary"], self.memory)
        return {"teacher": teacher, "vocabulary": words}

    def objective(self, v: Vars, rows: Answers, x: Inputs) -> tuple[Array, Aux]:
        """Cross-entropy with the histogram; metrics: that of always answering how often words
        occur, the target's entropy (the floor), and the words in use (perplexity).
        """
        ours, usual = self.score(rows).T
        floor = -jax.scipy.special.xlogy(rows["target"], rows["target"]).sum(-1)
        used = jnp.exp(-jnp.sum(jnp.exp(rows["usual"]) * rows["usual"], axis=-1))
        metrics = {"chance_loss": usual, "target_entropy": floor, "words_used": used}
        return x.share(ours), Aux({name: x.share(each) for name, each in metrics.items()})

    def score(self, rows: Answers) -> Array:
        """Cross-entropy in nats, beside that of the words' frequencies (lower is better)."""
        log_p = jax.nn.log_softmax(rows["logits"])
        pair = [-(rows["target"] * guess).sum(-1) for guess in (log_p, rows["usual"])]
        return jnp.stack(pair, axis=1)

    def show(self, images: Array, rows: Answers) -> Array:
        """7 panels: the picture; where its 3 commonest words lie; where the 3 words lie that the
        student expects most beyond their frequency.
        """
        side = images.shape[1] // rows["ids"].shape[1]
        where = jnp.repeat(jnp.repeat(rows["ids"], side, axis=1), side, axis=2)[..., None]
        expected = jax.nn.log_softmax(rows["logits"]) - rows["usual"]
        panels = [images]
        for guess in (rows["target"], expected):
            top = jax.lax.top_k(guess, SHOWN)[1]  # [B, 3]
            for k in range(SHOWN):
                lit = where == top[:, k, None, None, None]
                panels.append(jnp.where(lit, images, 0.25 * images))
        return jnp.stack(panels, axis=1)
