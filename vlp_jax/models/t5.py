"""T5 version 1.1 and Flan-T5 (arXiv:1910.10683, 2210.11416; reference: transformers
T5ForConditionalGeneration): an encoder of a text, and a decoder that looks at it.

Attention has no scale and one bias by relative places for all layers of a side, as the first of
them has it in the reference. The file exists so that texts are written by an encoder and a decoder,
too.
"""

from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Range, Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn import cache as caches
from vlp_jax.nn.attention import Place
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.embed import Embed
from vlp_jax.nn.layer_norm import RMSNorm
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.transformer import StackConfig, look, run_blocks

MODES = ("all", "words", "encode", "look", "decode")
_NORMAL = nn.initializers.normal(0.02)


def buckets(apart: Array, both_ways: bool, count: int = 32, most: int = 128) -> Array:
    """Which row of the table of biases belongs to a key so many places after its query.

    Worked example: 0, 1, -1, 7, 8, -8, 127, -127 and 1000 places are the rows 0, 17, 1, 23, 24, 8,
    31, 15 and 31 of an encoder.

    Args:
      apart: int32[...]. both_ways: later keys are seen, by rows of their own. count: rows; half are
        of single distances, the others grow by a factor up to `most` places.
    """
    first = 0
    if both_ways:
        count //= 2
        first = jnp.where(apart > 0, count, 0)
        apart = jnp.abs(apart)
    else:
        apart = jnp.maximum(-apart, 0)
    single = count // 2
    wide = jnp.log(jnp.maximum(apart, 1).astype(jnp.float32) / single) / np.log(most / single)
    far = jnp.minimum(single + (wide * (count - single)).astype(jnp.int32), count - 1)
    return first + jnp.where(apart < single, apart, far)


class _Side(nn.Module):
    """One of the two stacks, [B, T, D] to [B, T, D], with its biases and last norm."""

    config: StackConfig
    bias_buckets: int
    bias_most: int
    both_ways: bool

    @nn.compact
    def __call__(
        self,
        x: Array | None,
        mask: Array | None = None,
        context: caches.States | caches.Context | None = None,
        cache: caches.Cache | None = None,
        rng: Array | None = None,
    ) -> tuple[Array, caches.Cache | None] | caches.Context:
        """mask: bool[B, T], real tokens. Without x the keys and values of the context."""
        c, dtype = self.config, DTYPES[self.config.dtype]
        if x is None:
            return look(c, context)
        at = jnp.int32(0) if cache is None else cache.at
        slots = x.shape[1] if cache is None else cache.slots
        places = caches.places(at, x.shape[1])  # [1 or B, T]
        apart = jnp.arange(slots) - places[:, :, None]
        table = self.param("bias", _NORMAL, (self.bias_buckets, c.num_heads))
        rows = table[buckets(apart, self.both_ways, self.bias_buckets, self.bias_most)]
        bias = rearrange(rows, "b t s h -> b h t s").astype(jnp.float32)
        seen = None if self.both_ways else (apart <= 0)[:, None]
        if mask is not None and cache is None:
            real = mask[:, None, None, :]
            seen = real if seen is None else seen & real
        x = dropout(x, c.dropout, rngs.fold(rng, "embed"))
        how = dict(context=context, cache=cache, place=Place(bias=bias))
        x = run_blocks(c, x, seen, rngs.fold(rng, "blocks"), **how)
        if cache is not None:
            x, new = x
            cache = caches.extend(cache, *new, places.shape[1], mask)
        x = RMSNorm(c.norm_eps, dtype, name="norm_post")(x)
        return dropout(x, c.dropout, rngs.fold(rng, "out")), cache


class T5(nn.Module):
    """A text, and what was written of another, to the logits of its next tokens.

    Attributes:
      vocab_size: V.
      context_length: tokens of a text at most; the network itself has no limit.
      width, num_layers, num_heads, head_dim, hidden: D, L, H, K and F; K H need not be D.
      decoder_layers: of the decoder; 0: L.
      bias_buckets, bias_most: see `buckets`.
      tied: words are written by the table that they are read by.
      scaled: states are multiplied by D^-0.5 before that (T5 before version 1.1).
      The others: see nn/transformer.py StackConfig.
    """

    writes: ClassVar[bool] = False  # its decoder's layers lie deeper than nn/layers.py looks

    vocab_size: Size = 32128
    context_length: Size = 512
    width: Size = 512
    num_layers: Size = 8
    num_heads: Size = 6
    head_dim: Size = 64
    hidden: Size = 1024
    decoder_layers: Annotated[int, Range(0)] = 0
    bias_buckets: Size = 32
    bias_most: Size = 128
    tied: bool = False
    scaled: bool = False
    gated: bool = True
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-6
    weight_init: str = "bert"
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    def stack_config(self, decoder: bool = False) -> StackConfig:
        """Sizes of a side."""
        none = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), False)
        layers = {"num_layers": self.decoder_layers or self.num_layers} if decoder else {}
        return StackConfig.of(self, "lm", norm="rms", attention_scale=1.0, **none, **layers)

    def empty_cache(self, batch_size: int, slots: int) -> caches.Cache:
        """A cache for so many written tokens."""
        layers = self.decoder_layers or self.num_layers
        sizes = (layers, batch_size, self.num_heads, slots, self.head_dim)
        return caches.empty(*sizes, DTYPES[self.dtype])

    @nn.compact
    def __call__(
        self,
        ids: Array | None,
        mask: Array | None = None,
        target: Array | None = None,
        context: caches.States | caches.Context | None = None,
        cache: caches.Cache | None = None,
        rng: Array | None = None,
        mode: str = "all",
    ) -> tuple[Array, dict[str, Array | caches.Cache]] | Array | caches.Context:
        """Runs one side, or both.

        Args:
          ids: int32[B, T], or in place of words float[B, T, D] (models/decoder_lm.py), which the
            encoder reads.
          mask: bool[B, T], True where a token of ids is real; None: all are.
          target: int32[B, U] that the decoder reads, its start id first.
          context: what the decoder looks at: the encoder's States, or what `look` made of them.
          cache: of the decoder's tokens before these.
          rng: key[B] for dropout; None is deterministic.
          mode: `words`, the embeddings of ids; `encode`, states of ids; `look`, the keys and values
            of a context; `decode`, with a context; `all`, ids encoded and target decoded.

        Returns:
          (states float[B, U, D], {"logits": float32[B, U, V] of each next token and, where there is
          one, "cache"}); under `encode` (states float[B, T, D], {}); under `words` float[B, T, D];
          under `look` a Context.

        Raises:
          UserError: an unknown mode.
        """
        if mode not in MODES:
            raise UserError(f"lm: no mode {mode!r} of T5{nearest(mode, MODES)}")
        dtype = DTYPES[self.dtype]
        words = dict(dtype=dtype, embedding_init=_NORMAL)
        table = Embed(self.vocab_size, self.width, name="token_embed", **words)
        side = lambda name, two: _Side(  # noqa: E731
            self.stack_config(not two), self.bias_buckets, self.bias_most, two, name=name
        )
        if mode == "look":
            return side("decoder", False)(None, context=context)
        read = lambda given: table(given) if given.ndim == 2 else given.astype(dtype)  # noqa: E731
        if mode == "words":
            return read(ids)
        if mode in ("all", "encode"):
            x, _ = side("encoder", True)(read(ids), mask, rng=rngs.fold(rng, "encoder"))
            if mode == "encode":
                return x, {}
            context = caches.States(x, mask)
        target = jnp.zeros((len(ids), 1), jnp.int32) if target is None else target
        how = (None, context, cache, rngs.fold(rng, "decoder"))
        x, cache = side("decoder", False)(read(target), *how)
        out = {} if cache is None else {"cache": cache}
        last = x * self.width**-0.5 if self.scaled else x
        if not self.tied:
            table = Embed(self.vocab_size, self.width, name="head", **words)
        return x, out | {"logits": table.attend(last)}


def reads() -> tuple[jax.ShapeDtypeStruct, ...]:
    """Inputs of a call that makes every parameter, for `Part`."""
    return (jax.ShapeDtypeStruct((1, 2), jnp.int32),)
