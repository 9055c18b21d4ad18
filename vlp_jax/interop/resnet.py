"""Rules of a ResNet's stem and stages in torchvision's names, which open_clip, timm and most
self-supervised releases in PyTorch share.

The file exists because two name tables hold them under different prefixes.
"""

from vlp_jax.interop.rules import Rule

_NORMS = (
    ("stem{n}/bn", "bn{n}"),
    ("stage{s}_block{b}/conv{n}/bn", "layer{s}.{b}.bn{n}"),
    ("stage{s}_block{b}/downsample/bn", "layer{s}.{b}.downsample.1"),
)
_CONVS = (
    ("stem{n}", "conv{n}"),
    ("stage{s}_block{b}/conv{n}", "layer{s}.{b}.conv{n}"),
    ("stage{s}_block{b}/downsample", "layer{s}.{b}.downsample.0"),
)


def _batch_norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        Rule(f"image/{ours}/scale", f"{theirs}.weight"),
        Rule(f"image/{ours}/bias", f"{theirs}.bias"),
        Rule(f"batch_stats/image/{ours}/mean", f"{theirs}.running_mean"),
        Rule(f"batch_stats/image/{ours}/var", f"{theirs}.running_var"),
    )


def residual_stages(prefix: str) -> tuple[Rule, ...]:
    """Stem and stages of a ResNet in torchvision's names under a prefix."""
    convs = (
        Rule(f"image/{ours}/conv/kernel", f"{prefix}{theirs}.weight", "o i p q -> p q i o")
        for ours, theirs in _CONVS
    )
    norms = (_batch_norm(ours, prefix + theirs) for ours, theirs in _NORMS)
    return (*convs, *(rule for rules in norms for rule in rules))


def counters(prefix: str) -> tuple[Rule, ...]:
    """The step counts that PyTorch's BatchNorm carries."""
    return tuple(
        Rule(f"batch_stats/image/{ours}/mean", f"{prefix}{theirs}.num_batches_tracked")
        for ours, theirs in _NORMS
    )
