"""Colorization: which colours does this grey picture have? (arXiv:1603.08511)

A class per bin of the ab plane, soft targets over the nearest bins, rare colours weighted up by a
prior that is estimated as training goes. The file exists to hold the question.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.augment.lab import ab_bins, decode_ab, encode_ab, lab_to_srgb, srgb_to_lab
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Part
from vlp_jax.methods.kits.pretext import Answers, Pretext, grid_of, grid_shape
from vlp_jax.models.conv_decoder import ConvDecoder, check_doublings

STRIDE = 4  # colours are asked at a quarter of the resolution, subsampled without averaging
GREY = 5.0  # a picture without any |a| or |b| above this has no colours to learn
BALANCE = 0.5  # share of the uniform distribution in the prior of the rebalanced score
MEMORY = 1e-3  # the prior's smallest rate of change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colorization(Pretext):
    """The trunk sees lightness alone; a decoder on its map gives a distribution over ab bins.

    Attributes:
      widths: channels of the decoder; each doubles the trunk's map, up to a quarter of the picture.
      bin_size: step of the ab grid; 10 gives the published 313 bins.
      neighbours, sigma: of the soft target; 5 and 5 in the paper, its code has 10 neighbours.
      rebalance: lambda, the share of the uniform distribution in the prior; 1 weights all alike.
      prior: path of a float array [Q] (.npy) to use in place of the running estimate.
      temperature: of the annealed mean that is drawn and scored.
    """

    widths: tuple[int, ...] = (256, 256)
    bin_size: int = 10
    neighbours: int = 5
    sigma: float = 5.0
    rebalance: float = 0.5
    prior: str = ""
    temperature: float = 0.38

    def __post_init__(self) -> None:
        if not 0 < self.rebalance <= 1 or self.bin_size < 2 or self.temperature <= 0:
            raise UserError("method: needs 0 < rebalance <= 1, bin_size >= 2, temperature > 0")
        if not 1 <= self.neighbours <= 10:
            raise UserError(f"method.neighbours={self.neighbours}: from 1 to 10")
        if self.prior:
            self.start_prior()

    @property
    def bins(self) -> np.ndarray:
        """float32[Q, 2]"""
        return ab_bins(self.bin_size)

    @property
    def decoder(self) -> ConvDecoder:
        """The trunk's map to logits of bins."""
        return ConvDecoder(len(self.bins), self.widths)

    def start_prior(self) -> np.ndarray:
        """float32[Q] that sums to 1: the file's, or uniform.

        Raises:
          UserError: no such file, or not one number >= 0 for each bin.
        """
        count = len(self.bins)
        if not self.prior:
            return np.full(count, 1 / count, np.float32)
        if not os.path.isfile(self.prior):
            raise UserError(f"method.prior={self.prior}: no such file")
        found = np.load(self.prior)
        if found.shape != (count,) or not (found >= 0).all() or not found.sum() > 0:
            raise UserError(f"method.prior={self.prior}: needs {count} numbers >= 0")
        return np.float32(found / found.sum())

    def fields(self) -> dict[str, Field]:
        """image, in colour."""
        (picture,) = super().fields().values()
        return {"image": dataclasses.replace(picture, colour=True)}

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """decoder: on the trunk's map.

        Raises:
          UserError: it does not end at a quarter of the picture.
        """
        grid = grid_shape(out)
        check_doublings(self.widths, grid.shape[1], self.image_tower.image_size // STRIDE)
        return {"decoder": Part(self.decoder, (grid,))}

    def state(self, v: Vars, rng: Array) -> Extra:
        """The colours' prior and what this step saw of it."""
        prior = jnp.asarray(self.start_prior())
        seen = {"prior": prior, "seen": jnp.zeros_like(prior), "updates": jnp.int32(0)}
        return {"colours": seen}

    def prepare(self, images: Array, rng: Array | None) -> Array:
        """Augmented, lightness in all three channels, normalised."""
        return self.lightness(srgb_to_lab(self.augmented(images, rng) / 255))

    def lightness(self, lab: Array) -> Array:
        """The tower's input from Lab. [B, S, S, 3]"""
        return self.normalised(jnp.broadcast_to(lab[..., :1] * 2.55, lab.shape))

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """logits float32[B, S/4, S/4, Q]; ids, weights [B, S/4, S/4, K] of the soft target;
        importance float32[B, S/4, S/4] of a place, 0 in grey pictures, and its rarity
        where every method is measured alike.
        """
        del keys
        lab = srgb_to_lab(self.augmented(x.batch["image"], x.keys) / 255)
        _, out, moved = self.run_image(v, x, self.lightness(lab))
        logits = self.apply("decoder", v, x, grid_of(out))
        ids, weights = encode_ab(
            lab[:, ::STRIDE, ::STRIDE, 1:], self.bin_size, self.neighbours, self.sigma
        )
        coloured = (jnp.abs(lab[..., 1:]) > GREY).any((1, 2, 3))  # [B]
        colours = v.extra["colours"]
        weight = lambda uniform: rarity(colours["prior"], uniform)[ids[..., 0]]  # noqa: E731
        importance = weight(self.rebalance) * coloured[:, None, None]
        mass = jnp.zeros(len(self.bins)).at[ids].add(weights * coloured[:, None, None, None])
        rows = {"logits": logits, "ids": ids, "weights": weights, "importance": importance}
        rows |= {"lab": lab, "rarity": weight(BALANCE)}
        return rows, {**moved, "colours": {"seen": mass}}

    def follow(self, v: Vars, step: Array) -> Extra:
        """Moves the prior towards the step's colours: the mean of all steps, then of the last
        1,000.
        """
        del step
        colours = v.extra["colours"]
        total = colours["seen"].sum()
        rate = jnp.maximum(1 / (colours["updates"] + 1), MEMORY) * (total > 0) * (not self.prior)
        step = colours["seen"] / jnp.maximum(total, 1e-9) - colours["prior"]
        new = {
            "prior": colours["prior"] + rate * step,
            "seen": jnp.zeros_like(step),
            "updates": colours["updates"] + (total > 0),
        }
        return {"colours": new}

    def objective(self, v: Vars, rows: Answers, x: Inputs) -> tuple[Array, Aux]:
        """Weighted cross-entropy with the soft target, mean over all places; metrics: hits of the
        nearest bin, auc and its grey baseline, the share of grey pictures.
        """
        log_p = jax.nn.log_softmax(rows["logits"])
        near = jnp.take_along_axis(log_p, rows["ids"], axis=-1)
        loss = -x.share(rows["importance"] * (rows["weights"] * near).sum(-1))
        hits = x.share(rows["logits"].argmax(-1) == rows["ids"][..., 0])
        grey = x.share(rows["importance"][:, 0, 0] == 0)
        metrics = {"accuracy": hits, "grey_pictures": grey, **self.scored(x, rows, "auc")}
        return loss, Aux(metrics)

    def score(self, rows: Answers) -> Array:
        """Area under the curve of the share of places whose colour is within a distance of 0 to 150
        (section 3.1), beside that of the grey picture.
        """
        return self.nearness(rows).mean((1, 2))

    def guesses(self, rows: Answers) -> tuple[Array, Array]:
        """The answer's ab and the grey picture's. float32[B, S/4, S/4, 2] each"""
        ab = decode_ab(rows["logits"], self.bins, self.temperature)
        return ab, jnp.zeros_like(ab)

    def nearness(self, rows: Answers) -> Array:
        """Every place's area under that curve, in [0, 1], of both guesses.
        float32[B, S/4, S/4, 2]
        """
        true = rows["lab"][:, ::STRIDE, ::STRIDE, 1:]
        far = [jnp.linalg.norm(ab - true, axis=-1) for ab in self.guesses(rows)]
        return 1 - jnp.minimum(jnp.stack(far, axis=-1), 150) / 150

    def scores(self, rows: Answers) -> Array:
        """`score`; the same with places weighted by the rarity of their true colour over all
        pictures; PSNR in dB of the coloured picture.
        """
        rare = rows["rarity"][..., None]
        weight = rare.mean((1, 2))  # [B, 1]
        balanced = (rare * self.nearness(rows)).mean((1, 2)) / weight
        true = lab_to_srgb(rows["lab"])

        def psnr(ab: Array) -> Array:
            error = jnp.square(paint(rows["lab"], ab) - true).mean((1, 2, 3))
            return -10 * jnp.log10(jnp.maximum(error, 1e-6))

        clear = jnp.stack([psnr(ab) for ab in self.guesses(rows)], axis=1)
        values = jnp.stack([self.score(rows), balanced, clear], axis=1)  # [B, 3, 2]
        one = jnp.ones_like(weight)
        return jnp.concatenate([values, jnp.stack([one, weight, one], axis=1)], axis=-1)

    def show(self, images: Array, rows: Answers) -> Array:
        """4 panels: input, mean (T = 1), annealed mean, target."""
        lab = srgb_to_lab(images)
        annealed, grey = self.guesses(rows)
        mean = decode_ab(rows["logits"], self.bins, 1.0)
        panels = [paint(lab, ab) for ab in (grey, mean, annealed)]
        return jnp.stack([*panels, images], axis=1)


def paint(lab: Array, ab: Array) -> Array:
    """The picture float32[B, S, S, 3] in other colours float32[B, h, w, 2], as sRGB."""
    ab = jax.image.resize(ab, (*lab.shape[:3], 2), "bilinear")
    return lab_to_srgb(jnp.concatenate([lab[..., :1], ab], axis=-1))


def rarity(prior: Array, uniform: float) -> Array:
    """Weight of each bin, 1 / ((1 - uniform) p + uniform / Q'), with mean 1 over the colours;
    Q' counts bins that occur. float32[Q] that sums to 1 -> float32[Q]
    """
    weight = 1 / ((1 - uniform) * prior + uniform / jnp.sum(prior > 0))
    return weight / jnp.sum(prior * weight)
