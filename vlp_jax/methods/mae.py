"""MAE: masked autoencoders (arXiv:2111.06377; reference: facebookresearch/mae).

The encoder sees a quarter of the patches, a narrow decoder paints the others. The file exists to
hold what makes the tower a masked autoencoder: what is hidden, and what is scored.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array
from vlp_jax.losses import reconstruction
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.trunk import Trunk, floats
from vlp_jax.models.flops import stack_flops, tower_flops
from vlp_jax.models.mae_decoder import MAEDecoder
from vlp_jax.models.vit import ViT
from vlp_jax.nn.init import token_init
from vlp_jax.nn.masks import MASKINGS, is_hidden, shuffle, visible_patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAE(Trunk):
    """A ViT, a decoder and the mean squared error of the hidden patches.

    The tower pools by `cls` or `gap`, which is what `features` gives; the decoder gets all tokens.
    A batch may hold `noise` float[B, N]: its lowest entries stay visible, as in the reference.

    Attributes:
      mask_ratio: share of patches hidden; int(N (1 - mask_ratio)) stay visible.
      masking: random, block or grid (nn/masks.py).
      norm_pix: standardises the target patch by patch, as the released models do.
      mask_token_in_encoder: hidden patches go through the encoder as mask tokens (Table 1c): the
        slow variant that the paper argues against.
      decoder: fields of models/mae_decoder.py; None: a released encoder alone, which gives features
        and cannot be trained.
    """

    mask_ratio: float = 0.75
    masking: str = "random"
    norm_pix: bool = True
    mask_token_in_encoder: bool = False
    decoder: Annotated[Mapping[str, Any] | None, MAEDecoder] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        """Raises UserError for a tower, ratio or masking that cannot be trained."""
        tower = self.image_tower
        if not isinstance(tower, ViT) or tower.pool not in ("cls", "gap"):
            raise UserError("method.image: mae needs a vit with pool='cls' or pool='gap'")
        if tower.patch_dropout or tower.embed_dim:
            key = "patch_dropout" if tower.patch_dropout else "embed_dim"
            raise UserError(f"method.image.{key}: must be 0; mae hides patches by mask_ratio")
        if self.masking not in MASKINGS:
            hint = nearest(self.masking, MASKINGS)
            raise UserError(f"method.masking: unknown {self.masking!r}{hint}")
        count = tower.grid**2
        if not count:
            side = f"a patch of method.image.patch_size={tower.patch_size}"
            raise UserError(f"image_size={tower.image_size}: smaller than {side}")
        where = f"method.mask_ratio={self.mask_ratio:g}"
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"{where}: must lie strictly between 0 and 1")
        if not 0 < self.keep < count:
            few = "none stays visible" if self.keep < 1 else "none is hidden"
            size = f"{tower.image_size} pixels have {count} patches of {tower.patch_size}"
            raise UserError(f"{where}: {size}, {few}")
        if self.decoder is not None:
            self.decoder_net.stack_config()

    @property
    def keep(self) -> int:
        """Visible patches."""
        return int(self.image_tower.grid**2 * (1 - self.mask_ratio))

    @cached_property
    def encoder(self) -> ViT:
        """The image tower, giving all its tokens after the last norm."""
        tower = self.image_tower
        return tower.clone(pool="none", cls_token=tower.has_cls)

    @cached_property
    def decoder_net(self) -> MAEDecoder:
        """The decoder. Raises UserError where there is none."""
        if self.decoder is None:
            raise UserError("method.decoder: none; this is an encoder alone, name it in init_from")
        tower = self.image_tower
        given = dict(grid=tower.grid, patch_size=tower.patch_size, prefix=int(tower.has_cls))
        shared = dict(dtype=self.dtype, remat=self.remat, unroll=self.unroll)
        return build(MAEDecoder, {**shared, **self.decoder, **given}, "method.decoder")

    def parts(self) -> dict[str, Part]:
        """image, decoder, and mask_token where the encoder has one."""
        found = super().parts()
        if self.decoder is None:
            return found
        tower, inside = self.image_tower, self.mask_token_in_encoder
        seen = tower.grid**2 if inside else self.keep
        tokens = floats(1, tower.has_cls + seen, tower.width)
        places = None if inside else jax.ShapeDtypeStruct((1, seen), jnp.int32)
        found["decoder"] = Part(self.decoder_net, (tokens, places))
        if inside:
            start = token_init(tower.weight_init, tower.width)
            found["mask_token"] = Part(Leaf(lambda rng: start(rng, (tower.width,))))
        return found

    def visible(self, x: Inputs) -> Array:
        """Places of the visible patches, int32[B, N'], rising; without noise and outside training a
        choice that every picture fixes for itself.
        """
        if "noise" in x.batch:
            return jnp.sort(shuffle(x.batch["noise"])[0][:, : self.keep], axis=1)
        keys = rngs.fold(x.rng, "mask") if x.train else rngs.picture_keys(x.batch["image"])
        return visible_patches(keys, self.image_tower.grid, self.keep, self.masking)

    def predict(self, v: Vars, x: Inputs, images: Array, places: Array) -> Array:
        """Predicted patches, float32[B, N, P * P * 3], in the space of `target`.

        Args:
          images: float32[B, S, S, 3], normalised.
          places: int32[B, N'], the visible patches.
        """
        how: dict[str, Any] = {"places": places}
        if self.mask_token_in_encoder:
            hidden = is_hidden(places, self.image_tower.grid**2)
            how, places = {"fill": (hidden, v.params["mask_token"])}, None
        tokens, _ = self.apply("image", v, x, images, net=self.encoder, **how)
        return self.apply("decoder", v, x, tokens, places)

    def target(self, images: Array) -> Array:
        """Patches of normalised pictures, standardised one by one under norm_pix: float32[B, N, P *
        P * 3].
        """
        patches = reconstruction.patchify(images, self.image_tower.patch_size)
        if not self.norm_pix:
            return patches
        mean, deviation = reconstruction.patch_moments(patches)
        return (patches - mean) / deviation

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """float32[B] each: `error`, the sum over hidden patches, `zero`, that of predicting zero,
        and `hidden`, their number.
        """
        images, places = self.prepare(x.batch["image"], x.keys), self.visible(x)
        target = self.target(images)
        hidden = is_hidden(places, target.shape[1])
        prediction = self.predict(v, x, images, places)
        errors = {"error": prediction, "zero": jnp.zeros_like(target)}
        rows = {
            name: reconstruction.masked_sum(reconstruction.patch_error(value, target), hidden)
            for name, value in errors.items()
        }
        return {**rows, "hidden": hidden.sum(1).astype(jnp.float32)}, Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """Mean over all hidden patches of the batch, as many in every picture; metric zero_loss:
        that of predicting zero.
        """
        loss, zero = (x.share(rows[name] / rows["hidden"]) for name in ("error", "zero"))
        return loss, Aux({"zero_loss": zero})

    def functions(self) -> dict[str, Function]:
        """features (nothing hidden); loss: float32[B, 2], each picture's and that of predicting
        zero; reconstruct: float32[B, 4, S, S, 3] in [0, 1], see `reconstruct`.
        """

        def loss(v: Vars, x: Inputs) -> Array:
            rows, _ = self.encode(v, x)
            return jnp.stack([rows["error"], rows["zero"]], axis=1) / rows["hidden"][:, None]

        found = super().functions()
        if self.decoder is None:
            return found
        reads = found["features"].reads
        own = {"loss": loss, "reconstruct": self.reconstruct}
        return found | {name: Function(run, reads) for name, run in own.items()}

    def reconstruct(self, v: Vars, x: Inputs) -> Array:
        """Input, mask, output and target of every picture, float32[B, 4, S, S, 3] in [0, 1].

        Hidden patches are grey in the input, 1 in the mask and predicted in the output, which shows
        the visible ones as they are. Under norm_pix the prediction lacks brightness and contrast;
        the output borrows both from the target patch.
        """
        side, images = self.image_tower.patch_size, self.prepare(x.batch["image"], None)
        places = self.visible(x)
        prediction = self.predict(v, x, images, places)
        patches = reconstruction.patchify(images, side)
        if self.norm_pix:
            mean, deviation = reconstruction.patch_moments(patches)
            prediction = prediction * deviation + mean
        hidden = is_hidden(places, patches.shape[1])[:, :, None]
        painted = reconstruction.unpatchify(jnp.where(hidden, prediction, patches), side)
        scale, shift = jnp.asarray(self.image_std), jnp.asarray(self.image_mean)
        mask = reconstruction.unpatchify(jnp.broadcast_to(hidden, patches.shape), side)
        output, target = (jnp.clip(x * scale + shift, 0, 1) for x in (painted, images))
        seen = jnp.where(mask, 0.5, target)
        return jnp.stack([seen, mask.astype(jnp.float32), output, target], axis=1)

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one picture: the encoder over what it sees, the decoder over all."""
        del text_length
        if self.decoder is None:
            return super().flops()
        tower, decoder = self.image_tower, self.decoder_net
        seen = tower.grid**2 if self.mask_token_in_encoder else self.keep
        blocks = stack_flops(decoder.stack_config(), tower.grid**2 + tower.has_cls)
        return tower_flops(tower, seen) + blocks + decoder.flops(seen + tower.has_cls, tower.width)
