"""The Q-Former of BLIP-2 (arXiv:2301.12597, section 3.1; reference: salesforce/LAVIS Qformer.py,
transformers Blip2QFormerModel): learned queries that look at a picture, beside a text or alone, on
one BERT.

Queries and text share self-attention and have an MLP each; every second layer the queries alone
look at the picture. What sees what is a mask: `unimodal`, `bidirectional` or `multimodal_causal`.
The file exists because these three are all that tells its objectives apart.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn import cache as caches
from vlp_jax.nn.attention import CrossAttention, SelfAttention
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.precision import DTYPES, remat
from vlp_jax.nn.transformer import Mlp, StackConfig, barrier
from vlp_jax.nn.word_head import WordHead
from vlp_jax.parallel.constrain import constrain_batch

TEXTS = ("none", "states", "read", "write")
_NORMAL = nn.initializers.normal(0.02)


def unimodal(queries: int, real: Array) -> Array:
    """Queries and text do not see each other (contrast).

    Worked example: two queries and a text of two tokens and padding, `real` [[1, 1, 0]]; a row sees
    the columns that are 1:

        1 1 0 0 0   first query
        1 1 0 0 0
        0 0 1 1 0   first token
        0 0 1 1 0
        0 0 1 1 0   padding, whose state nobody reads

    queries: Q. real: bool[B, T] -> bool[B, 1, Q + T, Q + T]
    """
    is_query = jnp.arange(queries + real.shape[1]) < queries
    return (is_query[:, None] == is_query) & bidirectional(queries, real)


def bidirectional(queries: int, real: Array) -> Array:
    """All see all that is no padding (matching).

    Worked example, of `unimodal`'s: every row is 1 1 1 1 0.

    queries: Q. real: bool[B, T] -> bool[B, 1, 1, Q + T]
    """
    return jnp.pad(real, ((0, 0), (queries, 0)), constant_values=True)[:, None, None, :]


def multimodal_causal(queries: int, real: Array) -> Array:
    """Text sees the queries and the text before it; queries see no text, or what is to be written
    would leak (generation).

    Worked example, of `unimodal`'s:

        1 1 0 0 0   first query
        1 1 0 0 0
        1 1 1 0 0   first token
        1 1 1 1 0
        1 1 1 1 0   padding

    queries: Q. real: bool[B, T] -> bool[B, 1, Q + T, Q + T]
    """
    place = jnp.arange(queries + real.shape[1])
    last = jnp.maximum(place, queries - 1)  # what a row sees the columns up to
    return (place <= last[:, None]) & bidirectional(queries, real)


MASKS = {
    "unimodal": unimodal,
    "bidirectional": bidirectional,
    "multimodal_causal": multimodal_causal,
}
MODES = ("queries", "text", *MASKS, "decode", "all")


class QFormer(nn.Module):
    """Queries and a text to their states, and the text's next words.

    Attributes:
      num_queries: Q, which stand before the text.
      texts: what there is for texts, each with what comes before it: `none`; `states`, an MLP of
        their own; `read`, embeddings of words; `write`, a head of words.
      vocab_size, context_length: V and the longest T.
      width, num_layers, num_heads: D, L and H.
      cross_every: queries look at the picture in layers 0, n, 2 n, ...; divides L.
      The others: see nn/transformer.py StackConfig.
    """

    masked: ClassVar[bool] = True  # takes a mask beside the ids
    cuttable: ClassVar[bool] = True  # given that mask, nothing after a text's end is seen

    num_queries: Size = 32
    texts: str = "write"
    vocab_size: Size = 30523
    context_length: Size = 512
    width: Size = 768
    num_layers: Size = 12
    num_heads: Size = 12
    mlp_ratio: float = 4.0
    cross_every: Size = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12
    weight_init: str = "bert"
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    def stack_config(self) -> StackConfig:
        """The transformer body's sizes.

        Raises:
          UserError: num_heads does not divide width, or cross_every the layers; unknown texts.
        """
        if self.texts not in TEXTS:
            hint = nearest(self.texts, TEXTS)
            raise UserError(f"qformer.texts: unknown {self.texts!r}{hint}")
        if self.num_layers % self.cross_every:
            layers = f"num_layers={self.num_layers}"
            raise UserError(f"qformer.cross_every={self.cross_every} does not divide {layers}")
        return StackConfig.of(self, "qformer", post_norm=True)

    def has(self, level: str) -> bool:
        """Whether there is so much for texts, a name of TEXTS."""
        return TEXTS.index(self.texts) >= TEXTS.index(level)

    def empty_cache(self, batch_size: int, slots: int) -> caches.Cache:
        """A cache for the queries and texts of at most `slots` tokens."""
        head_dim, slots = self.width // self.num_heads, self.num_queries + slots
        sizes = (self.num_layers, batch_size, self.num_heads, slots, head_dim)
        return caches.empty(*sizes, DTYPES[self.dtype])

    @nn.compact
    def __call__(
        self,
        queries: Array | None,
        ids: Array | None = None,
        mask: Array | None = None,
        context: Array | None = None,
        cache: caches.Cache | None = None,
        rng: Array | None = None,
        mode: str = "all",
    ) -> tuple[Array, dict[str, Array | caches.Cache]]:
        """Runs it in a mode.

        Args:
          queries: float[Q, D], or [B, Q, D]; without a cache of any Q.
          ids: int32[B, T], T <= context_length, or of texts=states float[B, T, D], which come
            embedded.
          mask: bool[B, T], True where a token is real, padded on the right; None: all are.
          context: float[B, S, D'], what the queries look at.
          cache: under `queries` an empty one, to which they are added; under `decode` of the
            queries and the tokens before these.
          rng: key[B] for dropout; None is deterministic.
          mode: `queries` or `text`, one of both alone; a name of MASKS, both under that mask, the
            queries first; `decode`, text behind the queries of a cache, which together with
            `queries` is the same as `multimodal_causal`; `all` makes every parameter, and its
            numbers mean nothing.

        Returns:
          (states float[B, Q, D], [B, T, D] or [B, Q + T, D], {}), where text is written with
          {"logits": float32[B, T, V] of each next token} and with {"cache"} where there is one.

        Raises:
          UserError: T, or slots of a cache, beyond context_length; a mode that it has not, or that
            lacks what it looks at.
        """
        config = self.stack_config()
        self._check(mode, ids, context, cache)
        count = 0 if mode in ("text", "decode") else queries.shape[-2]
        ids = None if mode == "queries" or self.texts == "none" else ids
        x, table = self._embed(
            queries if count else None,
            ids,
            0 if cache is None else cache.at - self.num_queries,
            len(context) if count else len(ids),
            rngs.fold(rng, "embed"),
        )
        seen = self._seen(mode, count, x.shape[1] - count, mask, cache)
        layers = _stacked(config, count=count, every=self.cross_every)
        groups = jnp.arange(config.num_layers // self.cross_every)
        at, kept = (None, None) if cache is None else (cache.at, self._grouped(cache))
        keys = rngs.fold(rng, "layers")
        x, new = layers(x, groups, keys, seen, context, at, kept)
        out = {}
        if cache is not None:
            new = (rearrange(leaf, "g n ... -> (g n) ...") for leaf in new)
            mask = mask if mode == "decode" else None
            out["cache"] = caches.extend(cache, *new, x.shape[1], mask)
        if self.has("write") and mode in ("multimodal_causal", "decode", "all"):
            sizes = (self.activation, self.norm_eps, DTYPES[self.dtype])
            out["logits"] = WordHead(*sizes, name="head")(x[:, count:], table)
        return x, out

    def _check(
        self, mode: str, ids: Array | None, context: Array | None, cache: caches.Cache | None
    ) -> None:
        """Raises UserError as the call does."""
        if mode not in MODES:
            raise UserError(f"qformer: no mode {mode!r}{nearest(mode, MODES)}")
        if mode not in ("queries", "all") and self.texts == "none":
            raise UserError(f"qformer: mode {mode!r} reads a text, and texts='none'")
        if mode not in ("text", "decode") and context is None:
            raise UserError(f"qformer: mode {mode!r} needs states to look at")
        if mode == "decode" and cache is None:
            raise UserError("qformer: mode 'decode' needs a cache of the queries")
        longest = 0 if ids is None else ids.shape[1]
        longest = longest if cache is None else cache.slots - self.num_queries
        if longest > self.context_length:
            most = f"context_length={self.context_length}"
            raise UserError(f"texts of {longest} tokens but the Q-Former takes {most}")

    def _seen(
        self, mode: str, count: int, length: int, mask: Array | None, cache: caches.Cache | None
    ) -> Array | None:
        """What self-attention sees; None: everything."""
        if cache is not None and mode == "decode":
            return caches.visible(cache.at, length, cache.slots)
        if cache is not None:  # the queries of an empty one
            return (jnp.arange(cache.slots) < self.num_queries)[None, None, None]
        real = jnp.ones((1, length), bool) if mask is None else mask
        if mode in MASKS:
            return MASKS[mode](count, real)
        return real[:, None, None, :] if mode == "text" else None

    def _grouped(self, cache: caches.Cache) -> tuple[Array, Array]:
        """Keys and values float[G, n, B, H, S, K] of G groups of layers."""
        split = dict(n=self.cross_every)
        return tuple(rearrange(a, "(g n) ... -> g n ...", **split) for a in cache.stacked)

    def _embed(
        self,
        queries: Array | None,
        ids: Array | None,
        at: Array | int,
        rows: int,
        rng: Array | None,
    ) -> tuple[Array, Array | None]:
        """(The normalised queries, which have no places, and words from place `at` on [B, N, D],
        the table of words [V, D])."""
        dtype, table, parts = DTYPES[self.dtype], None, []
        if queries is not None:
            parts.append(queries if queries.ndim == 3 else queries[None])
        if ids is not None and self.has("read"):
            sizes, how = (self.vocab_size, self.width), dict(embedding_init=_NORMAL, dtype=dtype)
            words = nn.Embed(*sizes, **how, name="token_embed")
            where = self.param("pos_embed", _NORMAL, (self.context_length, self.width))
            places = caches.places(jnp.asarray(at), ids.shape[1])
            ids, table = words(ids) + where[places].astype(dtype), words.embedding
        if ids is not None:
            parts.append(ids)
        whole = [jnp.broadcast_to(p.astype(dtype), (rows, *p.shape[1:])) for p in parts]
        x = LayerNorm(self.norm_eps, dtype, name="norm_embed")(jnp.concatenate(whole, axis=1))
        return dropout(x, self.dropout, rng), table


class _Layer(nn.Module):
    """One layer over [B, N, D] whose first `count` tokens are queries: x = norm(x + branch(x)) of
    self-attention, of the look at the picture where it has one, and of each kind's own MLP."""

    config: StackConfig
    count: int
    looks: bool

    @nn.compact
    def __call__(
        self,
        x: Array,
        rng: Array | None,
        mask: Array | None,
        context: Array | None,
        kept: tuple[Array, Array, Array] | None,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """Returns (x, the new keys and values of self-attention where there are kept ones)."""
        c, init, dtype = self.config, self.config.block_init(), DTYPES[self.config.dtype]
        heads = c.num_heads, c.width // c.num_heads

        def add(x: Array, kind: str, norm: str, branch: Array) -> Array:
            branch = dropout(branch, c.dropout, rngs.fold(rng, kind))
            return LayerNorm(c.norm_eps, dtype, name=norm)(x + branch)

        def mlp(x: Array, kind: str, norm: str) -> Array:
            inits = (init.fc1, init.fc1_bias, init.fc2, init.fc2_bias)
            return add(x, kind, norm, Mlp(c.hidden, c.activation, inits, dtype, name=kind)(x))

        how = (init.qkv, init.out, dtype, False, c.attention)
        out = SelfAttention(*heads, *how, name="attn")(x, mask, kept)
        out, new = (out, None) if kept is None else out
        x = add(x, "attn", "norm1", out)
        queries, text = x[:, : self.count], x[:, self.count :]
        if self.count and self.looks:
            how = (c.width, dtype, init.qkv, init.out, c.attention)
            look = CrossAttention(*heads, *how, name="cross_attn")(queries, context)
            queries = add(queries, "cross_attn", "norm_cross", look)
        if self.count:
            queries = mlp(queries, "query_mlp", "norm_query")
        if text.shape[1]:
            text = mlp(text, "mlp", "norm2")
        return jnp.concatenate([queries, text], axis=1), new


class _Group(nn.Module):
    """`every` layers of which the first looks at the picture. Shaped as a scan body."""

    config: StackConfig
    count: int
    every: int

    @nn.compact
    def __call__(
        self,
        x: Array,
        number: Array,
        rng: Array | None,
        mask: Array | None,
        context: Array | None,
        at: Array | None,
        kept: tuple[Array, Array] | None,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """Returns (x, the new keys and values, float[every, B, H, N, K] each)."""
        keys = None if rng is None else jax.vmap(jax.random.fold_in, (0, None))(rng, number)
        new = []
        for i in range(self.every):
            own = None if kept is None else (kept[0][i], kept[1][i], at)
            layer = _Layer(self.config, self.count, looks=not i, name=f"at{i}")
            x = barrier(constrain_batch(x))
            x, its = layer(x, rngs.fold(keys, f"at{i}"), mask, context, own)
            new.append(its)
        return x, None if kept is None else jax.tree.map(lambda *a: jnp.stack(a), *new)


def _stacked(config: StackConfig, every: int, count: int) -> nn.Module:
    """All groups, one after another; their weights lie stacked as [G, ...] under `layers`, of the
    layers i, n + i, 2 n + i, ... under `at{i}`."""
    groups = config.num_layers // every
    shared = (nn.broadcast,) * 4
    stacked = nn.scan(
        remat(_Group, config.remat, scanned=not config.unroll),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, *shared, 0),
        length=groups,
        unroll=groups if config.unroll else 1,
    )
    return stacked(config, count, every, name="layers")


def reads(net: QFormer, context_width: int, states: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Inputs of a call that makes every parameter, for `Part`: queries, ids, mask, context."""
    shape, length = jax.ShapeDtypeStruct, min(net.context_length, 2)
    ids = shape((1, length), jnp.int32)
    embedded = shape((1, length, net.width), jnp.float32)
    return (
        shape((net.num_queries, net.width), jnp.float32),
        {"none": None, "states": embedded}.get(net.texts, ids),
        shape((1, length), jnp.bool_),
        shape((1, states, context_width), jnp.float32),
    )
