"""A decoder-only language model: LLaMA and its relatives (arXiv:2302.13971), Mistral
(arXiv:2310.06825), OPT (arXiv:2205.01068), MPT, GPT-NeoX (arXiv:2204.06745) and GPT-2.

Reference: the classes of these names in transformers. They are one stack of blocks under switches,
whose defaults are LLaMA's. The file exists so that every method that writes with a language model
takes any of them.
"""

from typing import Annotated, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Amount, Chance, Range, Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn import cache as caches
from vlp_jax.nn.attention import Place
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.embed import Embed
from vlp_jax.nn.layer_norm import NORMS
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.rotary import Rotary, slopes
from vlp_jax.nn.transformer import StackConfig, run_blocks

POSITIONS = ("rotary", "learned", "alibi")
Whole = Annotated[int, Range(0)]
_NORMAL = nn.initializers.normal(0.02)


class DecoderLM(nn.Module):
    """Token ids [B, T] to the logits of each next token.

    Attributes:
      vocab_size, context_length: V, and tokens of a text as trained (see `places`).
      new_rows: how many of the V, the last, lie beside the tables (nn/embed.py).
      width, num_layers, num_heads: D, L and H.
      word_width: of the tables, with linear maps from and to D; 0: D (OPT-350M has 512).
      positions: a name of POSITIONS.
      position_offset: rows before that of the first token (OPT has 2).
      rotary_share: what part of a head turns (GPT-NeoX).
      rope_theta, rope_scaling, rope_factor, rope_length, rope_low, rope_high: see nn/rotary.py;
        length 0: context_length.
      alibi_max: see nn/rotary.py slopes.
      window: a token sees so many, itself among them; 0: all (Mistral).
      final_norm: after the blocks.
      tied: one table for what is read and what is written.
      The others: see nn/transformer.py StackConfig.
    """

    masked: ClassVar[bool] = True  # takes a mask beside the ids
    cuttable: ClassVar[bool] = True  # nothing after a text's end is seen
    writes: ClassVar[bool] = True

    vocab_size: Size = 32000
    context_length: Size = 2048
    new_rows: Whole = 0
    width: Size = 4096
    num_layers: Size = 32
    num_heads: Size = 32
    kv_heads: Whole = 0
    head_dim: Whole = 0
    hidden: Size = 11008
    word_width: Whole = 0
    positions: str = "rotary"
    position_offset: Whole = 0
    rotary_share: Chance = 1.0
    rope_theta: float = 10_000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_length: Whole = 0
    rope_low: float = 1.0
    rope_high: float = 4.0
    alibi_max: float = 8.0
    window: Whole = 0
    norm: str = "rms"
    norm_eps: float = 1e-6
    final_norm: bool = True
    post_norm: bool = False
    parallel: bool = False
    gated: bool = True
    activation: str = "silu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qkv_clip: Amount = 0.0
    attention_scale: Amount = 0.0
    tied: bool = False
    weight_init: str = "bert"
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    @property
    def places(self) -> int:
        """Tokens that it takes at most: as trained, or as far as its rotary positions stretch."""
        stretched = self.positions == "rotary" and self.rope_scaling in ("linear", "dynamic")
        return int(self.context_length * (self.rope_factor if stretched else 1))

    def stack_config(self) -> StackConfig:
        """The transformer body's sizes.

        Raises:
          UserError: heads that do not divide; unknown positions.
        """
        if self.positions not in POSITIONS:
            hint = nearest(self.positions, POSITIONS)
            raise UserError(f"lm.positions: unknown {self.positions!r}{hint}")
        return StackConfig.of(self, "lm")

    def empty_cache(self, batch_size: int, slots: int) -> caches.Cache:
        """A cache for texts of at most `slots` tokens."""
        heads = self.kv_heads or self.num_heads
        sizes = (self.num_layers, batch_size, heads, slots, self._head)
        return caches.empty(*sizes, DTYPES[self.dtype])

    @property
    def _head(self) -> int:
        return self.head_dim or self.width // self.num_heads

    @nn.compact
    def __call__(
        self,
        ids: Array,
        mask: Array | None = None,
        cache: caches.Cache | None = None,
        asked: Array | None = None,
        rng: Array | None = None,
        mode: str = "next",
    ) -> tuple[Array, dict[str, Array | caches.Cache]] | Array:
        """Runs the model.

        Args:
          ids: int32[B, T], or in place of words what mode `words` makes of ids, or anything else
            of that width (a picture's tokens), float[B, T, W].
          mask: bool[B, T], True where a token is real, padded on the right; None: all are.
          cache: of the tokens before these.
          asked: int32[1 or B, N], tokens of these whose next one is asked; None: all.
          rng: key[B] for dropout; None is deterministic.
          mode: `next`, or `words`, the embeddings of ids alone.

        Returns:
          (states float[B, T, D], {"logits": float32[B, N, V] of each next token and, where there is
          one, "cache": with these tokens}). Under `words` float[B, T, W].

        Raises:
          UserError: T, or slots of a cache, beyond `places`.
        """
        config, dtype = self.stack_config(), DTYPES[self.dtype]
        wide = self.word_width or self.width
        table = dict(dtype=dtype, embedding_init=_NORMAL, new_rows=self.new_rows)
        words = Embed(self.vocab_size - self.new_rows, wide, name="token_embed", **table)
        x = words(ids) if ids.ndim == 2 else ids.astype(dtype)
        if mode == "words":
            return x
        count = x.shape[1] if cache is None else cache.slots
        if count > self.places:
            most = f"context_length={self.context_length}"
            raise UserError(f"texts of {count} tokens but the language model takes {most}")
        places = caches.places(jnp.int32(0) if cache is None else cache.at, x.shape[1])
        how = dict(use_bias=False, dtype=dtype, kernel_init=_NORMAL)
        if wide != self.width:
            x = nn.Dense(self.width, name="project_in", **how)(x)
        if self.positions == "learned":
            shape = self.context_length + self.position_offset, self.width
            x = x + self.param("pos_embed", _NORMAL, shape)[places + self.position_offset].astype(
                dtype
            )
        x = dropout(x, self.dropout, rngs.fold(rng, "embed"))
        seen, place = self._seen(places, mask, cache), self._place(places, count)
        x = run_blocks(config, x, seen, rngs.fold(rng, "blocks"), cache=cache, place=place)
        out = {}
        if cache is not None:
            x, new = x
            out["cache"] = caches.extend(cache, *new, places.shape[1], mask)
        if self.final_norm:
            x = NORMS[self.norm](self.norm_eps, dtype, name="norm_post")(x)
        last = x if asked is None else jnp.take_along_axis(x, asked[..., None], axis=1)
        if wide != self.width:
            last = nn.Dense(wide, name="project_out", **how)(last)
        if not self.tied:
            words = Embed(self.vocab_size - self.new_rows, wide, name="head", **table)
        return x, out | {"logits": words.attend(last)}

    def _seen(self, places: Array, mask: Array | None, cache: caches.Cache | None) -> Array:
        """bool[1 or B, 1, T, S]: what each token sees."""
        slots = places.shape[1] if cache is None else cache.slots
        seen = jnp.arange(slots) <= places[:, None, :, None]
        if self.window:
            seen = seen & (jnp.arange(slots) > places[:, None, :, None] - self.window)
        return seen if cache is not None or mask is None else seen & mask[:, None, None, :]

    def _place(self, places: Array, slots: int) -> Place:
        """What attention knows of places int32[1 or B, T]."""
        if self.positions == "rotary":
            length = self.rope_length or self.context_length
            how = (self.rope_theta, self.rope_scaling, self.rope_factor, length)
            size = int(self._head * self.rotary_share)
            return Place(turns=Rotary(size, *how, self.rope_low, self.rope_high).turns(places))
        if self.positions == "alibi":  # relative to the last token, as a softmax sees no difference
            back = jnp.arange(slots) - places[:, None, None, -1:]  # [B, 1, 1, S]
            return Place(bias=slopes(self.num_heads, self.alibi_max)[:, None, None] * back)
        return Place()
