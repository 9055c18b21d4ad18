"""Transformer blocks, stacked on a leading axis and run by one scan that may be unrolled.

The stack keeps every weight as [L, ...]: pods compile one block, small runs unroll it
(`unroll=True`), checkpoints and sharding rules see the same tree either way. The file exists as the
only transformer body of the package.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array
from vlp_jax.nn import dropout
from vlp_jax.nn.attention import ANYWHERE, CrossAttention, Place, Project, SelfAttention
from vlp_jax.nn.cache import Cache, Context, States
from vlp_jax.nn.init import BlockInit, Init, block_init
from vlp_jax.nn.layer_norm import NORMS
from vlp_jax.nn.layers import Layers
from vlp_jax.nn.precision import ACTIVATIONS, DTYPES, pick, remat
from vlp_jax.parallel.constrain import constrain_batch


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Sizes and switches of a stack of blocks.

    Attributes:
      width, num_layers: D and L.
      num_heads, head_dim: H and K; head_dim 0 means width / num_heads.
      kv_heads: heads of self-attention's keys and values; 0: H.
      hidden: width of the MLP.
      activation: a name of nn/precision.py.
      norm: a name of nn/layer_norm.py.
      norm_eps: 1e-5 in CLIP, 1e-6 in SigLIP, MAE and flax's default.
      init: a name of nn/init.py.
      dropout, drop_path: rates in [0, 1); drop_path grows linearly with depth to this value.
      dtype, remat: names of nn/precision.py.
      unroll: compile every layer separately instead of one loop body.
      causal, attention: see nn/attention.py attend (`attention` is its implementation).
      post_norm: norms follow the sums, as in BERT; else they stand before the branches.
      parallel: attention and MLP look at one x, and both are added to it (GPT-NeoX).
      twins: those of BRANCHES, with their norms, that every role of `run_blocks` has for itself.
      merge_from: 0 or more: two cross-attentions look at two contexts; their mean counts, from this
        layer on a linear map of both (NLVR2).
      qkv_bias, out_bias, mlp_bias: biases before and after the attentions, and of the MLP.
      qkv_clip, attention_scale: see nn/attention.py SelfAttention.
      gated: the MLP is fc2(a * activation(b)), fc1 gives both (GEGLU, arXiv:2002.05202).
      only_cross: self-attention is a cross-attention, too: queries look at the context alone.
    """

    width: int
    num_layers: int
    num_heads: int
    hidden: int
    head_dim: int = 0
    kv_heads: int = 0
    activation: str = "gelu"
    norm: str = "layer"
    norm_eps: float = 1e-5
    init: str = "torch"
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    causal: bool = False
    attention: str = "auto"
    post_norm: bool = False
    parallel: bool = False
    twins: tuple[str, ...] = ()
    merge_from: int = -1
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    qkv_clip: float = 0.0
    attention_scale: float = 0.0
    gated: bool = False
    only_cross: bool = False

    @classmethod
    def of(cls, net: nn.Module, part: str, **own: Any) -> "StackConfig":
        """The stack of a network by its fields of the same names, `weight_init`, and `mlp_ratio`
        where it has no `hidden`; own: fields that it says in another way. part: of the config, for
        the message.

        Raises:
          UserError: num_heads does not divide width, or kv_heads num_heads.
        """
        ours, theirs = ({f.name for f in dataclasses.fields(kind)} for kind in (cls, net))
        said = {name: getattr(net, name) for name in ours & theirs}
        if "hidden" not in said:
            said["hidden"] = int(net.width * net.mlp_ratio)
        config = cls(**said | {"init": net.weight_init} | own)
        if not config.head_dim and config.width % config.num_heads:
            heads = f"{part}.num_heads={config.num_heads}"
            raise UserError(f"{heads} does not divide width={config.width}")
        if config.kv_heads and config.num_heads % config.kv_heads:
            kv = f"{part}.kv_heads={config.kv_heads}"
            raise UserError(f"{kv} does not divide num_heads={config.num_heads}")
        return config

    def block_init(self) -> BlockInit:
        """The initialisers of one block."""
        return block_init(self.init, self.width, self.hidden, self.num_layers)


class Mlp(nn.Module):
    """fc2(activation(fc1(x))) on [B, T, D]; gated: fc2(a * activation(b)), a and b of fc1."""

    hidden: int
    activation: str
    inits: tuple[Init, Init, Init, Init]  # fc1 kernel, fc1 bias, fc2 kernel, fc2 bias
    dtype: jnp.dtype = jnp.float32
    gated: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fc1, fc1_bias, fc2, fc2_bias = self.inits
        activate = pick(ACTIVATIONS, self.activation, "activation")
        how = dict(dtype=self.dtype, use_bias=self.use_bias)
        out = nn.Dense(x.shape[-1], kernel_init=fc2, bias_init=fc2_bias, name="fc2", **how)
        if self.gated:
            both = Project((2, self.hidden), 1, fc1, name="fc1", **how)(x)  # [B, T, 2, F]
            return out(both[..., 0, :] * activate(both[..., 1, :]))
        hidden = nn.Dense(self.hidden, kernel_init=fc1, bias_init=fc1_bias, name="fc1", **how)(x)
        return out(activate(hidden))  # [B, T, F] -> [B, T, D]


BRANCHES = {"attn": "norm1", "cross_attn": "norm_cross", "mlp": "norm2"}  # and their norms
SECOND = "second_"  # before the name of the cross-attention of a second context


class Shared(NamedTuple):
    """What all layers see beside x.

    mask, place: see `run_blocks`. at: of a Cache. states, context_mask: of States, or of a Context.
    """

    mask: Array | None = None
    at: Array | None = None
    states: Array | None = None
    context_mask: Array | None = None
    place: Place = ANYWHERE


class Own(NamedTuple):
    """What a layer sees of a Cache and of a Context: (keys, values), float[B, H, S, K]; merge: the
    map of two contexts, (kernel [2 D, D], bias [D])."""

    cache: tuple[Array, Array] | None = None
    context: tuple[Array, Array] | None = None
    merge: tuple[Array, Array] | None = None


class Block(nn.Module):
    """x += attention(norm1(x)); x += mlp(norm2(x)), or under post_norm x = norm1(x + attention(x));
    x = norm2(x + mlp(x)); where there is a context, cross-attention comes between them. Shaped as a
    scan body: returns (x, the new keys and values of self-attention where there is a cache).

    Attributes:
      roles: see `run_blocks`.
      look: only computes the keys and values of the context, and returns (x, these).
      whole: see nn/attention.py SelfAttention.
      before: see `run_blocks`; what is carried is (x, x as the last block saw it).
    """

    config: StackConfig
    roles: tuple[str, ...] = ("",)
    look: bool = False
    before: bool = False
    whole: bool = False

    @nn.compact
    def __call__(
        self, x: Array, layer: Array, rng: Array | None, shared: Shared, own: Own
    ) -> tuple[Array, tuple[Array, Array] | None]:
        context = shared.states if own.context is None else own.context
        if self.look:
            return x, self._cross(self._name("cross_attn", self.roles[0]))(None, context)
        seen = x = x[0] if self.before else x
        rng = None if rng is None else _fold_layer(rng, layer)
        c, kept = self.config, None if own.cache is None else (*own.cache, shared.at)
        rate, new = c.drop_path * layer / max(1, c.num_layers - 1), None

        def attn(name: str, x: Array) -> Array:
            nonlocal new
            if c.only_cross:
                return self._cross(name)(x, context, shared.context_mask)
            out = self._self(name)(x, shared.mask, kept, shared.place)
            out, new = (out, None) if kept is None else out
            return out

        def cross_attn(name: str, x: Array) -> Array:
            if c.merge_from < 0:
                return self._cross(name)(x, context, shared.context_mask)
            names = enumerate((name, SECOND + name))
            looks = [self._cross(each)(x, context[:, i]) for i, each in names]  # [B, T, D] each
            kernel, bias = (a.astype(x.dtype) for a in own.merge)
            merged = jnp.concatenate(looks, -1) @ kernel + bias
            return jnp.where(layer < c.merge_from, (looks[0] + looks[1]) / 2, merged)

        first = x = barrier(constrain_batch(x))
        x = self._branch("attn", attn, x, rate, rng)
        if context is not None:
            x = self._branch("cross_attn", cross_attn, barrier(x), rate, rng)
        mlp = lambda name, x: self._mlp(name)(x)  # noqa: E731
        x = self._branch("mlp", mlp, barrier(x), rate, rng, first if c.parallel else None)
        return ((x, seen) if self.before else x), new

    def _branch(
        self,
        kind: str,
        run: Callable[[str, Array], Array],
        x: Array,
        rate: Array,
        rng: Array | None,
        reads: Array | None = None,
    ) -> Array:
        """x with the branch `kind`, or with those of several roles one after another; rate: of
        stochastic depth; reads: what it looks at where that is not x."""
        c, dtype = self.config, DTYPES[self.config.dtype]
        for role in self.roles if kind in c.twins else self.roles[:1]:
            name = self._name(kind, role)
            normed = self._name(kind, role, BRANCHES[kind])
            norm = pick(NORMS, c.norm, "norm")(c.norm_eps, dtype, name=normed)
            read = x if reads is None else reads
            branch = run(name, read if c.post_norm else norm(read))
            branch = dropout.dropout(branch, c.dropout, rngs.fold(rng, kind))
            if c.drop_path:
                branch = dropout.drop_path(branch, rate, rngs.fold(rng, kind + "_path"))
            x = norm(x + branch) if c.post_norm else x + branch
        return x

    def _name(self, kind: str, role: str, name: str = "") -> str:
        """The name of a branch, or of its norm, in a role."""
        return (role if kind in self.config.twins else "") + (name or kind)

    @property
    def _heads(self) -> tuple[int, int]:
        c = self.config
        return c.num_heads, c.head_dim or c.width // c.num_heads

    def _self(self, name: str) -> SelfAttention:
        c, init = self.config, self.config.block_init()
        how = (init.qkv, init.out, DTYPES[c.dtype], c.causal, c.attention, c.qkv_bias, c.out_bias)
        how += c.kv_heads, c.qkv_clip, c.attention_scale, self.whole
        return SelfAttention(*self._heads, *how, name=name)

    def _cross(self, name: str) -> CrossAttention:
        c, init = self.config, self.config.block_init()
        how = (DTYPES[c.dtype], init.qkv, init.out, c.attention, c.qkv_bias, c.out_bias)
        return CrossAttention(*self._heads, c.width, *how, c.attention_scale, name=name)

    def _mlp(self, name: str) -> Mlp:
        c, init = self.config, self.config.block_init()
        inits = (init.fc1, init.fc1_bias, init.fc2, init.fc2_bias)
        return Mlp(c.hidden, c.activation, inits, DTYPES[c.dtype], c.gated, c.mlp_bias, name=name)


def barrier(x: Array) -> Array:
    """Keeps the residual stream in memory; XLA would otherwise fuse every later reader with all
    earlier sums.
    """
    return jax.lax.optimization_barrier(x)


def _fold_layer(rng: Array, layer: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(rng, layer)


def run_blocks(
    config: StackConfig,
    x: Array,
    mask: Array | None = None,
    rng: Array | None = None,
    roles: tuple[str, ...] = ("",),
    context: States | Context | None = None,
    cache: Cache | None = None,
    merge: tuple[Array, Array] | None = None,
    before: bool = False,
    place: Place = ANYWHERE,
) -> Array | tuple[Array, Any]:
    """Runs L blocks whose weights lie stacked under `blocks` of the calling module (inside its
    @nn.compact).

    Args:
      config: sizes and switches.
      x: float[B, T, D].
      mask: bool broadcastable to [B, H, T, T], True where a query may look; with a cache to [B, H,
        T, S] over its slots.
      rng: key[B], or None for no dropout.
      roles: what stands before the names of config.twins. Several roles run one after another, so
        that one call makes every weight; what is no twin then runs once.
      context: what cross-attention looks at; None: the blocks have none. Under config.merge_from
        States of two contexts, float[B, 2, S, D'], without a mask.
      cache: keys and values of earlier tokens.
      merge: (kernel [L, 2 D, D], bias [L, D]) of config.merge_from; of earlier layers any.
      before: tells x as the last block saw it, too; not with a cache.
      place: what self-attention knows of places (nn/attention.py).

    Returns:
      float[B, T, D] in the compute dtype, not normalised but under post_norm; with a cache also the
      (keys, values) that `nn/cache.py extend` takes; with `before` also
      float[B, T, D] before the last block.
    """
    pick(DTYPES, config.dtype, "dtype")
    states = context.states if isinstance(context, States) else None
    own = Own(
        None if cache is None else cache.stacked,
        (context.key, context.value) if isinstance(context, Context) else None,
        merge,
    )
    seen = None if context is None or context.mask is None else context.mask[:, None, None, :]
    shared = Shared(mask, None if cache is None else cache.at, states, seen, place)
    whole = cache is not None and isinstance(cache.key, Layers)
    blocks = _stacked(config, roles=roles, before=before, whole=whole)
    layers, x = jnp.arange(config.num_layers), x.astype(DTYPES[config.dtype])
    x, new = blocks((x, x) if before else x, layers, rng, shared, own)
    if before:
        return constrain_batch(x[0]), x[1]
    x = constrain_batch(x)
    return x if cache is None else (x, new)


def look(config: StackConfig, states: States, roles: tuple[str, ...] = ("",)) -> Context:
    """The keys and values of every layer of `run_blocks` for these states."""
    layers, shared = jnp.arange(config.num_layers), Shared(states=states.states)
    _, (key, value) = _stacked(config, roles=roles, look=True)(None, layers, None, shared, Own())
    return Context(key, value, states.mask)


def _stacked(config: StackConfig, **how: object) -> nn.Module:
    """The blocks, one after another."""
    stacked = nn.scan(
        remat(Block, config.remat, scanned=not config.unroll),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, 0),
        length=config.num_layers,
        unroll=config.num_layers if config.unroll else 1,
    )
    return stacked(config, **how, name="blocks")
