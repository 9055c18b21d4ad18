"""The released dual-encoder sizes under open_clip's names (clip.md 2.1 and 2.2; SigLIP
arXiv:2303.15343).

`clip_arch(NAME)` is what recipes, `convert` and tests share; the file exists so that a size is
written down once.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest

_BASE_TEXT = dict(width=512, num_layers=12, num_heads=8)


def _vit(
    size: int, patch: int, width: int, layers: int, head: int = 64, ratio: float = 4.0
) -> dict[str, Any]:
    sizes = dict(image_size=size, patch_size=patch, width=width, num_layers=layers)
    return dict(name="vit", head_width=head, mlp_ratio=ratio, **sizes)


def _resnet(size: int, layers: tuple[int, ...], width: int) -> dict[str, Any]:
    return dict(name="resnet", image_size=size, layers=layers, width=width)


def _text(width: int, layers: int, heads: int) -> dict[str, Any]:
    return dict(width=width, num_layers=layers, num_heads=heads)


def _clip(embed_dim: int, image: dict, text: dict, activation: str = "gelu") -> dict[str, Any]:
    image = image if image["name"] == "resnet" else {**image, "activation": activation}
    return dict(
        embed_dim=embed_dim, image=image, text={"name": "text", **text, "activation": activation}
    )


def _siglip(
    size: int, patch: int, width: int, layers: int, heads: int, hidden: int
) -> dict[str, Any]:
    shared = dict(
        activation="gelu_tanh", norm_eps=1e-6, weight_init="xavier", mlp_ratio=hidden / width
    )
    image = _vit(size, patch, width, layers, width // heads) | shared
    image |= dict(pool="map", pre_norm=False, conv_bias=True, project=False)
    text = dict(name="text", **_text(width, layers, heads), vocab_size=32000, context_length=64)
    text |= shared | dict(causal=False, pool="last", head_bias=True)
    return dict(embed_dim=width, image=image, text=text)


def _quick(arch: dict[str, Any]) -> dict[str, Any]:
    return _clip(arch["embed_dim"], arch["image"], arch["text"], "quick_gelu")


_CLIP = {
    "RN50": _clip(1024, _resnet(224, (3, 4, 6, 3), 64), _BASE_TEXT),
    "RN101": _clip(512, _resnet(224, (3, 4, 23, 3), 64), _BASE_TEXT),
    "RN50x4": _clip(640, _resnet(288, (4, 6, 10, 6), 80), _text(640, 12, 10)),
    "RN50x16": _clip(768, _resnet(384, (6, 8, 18, 8), 96), _text(768, 12, 12)),
    "RN50x64": _clip(1024, _resnet(448, (3, 15, 36, 10), 128), _text(1024, 12, 16)),
    "ViT-B-32": _clip(512, _vit(224, 32, 768, 12), _BASE_TEXT),
    "ViT-B-16": _clip(512, _vit(224, 16, 768, 12), _BASE_TEXT),
    "ViT-L-14": _clip(768, _vit(224, 14, 1024, 24), _text(768, 12, 12)),
    "ViT-L-14-336": _clip(768, _vit(336, 14, 1024, 24), _text(768, 12, 12)),
    "ViT-H-14": _clip(1024, _vit(224, 14, 1280, 32, 80), _text(1024, 24, 16)),
    "ViT-g-14": _clip(1024, _vit(224, 14, 1408, 40, 88, 4.3637), _text(1024, 24, 16)),
    "ViT-bigG-14": _clip(1280, _vit(224, 14, 1664, 48, 104, 4.9231), _text(1280, 32, 20)),
    "ViT-B-16-plus-240": _clip(640, _vit(240, 16, 896, 12), _text(640, 12, 10)),
}
ARCHS: dict[str, dict[str, Any]] = {
    **_CLIP,
    **{f"{name}-quickgelu": _quick(arch) for name, arch in _CLIP.items()},
    "ViT-B-16-SigLIP": _siglip(224, 16, 768, 12, 12, 3072),
    "ViT-B-16-SigLIP-256": _siglip(256, 16, 768, 12, 12, 3072),
    "ViT-L-16-SigLIP-256": _siglip(256, 16, 1024, 24, 16, 4096),
}


def clip_arch(name: str) -> dict[str, Any]:
    """Returns {embed_dim, image: {name, ...}, text: {name, ...}}, fresh dicts that the caller may
    change.

    Raises:
      UserError: an unknown name; the message gives the nearest one.
    """
    if name not in ARCHS:
        raise UserError(f"unknown architecture {name!r}{nearest(name, ARCHS)}")
    arch = ARCHS[name]
    return {**arch, "image": dict(arch["image"]), "text": dict(arch["text"])}


def small_arch(image_size: int, patch_size: int, width: int, num_layers: int) -> dict[str, Any]:
    """A dual encoder for small runs: both towers of one width and depth, heads of 64, embedding of
    the same width.
    """
    text = _text(width, num_layers, max(1, width // 64))
    return _clip(width, _vit(image_size, patch_size, width, num_layers), text)


def is_siglip(name: str) -> bool:
    """Whether an architecture is trained with the sigmoid loss (method `siglip`)."""
    return "SigLIP" in name
