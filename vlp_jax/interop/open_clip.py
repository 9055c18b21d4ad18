"""Name tables of open_clip: its own ViT and ModifiedResNet towers, and SigLIP on a timm trunk.

OpenAI's release uses the first table too. Names as in open_clip 3.3.0 (model.py, transformer.py,
modified_resnet.py) and timm 1.0 (vision_transformer.py, attention_pool.py). The file exists to hold
these tables and nothing else.
"""

from vlp_jax.interop.rules import Family, Rule

_FUSED_KERNEL = "l (three h k) i -> l i h three k"
_FUSED_BIAS = "l (three h k) -> l h three k"
_LINEAR = "l o i -> l i o"


def resblocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The stacked blocks of open_clip's own transformer."""
    ours, theirs = f"{ours}/blocks", f"{theirs}.resblocks.{{i}}"
    return (
        Rule(f"{ours}/norm{{n}}/scale", f"{theirs}.ln_{{n}}.weight"),
        Rule(f"{ours}/norm{{n}}/bias", f"{theirs}.ln_{{n}}.bias"),
        Rule(f"{ours}/attn/qkv/kernel", f"{theirs}.attn.in_proj_weight", _FUSED_KERNEL),
        Rule(f"{ours}/attn/qkv/bias", f"{theirs}.attn.in_proj_bias", _FUSED_BIAS),
        Rule(f"{ours}/attn/out/kernel", f"{theirs}.attn.out_proj.weight", "l o (h k) -> l h k o"),
        Rule(f"{ours}/attn/out/bias", f"{theirs}.attn.out_proj.bias"),
        Rule(f"{ours}/mlp/fc1/kernel", f"{theirs}.mlp.c_fc.weight", _LINEAR),
        Rule(f"{ours}/mlp/fc1/bias", f"{theirs}.mlp.c_fc.bias"),
        Rule(f"{ours}/mlp/fc2/kernel", f"{theirs}.mlp.c_proj.weight", _LINEAR),
        Rule(f"{ours}/mlp/fc2/bias", f"{theirs}.mlp.c_proj.bias"),
    )


def text_tower(prefix: str, head: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """open_clip's text tower under a prefix; its projection is a bare matrix or a linear layer."""
    return (
        Rule("text/token_embed/embedding", f"{prefix}token_embedding.weight"),
        Rule("text/pos_embed", f"{prefix}positional_embedding"),
        *resblocks("text", f"{prefix}transformer"),
        Rule("text/norm_post/scale", f"{prefix}ln_final.weight"),
        Rule("text/norm_post/bias", f"{prefix}ln_final.bias"),
        *head,
    )


_VIT = (
    Rule("image/patch_embed/kernel", "visual.conv1.weight", "d c p q -> p q c d"),
    Rule("image/cls_token", "visual.class_embedding"),
    Rule("image/pos_embed", "visual.positional_embedding"),
    Rule("image/norm_pre/scale", "visual.ln_pre.weight"),
    Rule("image/norm_pre/bias", "visual.ln_pre.bias"),
    *resblocks("image", "visual.transformer"),
    Rule("image/norm_post/scale", "visual.ln_post.weight"),
    Rule("image/norm_post/bias", "visual.ln_post.bias"),
    Rule("image/fc_norm/scale", "visual.ln_post.weight"),  # final_ln_after_pool
    Rule("image/fc_norm/bias", "visual.ln_post.bias"),
    Rule("image/head/kernel", "visual.proj"),
)


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


_RESNET = (
    *residual_stages("visual."),
    Rule("image/attnpool/pos_embed", "visual.attnpool.positional_embedding"),
    *(
        rule
        for name in ("query", "key", "value")
        for rule in (
            Rule(
                f"image/attnpool/{name}/kernel",
                f"visual.attnpool.{name[0]}_proj.weight",
                "(h k) i -> i h k",
            ),
            Rule(
                f"image/attnpool/{name}/bias",
                f"visual.attnpool.{name[0]}_proj.bias",
                "(h k) -> h k",
            ),
        )
    ),
    Rule("image/attnpool/out/kernel", "visual.attnpool.c_proj.weight", "o (h k) -> h k o"),
    Rule("image/attnpool/out/bias", "visual.attnpool.c_proj.bias"),
)

_SCALARS = (Rule("logit_scale", "logit_scale"), Rule("logit_bias", "logit_bias"))

_TRUNK = "visual.trunk"
_BLOCK = f"{_TRUNK}.blocks.{{i}}"
_POOL = f"{_TRUNK}.attn_pool"
_TIMM_VIT = (
    Rule("image/patch_embed/kernel", f"{_TRUNK}.patch_embed.proj.weight", "d c p q -> p q c d"),
    Rule("image/patch_embed/bias", f"{_TRUNK}.patch_embed.proj.bias"),
    Rule("image/pos_embed", f"{_TRUNK}.pos_embed", "1 n d -> n d"),
    Rule("image/blocks/norm{n}/scale", f"{_BLOCK}.norm{{n}}.weight"),
    Rule("image/blocks/norm{n}/bias", f"{_BLOCK}.norm{{n}}.bias"),
    Rule("image/blocks/attn/qkv/kernel", f"{_BLOCK}.attn.qkv.weight", _FUSED_KERNEL),
    Rule("image/blocks/attn/qkv/bias", f"{_BLOCK}.attn.qkv.bias", _FUSED_BIAS),
    Rule("image/blocks/attn/out/kernel", f"{_BLOCK}.attn.proj.weight", "l o (h k) -> l h k o"),
    Rule("image/blocks/attn/out/bias", f"{_BLOCK}.attn.proj.bias"),
    Rule("image/blocks/mlp/fc{n}/kernel", f"{_BLOCK}.mlp.fc{{n}}.weight", _LINEAR),
    Rule("image/blocks/mlp/fc{n}/bias", f"{_BLOCK}.mlp.fc{{n}}.bias"),
    Rule("image/norm_post/scale", f"{_TRUNK}.norm.weight"),
    Rule("image/norm_post/bias", f"{_TRUNK}.norm.bias"),
    Rule("image/pool/probe", f"{_POOL}.latent", "1 1 d -> d"),
    Rule("image/pool/attn/query/kernel", f"{_POOL}.q.weight", "(h k) i -> i h k"),
    Rule("image/pool/attn/query/bias", f"{_POOL}.q.bias", "(h k) -> h k"),
    Rule("image/pool/attn/key_value/kernel", f"{_POOL}.kv.weight", "(two h k) i -> i h two k"),
    Rule("image/pool/attn/key_value/bias", f"{_POOL}.kv.bias", "(two h k) -> h two k"),
    Rule("image/pool/attn/out/kernel", f"{_POOL}.proj.weight", "o (h k) -> h k o"),
    Rule("image/pool/attn/out/bias", f"{_POOL}.proj.bias"),
    Rule("image/pool/norm/scale", f"{_POOL}.norm.weight"),
    Rule("image/pool/norm/bias", f"{_POOL}.norm.bias"),
    Rule("image/pool/mlp/fc{n}/kernel", f"{_POOL}.mlp.fc{{n}}.weight", "o i -> i o"),
    Rule("image/pool/mlp/fc{n}/bias", f"{_POOL}.mlp.fc{{n}}.bias"),
    Rule("image/head/kernel", "visual.head.proj.weight", "o i -> i o"),
    Rule("image/head/bias", "visual.head.proj.bias"),
)


def _head(prefix: str, linear: bool) -> tuple[Rule, ...]:
    """The text's projection: a linear layer where it has a bias (`proj_bias`), else a matrix."""
    name = f"{prefix}text_projection"
    if not linear:
        return (Rule("text/head/kernel", name),)
    return (
        Rule("text/head/kernel", f"{name}.weight", "o i -> i o"),
        Rule("text/head/bias", f"{name}.bias"),
    )


def family(trunk: bool, linear: bool) -> Family:
    """The table of a model.

    Args:
      trunk: its image tower is timm's SigLIP trunk, with the text tower under `text.`; else
        open_clip's own, with the text tower's names bare.
      linear: its text projection has a bias.
    """
    prefix = "text." if trunk else ""
    image = _TIMM_VIT if trunk else (*_VIT, *_RESNET)
    rules = (*image, *text_tower(prefix, _head(prefix, linear)), *_SCALARS)
    if trunk:
        return Family("open_clip SigLIP", rules)
    unread = (r".*num_batches_tracked", "attn_mask")
    return Family("open_clip", rules, ignored=unread, counters=counters("visual."))


OPEN_CLIP, OPEN_CLIP_SIGLIP = family(False, False), family(True, True)
