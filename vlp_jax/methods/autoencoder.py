"""The first stage of latent diffusion: pictures to latents and back (arXiv:2112.10752 appendix G.1;
VQGAN, arXiv:2012.09841; reference: CompVis/latent-diffusion losses/contperceptual.py and
vqperceptual.py).

Reconstruction and likeness, a KL term or a codebook, and a patch critic that starts late and takes
turns with the autoencoder. The file exists to hold how these are weighed.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from vlp_jax.augment import pictures
from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Numbers, Picture
from vlp_jax.core.inputs import Aux, Inputs, Vars, lay
from vlp_jax.core.schema import Amount, Range, Size, build
from vlp_jax.core.types import Array
from vlp_jax.losses.adversarial import adaptive_weight, hinge, kernel_slope, with_slope
from vlp_jax.losses.latent import codebook_loss, gaussian_kl
from vlp_jax.methods.base import Function, Method, Part, Phase
from vlp_jax.methods.kits.perceptual import LPIPS, STAND_IN, perceptual_distance, perceptual_part
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models import autoencoder as networks
from vlp_jax.models.latent_scale import LatentScale
from vlp_jax.models.patch_critic import PatchCritic
from vlp_jax.models.towers import make_tower
from vlp_jax.models.traced_flops import traced_flops

Rows = dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder(Method):
    """Players: `autoencoder`, then `critic`. Losses of a picture are sums over its numbers with a
    Gaussian posterior and means with a codebook, as published; the weights below belong to that.

    Attributes:
      autoencoder: fields of models/autoencoder.py Autoencoder, with its name.
      image_size: S, pixels of a training picture.
      augment: fields of augment/pictures.py Augment, applied in training.
      error: of a number: l1, or l2 as in the decoders of sd-vae-ft-mse.
      perceptual: a frozen network with its name, to be given by init_from: `lpips`, the part
        `lpips`; any other (resnet_v1) is the stand-in, the part `features`; {}: none.
      perceptual_weight, kl_weight, codebook_weight: of these terms.
      critic: fields of models/patch_critic.py PatchCritic.
      critic_start: the first step that has one.
      critic_weight: of fooling it, beside the adaptive weight; 0: no critic.
      dtype, remat: of the autoencoder (nn/transformer.py).
    """

    image_mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)  # pictures are in [-1, 1]
    image_std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    autoencoder: Mapping[str, Any]
    image_size: Size = 256
    augment: Annotated[Mapping[str, Any], pictures.Augment] = dataclasses.field(
        default_factory=dict
    )
    error: Literal["l1", "l2"] = "l1"
    perceptual: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    perceptual_weight: Amount = 1.0
    kl_weight: Amount = 1e-6
    codebook_weight: Amount = 1.0
    critic: Annotated[Mapping[str, Any], PatchCritic] = dataclasses.field(default_factory=dict)
    critic_start: Annotated[int, Range(0)] = 0
    critic_weight: Amount = 0.5
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        """Raises UserError for pictures off the autoencoder's grid."""
        if self.image_size % self.net.factor:
            wanted = f"must be a multiple of {self.net.factor}, the autoencoder's factor"
            raise UserError(f"method.image_size={self.image_size}: {wanted}")

    @cached_property
    def net(self) -> networks.Autoencoder:
        """The autoencoder.

        Raises:
          UserError: `method.autoencoder` is another network.
        """
        shared = dict(dtype=self.dtype, remat=self.remat)
        made = make_tower(self.autoencoder, "method.autoencoder", **shared)
        if not isinstance(made, networks.Autoencoder):
            raise UserError(f"method.autoencoder.name={self.autoencoder['name']!r}: must be"
                            " 'autoencoder'")  # fmt: skip
        return made

    @cached_property
    def likeness(self) -> str:
        """The part that compares pictures, or ""."""
        return next((name for name in (LPIPS, STAND_IN) if name in self._parts), "")

    def fields(self) -> dict[str, Field]:
        """image."""
        return {"image": Picture(self.image_size, key="method.image_size")}

    def parts(self) -> dict[str, Part]:
        """autoencoder and latent_scale; critic, and lpips or features, where there are such."""
        picture = floats(1, self.image_size, self.image_size, 3)
        found = {
            "autoencoder": Part(self.net, (picture,)),
            "latent_scale": Part(LatentScale(), (floats(1, 1, 1, 1),)),
        }
        if self.critic_weight:
            how = {"dtype": self.dtype, **self.critic}
            found["critic"] = Part(build(PatchCritic, how, "method.critic"), (picture,))
        return found | perceptual_part(self.perceptual, self.image_size, "method.perceptual")

    def players(self) -> dict[str, tuple[str, ...]]:
        """Each has its part."""
        return {name: (name,) for name in ("autoencoder", "critic") if name in self._parts}

    def phases(self) -> tuple[Phase, ...]:
        """The autoencoder's, whose adaptive weight is the whole batch's, then the critic's."""
        maker = Phase("autoencoder", self.made, self.make, "autoencoder", coupled=True)
        critic = Phase("critic", self.judged, self.judge, "critic", start=self.critic_start)
        return (maker, critic) if self.critic_weight else (maker,)

    def pixels(self, images: Array, rng: Array | None) -> Array:
        """uint8[B, H, W, 3] -> float32 in [-1, 1], augmented (rng: key[B], None leaves that
        out)."""
        config = build(pictures.Augment, self.augment, "method.augment")
        return pictures.augment(images, config, rng).astype(jnp.float32) / 127.5 - 1

    def latents(self, v: Vars, x: Inputs, pixels: Array) -> Rows:
        """`latent`, drawn from the posterior by the rows' keys, `code`, what is decoded of it, and
        `penalty` float32[B]; with a codebook `index` int32[B, h, w] too.
        """
        mean, logvar = self.apply("autoencoder", v, x, pixels, method="encode")
        if logvar is None:
            found = self.apply("autoencoder", v, x, mean, method="quantise")
            penalty = codebook_loss(mean, found.codes)
            return {"latent": mean, "code": found.straight, "penalty": penalty,
                    "index": found.index}  # fmt: skip
        draw = lambda key: jax.random.normal(key, mean.shape[1:])  # noqa: E731
        noise = jax.vmap(draw)(rngs.fold(x.rng, "posterior"))
        latent = mean + jnp.exp(0.5 * logvar) * noise
        return {"latent": latent, "code": latent, "penalty": gaussian_kl(mean, logvar)}

    def likelihood(self, v: Vars, x: Inputs, output: Array, pixels: Array) -> Rows:
        """Of every picture, float32[B]: `nll`, and what it is made of: `error`, and the distance
        under the name of the part that measures it.
        """
        difference = output - pixels
        error = jnp.abs(difference) if self.error == "l1" else jnp.square(difference)
        found = {"error": error.mean((1, 2, 3))}
        nll = found["error"]
        if self.likeness:
            pair = output, pixels
            found[self.likeness] = perceptual_distance(self, self.likeness, v, x, pair)
            nll = nll + self.perceptual_weight * found[self.likeness]
        numbers = 1 if self.net.codes else pixels[0].size
        return {"nll": numbers * nll, **found}

    def made(self, v: Vars, x: Inputs) -> tuple[Rows, Aux]:
        """The autoencoder's turn, picture by picture: terms of the loss, and the gradients of two
        of them at the decoder's last kernel.

        What is beyond the output is gone through backwards once: its slopes serve the weight and
        the update (losses/adversarial.py with_slope).
        """
        stop = jax.lax.stop_gradient
        pixels = self.pixels(x.batch["image"], x.keys)
        rows = self.latents(v, x, pixels)
        how = dict(method="decode_from")
        output, seen = self.apply("autoencoder", v, x.fold("decode"), rows.pop("code"), **how)

        def wanted(output: Array) -> tuple[Array, Rows]:
            found = self.likelihood(v, x, output, pixels)
            return found["nll"].sum(), found

        slope, found = jax.grad(wanted, has_aux=True)(stop(output))
        rows |= found | {"square": jnp.square(stop(output) - pixels).mean((1, 2, 3))}
        rows |= {"latent": stop(rows["latent"]), "nll": with_slope(rows["nll"], slope, output)}
        if "critic" in x.phases:
            fooled, its = self.fooled(v, x, stop(output))
            rows["fooled"] = with_slope(fooled, its, output)
            rows["nll_slope"] = kernel_slope(stop(seen), slope)
            rows["fooled_slope"] = kernel_slope(stop(seen), its)
        return rows, Aux()

    def fooled(self, v: Vars, x: Inputs, output: Array) -> tuple[Array, Array]:
        """How little the critic takes pictures for real, float32[B], and the slope of its sum."""

        def value(output: Array) -> tuple[Array, Array]:
            logits, _ = self.apply("critic", v, x.fold("fool"), output, moves=True)
            each = -logits.mean((1, 2))
            return each.sum(), each

        slope, each = jax.grad(value, has_aux=True)(output)
        return each, slope

    def make(self, v: Vars, rows: Rows, x: Inputs) -> tuple[Array, Aux]:
        """The sum of the terms; metrics: each of them, `psnr` in dB of their mean square, the
        adaptive weight, the scale that the latents have, and the codebook's perplexity.
        """
        kind, weight = (
            ("codebook", self.codebook_weight) if self.net.codes else ("kl", self.kl_weight)
        )
        share = {name: x.share(rows[name]) for name in ("nll", "error", "penalty", "square")}
        loss = share["nll"] + weight * share["penalty"]
        told = {"nll": share["nll"], self.error: share["error"], kind: share["penalty"]}
        told["psnr"] = -10 * jnp.log10(share["square"] / 4 + 1e-10)
        if self.likeness:
            told[self.likeness] = x.share(rows[self.likeness])
        if self.net.codes:
            told["perplexity"] = perplexity(rows["index"], self.net.codes)
        if "critic" in x.phases:
            slopes = (rows[name].sum(0) / len(x.index) for name in ("nll_slope", "fooled_slope"))
            follow = self.critic_weight * adaptive_weight(*slopes)
            told |= {"fooled": x.share(rows["fooled"]), "adaptive_weight": follow}
            loss = loss + follow * told["fooled"]
        scale, moved = self.apply("latent_scale", v, x, rows["latent"], moves=True)
        return loss, Aux({**told, "latent_scale": scale}, moved)

    def judged(self, v: Vars, x: Inputs) -> tuple[Rows, Aux]:
        """The critic's turn: its logits float32[B, h, w] of `real` and of `fake` pictures, which
        the autoencoder makes after its own turn from another draw.
        """
        turn = x.fold("critic")
        pixels = self.pixels(x.batch["image"], x.keys)
        code = self.latents(v, turn, pixels)["code"]
        output = self.apply("autoencoder", v, turn.fold("decode"), code, method="decode")
        real, moved = self.apply("critic", v, turn.fold("real"), pixels, moves=True)
        later = v._replace(extra=lay(moved, v.extra))
        fake, again = self.apply("critic", later, turn.fold("fake"), output, moves=True)
        return {"real": real, "fake": fake}, Aux({}, lay(again, moved))

    def judge(self, v: Vars, rows: Rows, x: Inputs) -> tuple[Array, Aux]:
        """The hinge; metrics: the mean logits."""
        logits = {f"critic_{name}": x.share(rows[name]) for name in ("real", "fake")}
        return x.share(hinge(rows["real"], rows["fake"])), Aux(logits)

    def decoded(self, v: Vars, x: Inputs, latent: Array) -> Array:
        """Pictures float32[B, H, W, 3] of latents, about in [-1, 1]; a codebook quantises them."""
        if self.net.codes:
            latent = self.apply("autoencoder", v, x, latent, method="quantise").straight
        return self.apply("autoencoder", v, x, latent, method="decode").astype(jnp.float32)

    def flops(self, text_length: int | None = None) -> float:
        """FLOPs of one picture through encoder, codebook and decoder; what judges it, likeness and
        critic, is not counted."""
        del text_length
        v = jax.eval_shape(self.fresh, jax.random.key(0))
        run = lambda v, rows: self._reconstruct(v, Inputs.of(rows))  # noqa: E731
        return traced_flops(run, v, self.batch_spec(1))

    def _reconstruct(self, v: Vars, x: Inputs) -> Array:
        """What comes back of the mean, and the picture: float32[B, 2, S, S, 3] in [0, 1]."""
        pixels = self.pixels(x.batch["image"], None)
        mean, _ = self.apply("autoencoder", v, x, pixels, method="encode")
        pair = self.decoded(v, x, mean), pixels
        return jnp.clip(jnp.stack(pair, 1) / 2 + 0.5, 0, 1)

    def functions(self) -> dict[str, Function]:
        """encode_latents: mean and, but for a codebook, logvar, float32[B, h, w, c];
        decode_latents: float32[B, H, W, 3], about in [-1, 1]; both without the scale. reconstruct:
        see `_reconstruct`.
        """

        def encode(v: Vars, x: Inputs, _: None) -> dict[str, Array]:
            pixels = self.pixels(x.batch["image"], None)
            mean, logvar = self.apply("autoencoder", v, x, pixels, method="encode")
            return {"mean": mean} if logvar is None else {"mean": mean, "logvar": logvar}

        def decode(v: Vars, x: Inputs, _: None) -> Array:
            return self.decoded(v, x, x.batch["latent"])

        side = self.image_size // self.net.factor
        latent = {"latent": Numbers((side, side, self.net.width), free=2)}
        any_size = Picture(self.image_size, key="method.image_size", free=True)
        return {
            "encode_latents": Function(encode, {"image": any_size}),
            "decode_latents": Function(decode, latent),
            "reconstruct": Function(lambda v, x, _: self._reconstruct(v, x), self.fields()),
        }


def perplexity(index: Array, codes: int) -> Array:
    """exp of the entropy of how often each code is used: 1 where one is, K where all are equally.
    int32[...] in [0, codes) -> float32[]
    """
    share = jnp.bincount(index.reshape(-1), length=codes) / index.size
    return jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10)))
