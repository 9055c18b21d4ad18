"""Model FLOPs of a forward pass by formula: 2 x multiply-adds, attention included, recompute never
counted.

An encoder of L blocks over N tokens costs L (2 N (4 D H K + 2 D F) + 4 N^2 H K). The file exists
because compiler cost analyses count a loop body once; MFU and roofline figures need the formula.
"""

import math

import flax.linen as nn

from vlp_jax.models.decoder_lm import DecoderLM
from vlp_jax.models.efficientnet import EfficientNet
from vlp_jax.models.inception import STEM, Conv, Inception, blocks
from vlp_jax.models.med import MED
from vlp_jax.models.qformer import QFormer
from vlp_jax.models.resnet import ModifiedResNet
from vlp_jax.models.resnet_v1 import ResNet
from vlp_jax.models.t5 import T5
from vlp_jax.nn.transformer import StackConfig


def stack_flops(config: StackConfig, tokens: int) -> float:
    """Forward FLOPs of a stack of blocks over `tokens` tokens of one example."""
    inner = config.num_heads * (config.head_dim or config.width // config.num_heads)
    linear = 2 * tokens * (4 * config.width * inner + 2 * config.width * config.hidden)
    return config.num_layers * (linear + 4 * tokens**2 * inner)


def lm_flops(net: DecoderLM, length: int) -> float:
    """Forward FLOPs of one text of `length` tokens; what a token does not see counts as seen."""
    c = net.stack_config()
    heads, kv = (n * (c.head_dim or c.width // c.num_heads) for n in (c.num_heads, c.kv_heads))
    maps = c.width * (2 * heads + 2 * (kv or heads) + (3 if c.gated else 2) * c.hidden)
    wide = net.word_width or net.width
    words = wide * net.vocab_size + 2 * net.width * wide * (wide != net.width)
    return c.num_layers * (2 * length * maps + 4 * length**2 * heads) + 2 * length * words


def t5_flops(net: T5, read: int, written: int) -> float:
    """Forward FLOPs of an encoder of so many tokens and a decoder of so many."""
    inner, mlp = net.num_heads * net.head_dim, (3 if net.gated else 2) * net.width * net.hidden
    attention = 4 * net.width * inner
    encoder = 2 * read * (attention + mlp) + 4 * read**2 * inner
    looks = 4 * (read + written) * net.width * inner + 4 * read * written * inner
    decoder = 2 * written * (attention + mlp) + 4 * written**2 * inner + looks
    layers = net.decoder_layers or net.num_layers
    words = 2 * written * net.width * net.vocab_size
    return net.num_layers * encoder + layers * decoder + words


def med_flops(net: MED, mode: str, length: int, states: tuple[int, int] = (0, 0)) -> float:
    """Forward FLOPs of one text of `length` tokens in a mode of models/med.py but `look`.

    Args:
      states: (S, D'), how many a text looks at (of each of two pictures under net.merge_from) and
        their width; unused under `text`.
    """
    config, width = net.stack_config(), net.width
    total = stack_flops(config, length)
    if mode != "text":
        count, wide = states
        cross = 4 * length * width**2 + 4 * count * wide * width + 4 * length * count * width
        total += config.num_layers * cross * (1 if net.merge_from < 0 else 2)
        if net.merge_from >= 0:
            total += (config.num_layers - net.merge_from) * 4 * length * width**2
    return total + (2 * length * width * (width + net.vocab_size) if mode == "decode" else 0)


def qformer_flops(net: QFormer, mode: str, length: int, states: tuple[int, int] = (0, 0)) -> float:
    """Forward FLOPs of the queries and a text of `length` tokens in a mode of models/qformer.py but
    `all`.

    Args:
      states: (S, D'), how many the queries look at and their width.
    """
    config, (count, wide), queries = net.stack_config(), states, net.num_queries
    asked, told = queries * (mode not in ("text", "decode")), length * (mode != "queries")
    tokens, width = asked + told, net.width
    seen = queries + length if mode == "decode" else tokens
    layer = 2 * tokens * (4 * width**2 + 2 * width * config.hidden) + 4 * tokens * seen * width
    cross = 4 * asked * width**2 + 4 * count * wide * width + 4 * asked * count * width
    total = config.num_layers * layer
    total += config.num_layers // net.cross_every * cross if asked else 0
    writes = mode in ("decode", "multimodal_causal") and net.has("write")
    return total + (2 * told * width * (width + net.vocab_size) if writes else 0)


def _resnet_flops(net: ModifiedResNet) -> float:
    side, total, channels = net.image_size // 2, 0.0, 3
    for features in (net.width // 2, net.width // 2, net.width):
        total += 2 * side**2 * 9 * channels * features
        channels = features
    side //= 2
    for stage, count in enumerate(net.layers):
        planes = net.width * 2**stage
        for index in range(count):
            out_side = side // (2 if stage and not index else 1)
            total += (
                2 * side**2 * (channels * planes + 9 * planes**2) + 2 * out_side**2 * 4 * planes**2
            )
            if not index:
                total += 2 * out_side**2 * channels * 4 * planes
            channels, side = 4 * planes, out_side
    tokens = side**2 + 1
    return total + 2 * channels * (2 * tokens + 1) * channels + 2 * channels * net.embed_dim


def _resnet_v1_flops(net: ResNet) -> float:
    side, total, channels = net.image_size, 0.0, 3
    for features, kernel, stride in net.stem_convs():
        side = -(-side // stride)
        total += 2 * side**2 * kernel**2 * channels * features
        channels = features
    side = side if net.stem == "cifar" else -(-side // 2)
    for _, planes, stride in net.blocks():
        features, before, side = net.expand * planes, side, -(-side // stride)
        if net.expand == 1:
            total += 2 * side**2 * 9 * planes * (channels + planes)
        else:
            streams = 2 if net.sk_ratio else 1
            total += 2 * before**2 * channels * planes
            total += 2 * side**2 * planes * (9 * planes * streams + features)
            if net.sk_ratio:
                total += 2 * 3 * planes * max(int(planes * net.sk_ratio), 32)
        if stride > 1 or channels != features:
            total += 2 * side**2 * channels * features
        channels = features
    return total + 2 * channels * net.embed_dim


def _efficientnet_flops(net: EfficientNet) -> float:
    side = -(-net.image_size // 2)
    total = 2.0 * side**2 * 27 * net.stem_width
    for block in net.blocks():
        inside = block.before * block.expand
        total += 2 * side**2 * block.before * inside * (block.expand != 1)
        side = -(-side // block.stride)
        total += 2 * side**2 * inside * (block.kernel**2 + block.after)
        if net.se_ratio:
            total += 4 * inside * max(1, int(block.before * net.se_ratio))
    last = net.blocks()[-1].after
    total += 2 * side**2 * last * net.width * bool(net.top_width)
    return total + 2 * net.width * net.embed_dim * (net.embed_dim != net.width)


def _inception_flops(net: Inception) -> float:
    total, side, channels = 0.0, net.image_size, 3

    def run(convs: tuple[Conv, ...], side: int, channels: int) -> tuple[int, int]:
        nonlocal total
        for conv in convs:
            side = conv.side(side)
            total += 2 * side**2 * math.prod(conv.kernel) * channels * conv.features
            channels = conv.features
        return side, channels

    for conv in STEM:
        side, channels = run((conv,), side, channels) if conv else ((side - 1) // 2, channels)
    for branches in blocks(net.pools).values():
        sizes = []
        for branch in branches:
            half = (side - 1) // 2 if branch.pool == "down" else side
            found = run(branch.convs, half, channels)
            sizes += [run((conv,), *found) for conv in branch.ends] or [found]
        side, channels = sizes[0][0], sum(size[1] for size in sizes)
    return total


def tower_flops(tower: nn.Module, length: int | None = None) -> float:
    """Forward FLOPs of one picture or one text through a tower of models/towers.py.

    Args:
      tower: the network.
      length: tokens of a text, or the only patches that a ViT is given; None is all.
    """
    if isinstance(tower, ModifiedResNet):
        return _resnet_flops(tower)
    if isinstance(tower, ResNet):
        return _resnet_v1_flops(tower)
    if isinstance(tower, EfficientNet):
        return _efficientnet_flops(tower)
    if isinstance(tower, Inception):
        return _inception_flops(tower)
    config = tower.stack_config()
    head = 2 * tower.width * tower.embed_dim
    if hasattr(tower, "context_length"):
        return stack_flops(config, length or tower.context_length) + head
    patches = length or tower.grid**2
    kept = length or max(1, int(patches * (1 - tower.patch_dropout)))
    side, channels, embed = tower.patch_size, 3, 0.0
    for step in tower.stem:  # of all patches, even if only some are given
        side //= step
        embed += 2 * (tower.grid * side * step) ** 2 * channels * tower.width // 2
        channels = tower.width // 2
    embed += 2 * patches * channels * side**2 * tower.width
    return stack_flops(config, kept + tower.has_cls) + embed + head
