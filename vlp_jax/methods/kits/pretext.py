"""A trunk with a question that a picture answers itself: what the pretext tasks share.

A task says how pictures become `answers` (predictions beside targets, one row per picture), how a
row is scored beside a trivial answer, and how it is drawn. The file exists so that training,
evaluation and drawing of a task cannot see different questions.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.augment import pictures
from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array, Aux, Batch, EvalFn, Extra, Params
from vlp_jax.methods.kits.trunk import Trunk

Answers = dict[str, Array]


def grid_of(out: dict[str, Array]) -> Array:
    """A trunk's patch tokens as a square map, a class token in front left out: a ViT's after its
    last norm under `pool=none`, else as they leave the blocks.

    float[B, N, D] -> [B, H, W, D]

    Raises:
      UserError: patches were dropped, so that the map has holes.
    """
    tokens = out["pooled"] if out["pooled"].ndim == 3 else out["tokens"]
    side = int(tokens.shape[1] ** 0.5)
    if tokens.shape[1] - side * side > 1:
        raise UserError(
            f"the trunk hands on {tokens.shape[1]} tokens, no square map; this task "
            "needs method.image.patch_dropout=0"
        )
    patches = tokens[:, tokens.shape[1] - side * side :]
    return rearrange(patches, "b (h w) d -> b h w d", h=side)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretext(Trunk):
    """A trunk and the networks that `parts` adds beside it; a task gives `answers`, `score`, `show`
    and an objective.
    """

    def parts(self, out: dict[str, Array]) -> dict[str, tuple[nn.Module, tuple[Array, ...]]]:
        """{name: (network, inputs to initialise it by)} beside the trunk, given the shapes of the
        trunk's outputs for one picture.
        """
        raise NotImplementedError(type(self).__name__)

    def init(self, rng: Array, batch: Batch) -> tuple[Params, Extra]:
        """Fresh parameters {image, NAME of every part} and the trunk's statistics; rng: key[]."""
        del batch
        params, extra = self.init_image(rngs.fold(rng, "image"))
        params = {"image": params}
        for name, (network, inputs) in self.parts(self.trunk_shapes()).items():
            params[name] = network.init(rngs.fold(rng, name), *inputs)["params"]
        return params, extra

    def trunk_shapes(self) -> dict[str, Array]:
        """Zeros in the shapes of the trunk's outputs for one picture."""
        side = self.image_tower.image_size
        run = lambda: self.image_tower.init_with_output(  # noqa: E731
            jax.random.key(0), jnp.zeros((1, side, side, 3))
        )
        (_, out), _ = jax.eval_shape(run)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), out)

    def run_views(
        self, params: Params, extra: Extra, views: Array, rng: Array | None
    ) -> tuple[Array, Extra]:
        """The trunk on Q pictures per example, float[B, Q, S, S, 3]; rng: key[B] or None.

        Returns:
          (pooled float32[B, Q, D], extra).
        """
        count = views.shape[1]
        if rng is not None:
            each = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
            rng = rearrange(each(rng, jnp.arange(count)), "b q -> (b q)")
        flat = rearrange(views, "b q h w c -> (b q) h w c")
        _, out, extra = self.run_image(params, extra, flat, rng)
        return rearrange(out["pooled"], "(b q) d -> b q d", q=count), extra

    def augmented(self, images: Array, rng: Array | None) -> Array:
        """The first half of `prepare`: float32[B, S, S, 3] in [0, 255]."""
        how = build(pictures.Augment, self.augment, "method.augment")
        return pictures.augment(images, how, rng).astype(jnp.float32)

    def normalised(self, images: Array) -> Array:
        """The second half of `prepare`."""
        return pictures.normalise(images, self.image_mean, self.image_std)

    def answers(
        self, params: Params, extra: Extra, images: Array, rng: Array | None, keys: Array
    ) -> tuple[Answers, Extra]:
        """Predictions and targets of uint8[B, S, S, 3] pictures, one row per picture.

        Args:
          rng: key[B] in training (augmentation, dropout), None outside.
          keys: key[B] of the question's own random choices.
        """
        raise NotImplementedError(type(self).__name__)

    def encode(
        self, params: Params, extra: Extra, batch: Batch, *, rng: Array | None, step: Array
    ) -> tuple[Any, Aux]:
        """The answers to a batch's questions; without rng, questions that each picture fixes."""
        del step
        images = batch["image"]
        keys = rngs.picture_keys(images) if rng is None else rngs.fold(rng, "question")
        rows, extra = self.answers(params, extra, images, rng, keys)
        return rows, Aux({}, extra)

    def score(self, params: Params, rows: Answers) -> Array:
        """float32[B, 2]: how good each picture's answers are, and a trivial answer (chance)."""
        raise NotImplementedError(type(self).__name__)

    def scores(self, params: Params, rows: Answers) -> Array:
        """float32[B, M, 3] for the evaluator: `score`, then where a task has them further ones;
        each with its weight in the mean over pictures.
        """
        return jnp.pad(self.score(params, rows), ((0, 0), (0, 1)), constant_values=1)[:, None]

    def show(self, images: Array, rows: Answers) -> Array:
        """float32[B, P, S, S, 3] panels in [0, 1] of pictures float32[B, S, S, 3] in [0, 1]."""
        raise NotImplementedError(type(self).__name__)

    def eval_fns(self) -> dict[str, EvalFn]:
        """features; task: float32[B, M, 3], `scores`; show: float32[B, P, S, S, 3], `show`."""

        def rows(params: Params, extra: Extra, batch: Batch) -> Answers:
            return self.encode(params, extra, batch, rng=None, step=jnp.int32(0))[0]

        def task(params: Params, extra: Extra, batch: Batch) -> Array:
            return self.scores(params, rows(params, extra, batch))

        def show(params: Params, extra: Extra, batch: Batch) -> Array:
            pictures = batch["image"].astype(jnp.float32) / 255
            return jnp.clip(self.show(pictures, rows(params, extra, batch)), 0, 1)

        def features(params: Params, extra: Extra, batch: Batch) -> Array:
            pooled = towers["features"](params, extra, batch)
            return pooled.mean(1) if pooled.ndim == 3 else pooled

        towers = super().eval_fns()
        return towers | {"features": features, "task": task, "show": show}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelTask(Pretext):
    """A pretext task whose answers are classes: rows hold `logits` float32[B, Q, C] and `labels`
    int32[B, Q] of Q questions per picture.
    """

    def objective(
        self, params: Params, representations: Answers, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """Mean cross-entropy over all questions; metrics accuracy and chance_accuracy."""
        del batch
        logits, labels = representations["logits"], representations["labels"]
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
        accuracy, chance = self.score(params, representations).mean(0)
        return -log_p.mean(), {"accuracy": accuracy, "chance_accuracy": chance}

    def score(self, params: Params, rows: Answers) -> Array:
        """Accuracy beside 1 / C."""
        del params
        hits = jnp.mean(rows["logits"].argmax(-1) == rows["labels"], axis=1)  # [B]
        return jnp.stack([hits, jnp.full_like(hits, 1 / rows["logits"].shape[-1])], axis=1)
