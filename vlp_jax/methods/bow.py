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
from vlp_jax.core.types import Array, Aux, Batch, Extra, Params
from vlp_jax.methods.base import Method
from vlp_jax.methods.kits.pretext import Answers, Pretext, grid_of
from vlp_jax.models.head import CosineHead
from vlp_jax.nn import vocabulary

SHOWN = 3  # words that are drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class BagOfWords(Pretext, Method):
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

    def parts(self, out: dict[str, Array]) -> dict:
        """head: on the student's mean token."""
        return {"head": (self.head, (grid_of(out).mean((1, 2)),))}

    def init(self, rng: Array, batch: Batch) -> tuple[Params, Extra]:
        """As of every task; extra holds the teacher and the vocabulary."""
        params, extra = super().init(rng, batch)
        width = grid_of(self.trunk_shapes()).shape[-1]
        words = vocabulary.start(rngs.fold(rng, "words"), self.words, width)
        teacher = jax.tree.map(jnp.copy, self.student(params, extra))
        return params, {**extra, "teacher": teacher, "vocabulary": words}

    def student(self, params: Params, extra: Extra) -> dict:
        """What a teacher is made of: the tower's parameters and, where it has them, its batch
        statistics.
        """
        return {"image": params["image"]} | {k: extra[k] for k in extra if k == "batch_stats"}

    def encode(
        self, params: Params, extra: Extra, batch: Batch, *, rng: Array | None, step: Array
    ) -> tuple[Answers, Aux]:
        """As of every task; in the first step the teacher becomes the student, whatever it was
        loaded from.
        """
        if rng is not None:
            copy = lambda mine, hers: jnp.where(step == 0, mine, hers)  # noqa: E731
            teacher = jax.tree.map(copy, self.student(params, extra), extra["teacher"])
            extra = {**extra, "teacher": jax.lax.stop_gradient(teacher)}
        return super().encode(params, extra, batch, rng=rng, step=step)

    def histograms(self, extra: Extra, images: Array) -> tuple[Array, Array, Array]:
        """Teacher features float[B, H, W, D] of clean pictures, their words int32[B, H, W], and
        histograms float32[B, K] that sum to 1.
        """
        ready = self.normalised(images.astype(jnp.float32))
        _, out, _ = self.run_image(extra["teacher"], extra["teacher"], ready)
        features = jax.lax.stop_gradient(grid_of(out))
        ids, _ = vocabulary.assign(extra["vocabulary"], features)
        bag = jax.nn.one_hot(ids, self.words).mean((1, 2))
        return features, ids, bag

    def answers(
        self, params: Params, extra: Extra, images: Array, rng: Array | None, keys: Array
    ) -> tuple[Answers, Extra]:
        """logits and target float32[B, K]; usual float32[B, K], the log of how often words occur;
        ids int32[B, H, W] of the clean picture.
        """
        features, ids, bag = self.histograms(extra, images)
        often = jnp.maximum(extra["vocabulary"]["often"], 1e-4)
        usual = jnp.broadcast_to(jnp.log(often / often.sum()), bag.shape)
        seen = vocabulary.observe(extra["vocabulary"], features, ids)
        pixels = self.augmented(images, rng)
        if self.cutmix:
            pixels, bag = mixing.mix(pixels, bag, mixing.Mixing(cutmix=1.0), rng)
        _, out, extra = self.run_image(params, extra, self.normalised(pixels), rng)
        logits = self.head.apply({"params": params["head"]}, grid_of(out).mean((1, 2)))
        rows = {"logits": logits, "target": bag, "usual": usual, "ids": ids}
        return rows, {**extra, "vocabulary": seen}

    def after_update(self, params: Params, extra: Extra) -> Extra:
        """Moves the teacher and the words."""
        follow = lambda hers, mine: self.momentum * hers + (1 - self.momentum) * mine  # noqa: E731
        teacher = jax.tree.map(follow, extra["teacher"], self.student(params, extra))
        words = vocabulary.update(extra["vocabulary"], self.memory)
        return {**extra, "teacher": teacher, "vocabulary": words}

    def objective(
        self, params: Params, representations: Answers, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy with the histogram; metrics: that of always answering how often words
        occur, the target's entropy (the floor), and the words in use (perplexity).
        """
        del batch
        ours, usual = self.score(params, representations).mean(0)
        target = representations["target"]
        floor = jnp.mean(-jax.scipy.special.xlogy(target, target).sum(-1))
        often = representations["usual"][0]
        used = jnp.exp(-jnp.sum(jnp.exp(often) * often))
        return ours, {"chance_loss": usual, "target_entropy": floor, "words_used": used}

    def score(self, params: Params, rows: Answers) -> Array:
        """Cross-entropy in nats, beside that of the words' frequencies (lower is better)."""
        del params
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
