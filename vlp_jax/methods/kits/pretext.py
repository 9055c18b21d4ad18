"""A trunk with a question that a picture answers itself: what the pretext tasks share.

A task says how pictures become `answers` (predictions beside targets, one row per picture), how a
row is scored beside a trivial answer, and how it is drawn. The file exists so that training,
evaluation and drawing of a task cannot see different questions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Function, Part
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


def grid_shape(out: dict[str, jax.ShapeDtypeStruct]) -> jax.ShapeDtypeStruct:
    """The shape of `grid_of` for shapes of a trunk's outputs. Raises UserError as it does."""
    return jax.eval_shape(grid_of, out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretext(Trunk):
    """A trunk and the networks that `heads` adds beside it; a task gives `answers`, `score`, `show`
    and an objective.
    """

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """The parts beside the trunk, given the shapes of its outputs for one picture."""
        raise NotImplementedError(type(self).__name__)

    def parts(self) -> dict[str, Part]:
        """image, and the task's own."""
        return {**super().parts(), **self.heads(self.image_shapes)}

    def run_views(self, v: Vars, x: Inputs, views: Array) -> tuple[Array, Extra]:
        """The trunk on Q pictures per example, float[B, Q, S, S, 3].

        Returns:
          (pooled float32[B, Q, D], batch statistics that moved).
        """
        count = views.shape[1]
        each = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
        keys = rearrange(each(x.rng, jnp.arange(count)), "b q -> (b q)")
        flat = rearrange(views, "b q h w c -> (b q) h w c")
        _, out, moved = self.run_image(v, x.replace(rng=keys), flat)
        return rearrange(out["pooled"], "(b q) d -> b q d", q=count), moved

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """Predictions and targets of `image`, uint8[B, S, S, 3], one row per picture, and the extra
        state that changed; keys: key[B] of the question's own random choices.
        """
        raise NotImplementedError(type(self).__name__)

    def encode(self, v: Vars, x: Inputs) -> tuple[Any, Aux]:
        """The answers to a batch's questions; outside training, questions that each picture
        fixes.
        """
        images = x.batch["image"]
        keys = rngs.fold(x.rng, "question") if x.train else rngs.picture_keys(images)
        rows, moved = self.answers(v, x, keys)
        return rows, Aux({}, moved)

    def score(self, rows: Answers) -> Array:
        """float32[B, 2]: how good each picture's answers are, and a trivial answer (chance)."""
        raise NotImplementedError(type(self).__name__)

    def scored(self, x: Inputs, rows: Answers, name: str) -> dict[str, Array]:
        """Metrics {name, chance_name}: the batch's mean of `score`."""
        ours, chance = self.score(rows).T
        return {name: x.share(ours), f"chance_{name}": x.share(chance)}

    def scores(self, rows: Answers) -> Array:
        """float32[B, M, 3] for the evaluator: `score`, then where a task has them further ones;
        each with its weight in the mean over pictures.
        """
        return jnp.pad(self.score(rows), ((0, 0), (0, 1)), constant_values=1)[:, None]

    def show(self, images: Array, rows: Answers) -> Array:
        """float32[B, P, S, S, 3] panels in [0, 1] of pictures float32[B, S, S, 3] in [0, 1]."""
        raise NotImplementedError(type(self).__name__)

    def functions(self) -> dict[str, Function]:
        """features; task: float32[B, M, 3], `scores`; show: float32[B, P, S, S, 3], `show`."""

        def task(v: Vars, x: Inputs, _: None) -> Array:
            return self.scores(self.encode(v, x)[0]).astype(jnp.float32)

        def show(v: Vars, x: Inputs, _: None) -> Array:
            pictures = x.batch["image"].astype(jnp.float32) / 255
            return jnp.clip(self.show(pictures, self.encode(v, x)[0]), 0, 1).astype(jnp.float32)

        def features(v: Vars, x: Inputs, _: None) -> Array:
            pooled = towers["features"](v, x)
            return pooled.mean(1) if pooled.ndim == 3 else pooled

        towers = super().functions()
        own = {"features": features, "task": task, "show": show}
        reads = towers["features"].reads
        return towers | {name: Function(run, reads) for name, run in own.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelTask(Pretext):
    """A pretext task whose answers are classes: rows hold `logits` float32[B, Q, C] and `labels`
    int32[B, Q] of Q questions per picture.
    """

    def objective(self, v: Vars, rows: Answers, x: Inputs) -> tuple[Array, Aux]:
        """Mean cross-entropy over all questions; metrics accuracy and chance_accuracy."""
        logits, labels = rows["logits"], rows["labels"]
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
        return -x.share(log_p), Aux(self.scored(x, rows, "accuracy"))

    def score(self, rows: Answers) -> Array:
        """Accuracy beside 1 / C."""
        hits = jnp.mean(rows["logits"].argmax(-1) == rows["labels"], axis=1)  # [B]
        return jnp.stack([hits, jnp.full_like(hits, 1 / rows["logits"].shape[-1])], axis=1)
