"""Vision Transformer (arXiv:2010.11929) with the switches of CLIP, SigLIP, big_vision and MAE.

The file exists as the one image transformer of the package; the released sizes are in
archs/.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn.dropout import patch_dropout
from vlp_jax.nn.frozen import keys_beside
from vlp_jax.nn.init import token_init
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.patches import PatchEmbed, PatchStem
from vlp_jax.nn.pooling import AttentionPool, Pooler
from vlp_jax.nn.positions import sincos_table
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.transformer import StackConfig, run_blocks

POOLS = ("cls", "gap", "gap_norm", "map", "none", "tokens")
POSITIONS = ("learned", "sincos")


class ViT(nn.Module):
    """Pictures [B, H, W, 3] to an embedding [B, E].

    Attributes:
      image_size, patch_size: side of the input and of a patch, pixels.
      margin: image_size may be no multiple of patch_size; pixels on the right and below that fill
        no patch are not seen, as a convolution has it.
      width, num_layers: D and L.
      head_width: K; heads = width / head_width.
      mlp_ratio: MLP hidden width = int(width * mlp_ratio).
      embed_dim: E of the final projection; 0 leaves the pooled D-vector.
      pool: `cls` (with class token), `gap` (mean over patches), `gap_norm` (the mean before the
        last norm, `fc_norm`, as MAE is fine-tuned), `map` (attention pooling), `none` (all tokens),
        `tokens` (all tokens as the last block leaves them: there is no last norm, BLIP-2).
      cls_token: a class token under another pool than `cls`, too.
      pos_embed: `learned`, or `sincos` (nn/positions.py), which has no parameter.
      pre_norm: LayerNorm before the blocks (CLIP has it, SigLIP and MAE have not).
      conv_bias, head_bias: biases of patch embedding and projection.
      stem: sides of the layers before the patch embedding (nn/patches.py PatchStem, half as wide as
        the blocks), whose product divides patch_size, with a LayerNorm of the tokens (`norm_stem`);
        () is the plain ViT.
      pooler: gives "pooler" beside the embedding (nn/pooling.py Pooler).
      patch_dropout: fraction of patches dropped in training (FLIP).
      The others: see nn/transformer.py StackConfig.
    """

    image_size: int
    patch_size: Size
    width: Size
    num_layers: Size
    embed_dim: int = 0
    head_width: Size = 64
    mlp_ratio: float = 4.0
    pool: str = "cls"
    cls_token: bool = False
    pos_embed: str = "learned"
    pre_norm: bool = True
    conv_bias: bool = False
    head_bias: bool = False
    stem: tuple[int, ...] = ()
    pooler: bool = False
    margin: bool = False
    patch_dropout: Rate = 0.0
    activation: str = "gelu"
    norm_eps: float = 1e-5
    weight_init: str = "torch"
    dropout: Rate = 0.0
    drop_path: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    def stack_config(self) -> StackConfig:
        """The transformer body's sizes.

        Raises:
          UserError: head_width does not divide width.
        """
        if self.width % self.head_width:
            raise UserError(
                f"image.head_width={self.head_width} does not divide width={self.width}"
            )
        heads = dict(num_heads=self.width // self.head_width, head_dim=self.head_width)
        return StackConfig.of(self, "image", **heads)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def has_cls(self) -> bool:
        """Whether a class token stands before the patches."""
        return self.cls_token or self.pool == "cls"

    @nn.compact
    def __call__(
        self,
        images: Array,
        rng: Array | None = None,
        places: Array | None = None,
        fill: tuple[Array, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Runs the tower.

        Args:
          images: float[B, H, W, 3], normalised.
          rng: key[B] for dropout and patch dropout; None is deterministic.
          places: int32[B, N'], rising: the only patches to run on.
          fill: (hidden bool[B, N], token float[D]): what replaces the hidden patches' embeddings.

        Returns:
          (embedding float32[B, E], {"tokens": [B, N, D] before the last norm, "pooled": float32[B,
          D]} and, where there is one, "pooler": float32[B, D]).

        Raises:
          UserError: pictures of another size than the position embeddings, or an unknown pool or
            kind of positions.
        """
        if images.shape[1] != self.image_size or images.shape[2] != self.image_size:
            got = f"{images.shape[1]}x{images.shape[2]}"
            raise UserError(
                f"pictures are {got} but the image tower takes image_size={self.image_size}"
            )
        if self.pool not in POOLS:
            raise UserError(f"image.pool: unknown {self.pool!r}{nearest(self.pool, POOLS)}")
        x = self._embed(images, rng, places, fill)  # [B, N, D]
        if self.pre_norm:
            x = LayerNorm(self.norm_eps, DTYPES[self.dtype], name="norm_pre")(x)
        tokens = run_blocks(self.stack_config(), x, None, rngs.fold(rng, "blocks"))
        pooled = self._pool(tokens).astype(jnp.float32)
        out = {"tokens": tokens, "pooled": pooled}
        if self.pooler:
            first = pooled[:, 0] if pooled.ndim == 3 else pooled
            out["pooler"] = Pooler(name="pooler")(first)
        if not self.embed_dim:
            return pooled, out
        scale = nn.initializers.normal(self.width**-0.5)
        head = nn.Dense(self.embed_dim, use_bias=self.head_bias, kernel_init=scale, name="head")
        return head(pooled), out

    def _embed(
        self,
        images: Array,
        rng: Array | None,
        places: Array | None,
        fill: tuple[Array, Array] | None,
    ) -> Array:
        dtype, width, step = DTYPES[self.dtype], self.width, math.prod(self.stem)
        if self.margin:
            seen = self.grid * self.patch_size
            images = images[:, :seen, :seen]
        if self.stem:
            if min(self.stem) < 2 or self.patch_size % step:
                sides = " x ".join(map(str, self.stem))
                raise UserError(f"image.stem: {sides} does not divide patch_size={self.patch_size}")
            how = (self.stem, self.norm_eps, dtype, self.weight_init)
            images = PatchStem(width // 2, *how, name="stem")(images)
        how = (self.patch_size // step, self.conv_bias, dtype, self.weight_init)
        x = PatchEmbed(width, *how, name="patch_embed")(images, places)
        if self.stem:
            x = LayerNorm(self.norm_eps, dtype, name="norm_stem")(x)
        if fill is not None:
            x = jnp.where(fill[0][:, :, None], fill[1].astype(dtype), x)
        pos = self._positions().astype(dtype)
        patches = pos[self.has_cls :]
        x = x + (patches if places is None else patches[places])  # [B, N', D]
        if places is None and fill is None:
            keys = keys_beside("patch_embed", rngs.fold(rng, "patch_dropout"))
            x = patch_dropout(x, self.patch_dropout, keys)
        if not self.has_cls:
            return x
        cls = self.param("cls_token", token_init(self.weight_init, width), (width,)).astype(dtype)
        cls = jnp.broadcast_to(cls + pos[0], (x.shape[0], 1, width))
        return jnp.concatenate([cls, x], axis=1)

    def _positions(self) -> Array:
        """float32[N, D], or [1 + N, D] where there is a class token."""
        if self.pos_embed not in POSITIONS:
            hint = nearest(self.pos_embed, POSITIONS)
            raise UserError(f"image.pos_embed: unknown {self.pos_embed!r}{hint}")
        if self.pos_embed == "sincos":
            return jnp.asarray(sincos_table(self.grid, self.width, int(self.has_cls)))
        shape = (self.grid**2 + self.has_cls, self.width)
        return self.param("pos_embed", token_init(self.weight_init, self.width), shape)

    def _pool(self, tokens: Array) -> Array:
        if self.pool == "tokens":
            return tokens
        name = "fc_norm" if self.pool == "gap_norm" else "norm_post"
        norm = LayerNorm(self.norm_eps, DTYPES[self.dtype], name=name)
        if self.pool == "cls":
            return norm(tokens[:, 0])  # equals pooling the normalised tokens, at 1/N of the cost
        if self.pool == "gap_norm":
            return norm(tokens[:, self.has_cls :].mean(1))
        tokens = norm(tokens)
        if self.pool == "gap":
            return tokens[:, self.has_cls :].mean(1)
        if self.pool == "map":
            config = self.stack_config()
            sizes = (
                config.num_heads,
                config.hidden,
                self.activation,
                self.norm_eps,
                DTYPES[self.dtype],
            )
            return AttentionPool(*sizes, name="pool")(tokens)
        return tokens
