"""Rules that the name tables of many libraries share: linear layers, norms, transformer blocks.

All of them lay weights out as PyTorch does and differ in words. The file exists so that a family's
table is its words.
"""

from vlp_jax.interop.rules import Rule

Names = str | tuple[str, str, str]  # one fused tensor, or query, key and value


def linear(ours: str, theirs: str, stacked: bool = False) -> tuple[Rule, ...]:
    """A linear layer with a bias; stacked: over layers."""
    layout = "l o i -> l i o" if stacked else "o i -> i o"
    return (
        Rule(f"{ours}/kernel", f"{theirs}.weight", layout),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A LayerNorm."""
    return (Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias"))


def patches(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A patch embedding; its bias only where there is one."""
    return (
        Rule(f"{ours}/kernel", f"{theirs}.weight", "d c p q -> p q c d"),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    )


def blocks(
    ours: str,
    theirs: str,
    qkv: tuple[Names, Names],
    out: str,
    norms: tuple[str, str],
    mlp: tuple[str, str],
) -> tuple[Rule, ...]:
    """The stacked blocks of a transformer.

    Args:
      ours: the network's path, e.g. `image`.
      theirs: what stands before the names, with `{i}` for the layer.
      qkv: names of the weights and of the biases of the attention's projections.
      out, norms, mlp: names of the other modules of a block.
    """
    ours = f"{ours}/blocks"
    attention = []
    for end, names, whole, split in (
        ("kernel", qkv[0], "l (three h k) i -> l i h three k", "l three (h k) i -> l i h three k"),
        ("bias", qkv[1], "l (three h k) -> l h three k", "l three (h k) -> l h three k"),
    ):
        fused = isinstance(names, str)
        found = f"{theirs}.{names}" if fused else tuple(f"{theirs}.{name}" for name in names)
        attention.append(Rule(f"{ours}/attn/qkv/{end}", found, whole if fused else split))
    return (
        *norm(f"{ours}/norm1", f"{theirs}.{norms[0]}"),
        *norm(f"{ours}/norm2", f"{theirs}.{norms[1]}"),
        *attention,
        Rule(f"{ours}/attn/out/kernel", f"{theirs}.{out}.weight", "l o (h k) -> l h k o"),
        Rule(f"{ours}/attn/out/bias", f"{theirs}.{out}.bias"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.{mlp[0]}", stacked=True),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.{mlp[1]}", stacked=True),
    )


def split(pattern: str, names: tuple[str, str, str]) -> tuple[Names, Names]:
    """Weights and biases of three projections: `pattern` with each of the names for `{}`."""
    weights, biases = (
        tuple(pattern.replace("{}", name) + end for name in names) for end in (".weight", ".bias")
    )
    return weights, biases
