"""Rules of the blocks that the model classes of Hugging Face diffusers share: convolutions,
residual blocks, attentions, transformers, and a level of these.

Names as in diffusers 0.42. The file exists so that a class's table is the names of its levels.
"""

from vlp_jax.core.errors import UserError
from vlp_jax.interop.blocks import linear, norm
from vlp_jax.interop.family import Config
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

# Files of before diffusers 0.17 name an attention's maps otherwise.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def renamed(state: State) -> State:
    """The tensors under today's names."""

    def today(name: str) -> str:
        before, within, rest = name.rpartition(".attentions.")
        number, _, rest = rest.partition(".")
        word, dot, end = rest.rpartition(".")
        known = within and word in _OLD
        return f"{before}{within}{number}.{_OLD[word]}{dot}{end}" if known else name

    return {today(name): tensor for name, tensor in state.items()}


def conv(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A convolution with a bias."""
    layout = "o i p q -> p q i o"
    return (
        Rule(f"{ours}/kernel", f"{theirs}.weight", layout),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def vector_embed(ours: str, theirs: str) -> tuple[Rule, ...]:
    """nn/timesteps.py VectorEmbed."""
    names = (("fc1", "linear_1"), ("fc2", "linear_2"))
    return tuple(rule for a, b in names for rule in linear(f"{ours}/{a}", f"{theirs}.{b}"))


def res_block(ours: str, theirs: str) -> tuple[Rule, ...]:
    """nn/resblock.py ResBlock."""
    return (
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *conv(f"{ours}/conv1", f"{theirs}.conv1"),
        *linear(f"{ours}/time", f"{theirs}.time_emb_proj"),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *conv(f"{ours}/conv2", f"{theirs}.conv2"),
        *conv(f"{ours}/shortcut", f"{theirs}.conv_shortcut"),
    )


def map_attention(ours: str, theirs: str) -> tuple[Rule, ...]:
    """nn/spatial.py MapAttention."""
    weights, biases = (
        tuple(f"{theirs}.to_{name}.{end}" for name in "qkv") for end in ("weight", "bias")
    )
    return (
        *norm(f"{ours}/norm", f"{theirs}.group_norm"),
        Rule(f"{ours}/attn/qkv/kernel", weights, "three (h k) i -> i h three k"),
        Rule(f"{ours}/attn/qkv/bias", biases, "three (h k) -> h three k"),
        Rule(f"{ours}/attn/out/kernel", f"{theirs}.to_out.0.weight", "o (h k) -> h k o"),
        Rule(f"{ours}/attn/out/bias", f"{theirs}.to_out.0.bias"),
    )


def transformer(ours: str, theirs: str) -> tuple[Rule, ...]:
    """nn/spatial.py SpatialTransformer; its maps are under names of their own as linear layers."""
    blocks, layer = f"{ours}/blocks", f"{theirs}.transformer_blocks.{{i}}"
    rules = [
        *norm(f"{ours}/norm", f"{theirs}.norm"),
        *conv(f"{ours}/conv_in", f"{theirs}.proj_in"),
        *conv(f"{ours}/conv_out", f"{theirs}.proj_out"),
        *linear(f"{ours}/linear_in", f"{theirs}.proj_in"),
        *linear(f"{ours}/linear_out", f"{theirs}.proj_out"),
        *norm(f"{blocks}/norm1", f"{layer}.norm1"),
        *norm(f"{blocks}/norm_cross", f"{layer}.norm2"),
        *norm(f"{blocks}/norm2", f"{layer}.norm3"),
        Rule(
            f"{blocks}/mlp/fc1/kernel", f"{layer}.ff.net.0.proj.weight", "l (two f) i -> l i two f"
        ),
        Rule(f"{blocks}/mlp/fc1/bias", f"{layer}.ff.net.0.proj.bias", "l (two f) -> l two f"),
        *linear(f"{blocks}/mlp/fc2", f"{layer}.ff.net.2", stacked=True),
    ]
    for name, its in (("attn", f"{layer}.attn1"), ("cross_attn", f"{layer}.attn2")):
        query, key, value = (f"{its}.to_{word}.weight" for word in "qkv")
        path = f"{blocks}/{name}"
        fused, both = "l three (h k) i -> l i h three k", "l two (h k) i -> l i h two k"
        rules += [
            Rule(f"{path}/qkv/kernel", (query, key, value), fused),
            Rule(f"{path}/query/kernel", query, "l (h k) i -> l i h k"),
            Rule(f"{path}/key_value/kernel", (key, value), both),
            Rule(f"{path}/out/kernel", f"{its}.to_out.0.weight", "l o (h k) -> l h k o"),
            Rule(f"{path}/out/bias", f"{its}.to_out.0.bias"),
        ]
    return tuple(rules)


def levels(ours: str, theirs: str, side: str, plain: bool = False) -> tuple[Rule, ...]:
    """The levels of one way, `down` or `up`, or the middle, `mid`.

    Args:
      ours, theirs: what stands before the names of either.
      plain: attentions are plain, not transformers.
    """
    middle = side == "mid"
    path = f"{ours}mid" if middle else f"{ours}{side}{{l}}"
    names = f"{theirs}mid_block" if middle else f"{theirs}{side}_blocks.{{l}}"
    sample = f"{names}.{side}samplers.0"
    attention = map_attention if plain else transformer
    return (
        *res_block(f"{path}_res{{n}}", f"{names}.resnets.{{n}}"),
        *attention(f"{path}_attn{{n}}", f"{names}.attentions.{{n}}"),
        *(() if middle else conv(f"{path}_sample/conv", f"{sample}.conv")),
        *(() if middle else res_block(f"{path}_sample", sample)),
    )


def only(config: Config, wanted: Config, where: str) -> None:
    """Raises UserError for a config whose keys, where it has them, have other values than `wanted`:
    what our networks have no switch for."""
    for key, value in wanted.items():
        said = config.get(key, value)
        if said != value:
            raise UserError(f"{where}: {key}={said!r} is not read, only {value!r}")
