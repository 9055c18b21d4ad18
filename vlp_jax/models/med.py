"""The text side of BLIP (arXiv:2201.12086, section 3.1; reference: salesforce/BLIP med.py,
transformers BlipTextModel and BlipTextLMHeadModel): a mixture of encoder and decoder on one BERT.

The file exists because three networks share their weights here, which modes of one call say best.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn import cache as caches
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.transformer import StackConfig, look, run_blocks
from vlp_jax.nn.word_head import WordHead

# What encoder and decoder have each for itself, by what they share (Table 3).
SHARES = {
    "all": (),
    "except_self_attention": ("attn",),
    "except_cross_attention": ("cross_attn",),
    "none": ("attn", "cross_attn", "mlp", "embed"),
}
ROLES = ("both", "encoder", "decoder")
MODES = {"text": "encoder", "ground": "encoder", "decode": "decoder", "look": "decoder"}
# Paths of what mode `text` runs, which BLIP's teacher follows.
ENCODER = ("((token_embed|norm_embed)/.*|pos_embed)", "blocks/(attn|norm1|mlp|norm2)/.*")
DECODER = "decode_"  # before the names of what the decoder has for itself
_NORMAL = nn.initializers.normal(0.02)


class MED(nn.Module):
    """Token ids [B, T] to states, alone or beside those of a picture, and to the next words.

    Attributes:
      vocab_size, context_length: V and the longest T.
      width, num_layers, num_heads: D, L and H.
      share: a name of SHARES.
      roles: `both`, or the weights of one alone: `encoder` (without the head of words) or
        `decoder`, under the names that they have beside each other.
      merge_from: 0 or more, of an encoder: it looks at two pictures, at each by a cross-attention
        of its own; a layer takes their mean, from this one on a linear map of both.
      The others: see nn/transformer.py StackConfig.
    """

    masked: ClassVar[bool] = True  # takes a mask beside the ids
    cuttable: ClassVar[bool] = True  # given that mask, nothing after a text's end is seen

    vocab_size: Size = 30524
    context_length: Size = 512
    width: Size = 768
    num_layers: Size = 12
    num_heads: Size = 12
    mlp_ratio: float = 4.0
    share: str = "except_self_attention"
    roles: str = "both"
    merge_from: int = -1
    activation: str = "gelu"
    norm_eps: float = 1e-12
    weight_init: str = "bert"
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    @property
    def twins(self) -> tuple[str, ...]:
        """What there is twice. Raises UserError for an unknown share or roles."""
        for key, names in (("share", SHARES), ("roles", ROLES)):
            value = getattr(self, key)
            if value not in names:
                raise UserError(f"text.{key}: unknown {value!r}{nearest(value, names)}")
        return SHARES[self.share]

    @property
    def writes(self) -> bool:
        """Whether there is a decoder."""
        return self.roles != "encoder"

    def stack_config(self) -> StackConfig:
        """The transformer body's sizes.

        Raises:
          UserError: num_heads does not divide width; a second picture of a decoder; see `twins`.
        """
        if self.merge_from >= 0 and self.roles != "encoder":
            raise UserError(f"text.merge_from={self.merge_from}: needs roles='encoder'")
        return StackConfig.of(self, "text", post_norm=True, twins=self.twins)

    def empty_cache(self, batch_size: int, slots: int) -> caches.Cache:
        """A cache for texts of at most `slots` tokens."""
        sizes = (self.num_layers, batch_size, self.num_heads, slots, self.width // self.num_heads)
        return caches.empty(*sizes, DTYPES[self.dtype])

    @nn.compact
    def __call__(
        self,
        ids: Array | None,
        mask: Array | None = None,
        context: Array | caches.States | caches.Context | None = None,
        cache: caches.Cache | None = None,
        rng: Array | None = None,
        mode: str = "all",
    ) -> tuple[Array, dict[str, Array | caches.Cache]] | caches.Context:
        """Runs one of the networks.

        Args:
          ids: int32[B, T], T <= context_length.
          mask: bool[B, T], True where a token is real, padded on the right; None: all are.
          context: float[B, S, D'], a picture's or a question's states, any D'; with a mask as
            nn/cache.py States; or what mode `look` made of them. Under merge_from those of two
            pictures, float[B, 2, S, D'].
          cache: under `decode`, of the tokens before these.
          rng: key[B] for dropout; None is deterministic.
          mode: `text`, bidirectional and without a look at the context; `ground`, bidirectional
            with it; `decode`, causal with it; `look`, only the decoder's keys and values of the
            context (ids may be None); `all` makes every parameter, and its numbers mean nothing.

        Returns:
          (states float[B, T, D], {}), under `decode` with {"logits": float32[B, T, V] of each next
          token} and, where there is one, {"cache": with these tokens}. Under `look` a Context.

        Raises:
          UserError: T, or slots of a cache, beyond context_length; a mode that the roles lack or
            that has no context.
        """
        config, roles = self.stack_config(), self._roles(mode, context)
        if context is not None and not isinstance(context, caches.States | caches.Context):
            context = caches.States(context)
        if mode == "look":
            return look(config, context, roles)
        count = ids.shape[1] if cache is None else cache.slots
        if count > self.context_length:
            raise UserError(
                f"texts of {count} tokens but the text tower takes "
                f"context_length={self.context_length}"
            )
        at = jnp.int32(0) if cache is None else cache.at
        x, table = self._embed(ids, at, rngs.fold(rng, "embed"), roles)
        seen = self._seen(mode, ids, mask, cache)
        how = (roles, None if mode == "text" else context, cache, self._merge())
        x = run_blocks(config, x, seen, rngs.fold(rng, "blocks"), *how)
        out = {}
        if cache is not None:
            x, new = x
            out["cache"] = caches.extend(cache, *new, ids.shape[1], mask)
        if mode == "decode" or (mode == "all" and self.roles != "encoder"):
            sizes = (self.activation, self.norm_eps, DTYPES[self.dtype])
            out["logits"] = WordHead(*sizes, name="head")(x, table)
        return x, out

    def _roles(self, mode: str, context: object) -> tuple[str, ...]:
        """What stands before the names of twins in a mode."""
        names = {"both": ("", DECODER), "encoder": ("",), "decoder": (DECODER,)}
        self.twins  # noqa: B018 (checks the names)
        if mode == "all":
            return names[self.roles]
        known = [name for name, role in MODES.items() if self.roles in ("both", role)]
        if mode not in known:
            raise UserError(f"text: no mode {mode!r} of roles={self.roles!r}{nearest(mode, known)}")
        if mode != "text" and context is None:
            raise UserError(f"text: mode {mode!r} needs states to look at")
        return names[MODES[mode]]

    def _seen(
        self, mode: str, ids: Array, mask: Array | None, cache: caches.Cache | None
    ) -> Array | None:
        """bool[1 or B, 1, 1 or T, S]: what self-attention sees."""
        if cache is not None:
            return caches.visible(cache.at, ids.shape[1], cache.slots)
        real = None if mask is None else mask[:, None, None, :]
        if mode != "decode":
            return real
        before = jnp.tri(ids.shape[1], dtype=bool)[None, None]
        return before if real is None else before & real

    def _merge(self) -> tuple[Array, Array] | None:
        """The map of two pictures for every layer, zeros for those that have none."""
        if self.merge_from < 0:
            return None
        first, width = min(self.merge_from, self.num_layers), self.width
        if first == self.num_layers:
            return jnp.zeros((first, 2 * width, width)), jnp.zeros((first, width))
        found = _Merge(self.num_layers - first, width, name="merge")()
        return tuple(jnp.pad(a, ((first, 0), *[(0, 0)] * (a.ndim - 1))) for a in found)

    def _embed(
        self, ids: Array, at: Array, rng: Array | None, roles: tuple[str, ...]
    ) -> tuple[Array, Array]:
        """(The normalised sum of words and places [B, T, D], the table of words [V, D]), of the
        last role."""
        dtype, sizes = DTYPES[self.dtype], (self.vocab_size, self.width)
        for role in roles if "embed" in self.twins else ("",):
            words = nn.Embed(*sizes, dtype=dtype, embedding_init=_NORMAL, name=f"{role}token_embed")
            table = self.param(f"{role}pos_embed", _NORMAL, (self.context_length, self.width))
            places = caches.places(at, ids.shape[1])
            x = words(ids) + table[places].astype(dtype)
            norm = LayerNorm(self.norm_eps, dtype, name=f"{role}norm_embed")
            x, embedding = norm(x), words.embedding
        return dropout(x, self.dropout, rng), embedding


class _Merge(nn.Module):
    """The last `layers` layers' (kernel [L', 2 D, D], bias [L', D])."""

    layers: int
    width: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = self.param("kernel", _NORMAL, (self.layers, 2 * self.width, self.width))
        return kernel, self.param("bias", nn.initializers.zeros, (self.layers, self.width))


def reads(net: MED, context_width: int, states: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Inputs of a call that makes every parameter, for `Part`: ids, mask, context."""
    shape = jax.ShapeDtypeStruct
    length = min(net.context_length, 2)
    return (
        shape((1, length), jnp.int32),
        shape((1, length), jnp.bool_),
        shape((1, *[2] * (net.merge_from >= 0), states, context_width), jnp.float32),
    )
