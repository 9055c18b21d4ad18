"""Context encoder: what is missing in the hole? (arXiv:1604.07379)

The trunk sees the picture with a hole; a channel-wise fully connected layer carries its map over to
a decoder that paints the hole, under a squared error and a critic. The file exists to hold the
question and its two players.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlp_jax.augment.tiles import cut
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array, Extra
from vlp_jax.losses.adversarial import critic_loss, fooling_loss, judge
from vlp_jax.methods.base import Part
from vlp_jax.methods.kits.pretext import Answers, Pretext, grid_of, grid_shape
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.conv_decoder import ChannelDense, ConvDecoder, Critic, check_doublings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inpainting(Pretext):
    """Players: `critic/.*` tells painted holes from true ones; everything else paints. The critic's
    learning rate is `optim.lr_groups`; `optim.clip_norm` would clip both by one norm.

    Attributes:
      hole: side of the square to paint, pixels.
      place: `center`, or `random` anywhere in the picture.
      overlap: width of a ring of the hole that stays visible, whose error weighs 10 times.
      widths: channels of the decoder; each doubles the trunk's map, up to the hole.
      critic_widths: channels of the critic.
      adversarial: weight of fooling the critic; 1 minus it is that of the squared error. 0: no
        critic.
    """

    critic_paths: ClassVar[tuple[str, ...]] = ("critic/.*",)

    hole: int
    place: str = "center"
    overlap: int = 4
    widths: tuple[int, ...] = (512, 256, 128)
    critic_widths: tuple[int, ...] = (64, 128, 256, 512)
    adversarial: float = 0.001

    def __post_init__(self) -> None:
        if self.place not in ("center", "random"):
            raise UserError(f"method.place={self.place!r}: center or random")
        side = self.image_tower.image_size
        if not 0 <= 2 * self.overlap < self.hole < side:
            raise UserError(
                f"method.hole={self.hole}: needs 2 x overlap={self.overlap} < hole < {side}"
            )
        if not 0 <= self.adversarial < 1:
            raise UserError(f"method.adversarial={self.adversarial}: needs 0 <= it < 1")

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """channels and decoder: on the trunk's map; critic: on holes."""
        grid = grid_shape(out)
        check_doublings(self.widths, grid.shape[1], self.hole)
        parts = {
            "channels": Part(ChannelDense(), (grid,)),
            "decoder": Part(ConvDecoder(3, self.widths), (grid,)),
        }
        if self.adversarial:
            hole = floats(1, self.hole, self.hole, 3)
            parts["critic"] = Part(Critic(self.critic_widths), (hole,))
        return parts

    def corners(self, keys: Array) -> Array:
        """Upper left corner of the hole, int32[B, 2]; keys: key[B]."""
        most = self.image_tower.image_size - self.hole
        if self.place == "center":
            return jnp.full((len(keys), 2), most // 2, jnp.int32)
        return jax.vmap(lambda key: jax.random.randint(key, (2,), 0, most + 1))(keys)

    def hidden(self, corners: Array) -> Array:
        """bool[B, S, S, 1]: the pixels that the trunk does not see."""
        places = jnp.arange(self.image_tower.image_size)
        low = corners[..., None] + self.overlap  # [B, 2, 1]
        inside = (places >= low) & (places < low + self.hole - 2 * self.overlap)  # [B, 2, S]
        return (inside[:, 0, :, None] & inside[:, 1, None, :])[..., None]

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """painted and true holes float32[B, h, h, 3] in [-1, 1], their corners, the visible mean
        [B, 3], and the critic's logits (losses/adversarial.py).
        """
        pixels = self.augmented(x.batch["image"], x.keys) / 127.5 - 1
        corners = self.corners(keys)
        hidden = self.hidden(corners)
        ready = jnp.where(hidden, 0.0, self.normalised((pixels + 1) * 127.5))  # 0: the mean colour
        _, out, moved = self.run_image(v, x, ready)
        carried = self.apply("channels", v, x, grid_of(out))
        painted = jnp.tanh(self.apply("decoder", v, x, carried))
        true = cut(pixels, corners[:, None], self.hole)[:, 0]
        rows = {"painted": painted, "true": true, "corners": corners}
        rows["mean"] = (pixels * ~hidden).sum((1, 2)) / (~hidden).sum((1, 2))
        if self.adversarial:
            run = lambda params, holes: self.apply("critic", v._replace(params=params), x, holes)  # noqa: E731
            rows |= judge(run, v.params, self.critic_paths, (true, painted))
        return rows, moved

    def ring_weight(self) -> Array:
        """float32[h, h, 1]: 10 on the visible ring, 1 inside."""
        inner = jnp.ones([self.hole - 2 * self.overlap] * 2)
        return jnp.pad(inner, self.overlap, constant_values=10.0)[..., None]

    def objective(self, v: Vars, rows: Answers, x: Inputs) -> tuple[Array, Aux]:
        """Squared error, fooling the critic, and the critic's own loss; metrics: each of them, psnr
        and that of the mean colour.
        """
        error = x.share(self.ring_weight() * jnp.square(rows["painted"] - rows["true"]))
        metrics = {"squared_error": error, **self.scored(x, rows, "psnr")}
        if not self.adversarial:
            return error, Aux(metrics)
        judged, fooled = x.share(critic_loss(rows)), x.share(fooling_loss(rows))
        loss = (1 - self.adversarial) * error + self.adversarial * fooled + judged
        return loss, Aux({**metrics, "critic_loss": judged, "fooling_loss": fooled})

    def score(self, rows: Answers) -> Array:
        """PSNR in dB of the unseen pixels, beside that of the mean visible colour."""
        ring = slice(self.overlap, self.hole - self.overlap)

        def psnr(guess: Array) -> Array:
            error = jnp.square(guess - rows["true"])[:, ring, ring].mean((1, 2, 3)) / 4
            return -10 * jnp.log10(jnp.maximum(error, 1e-6))

        return jnp.stack([psnr(rows["painted"]), psnr(rows["mean"][:, None, None])], axis=1)

    def show(self, images: Array, rows: Answers) -> Array:
        """3 panels: input, painted, target."""
        hidden = self.hidden(rows["corners"])
        paste = jax.vmap(
            lambda image, hole, at: jax.lax.dynamic_update_slice(image, hole, (*at, jnp.int32(0)))
        )
        painted = paste(images, (rows["painted"] + 1) / 2, rows["corners"])
        painted = jnp.where(hidden, painted, images)
        return jnp.stack([jnp.where(hidden, 0.5, images), painted, images], axis=1)
