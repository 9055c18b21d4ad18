"""The sizes of the ViT (arXiv:2010.11929, Table 1) as a network alone, in transformers' numerics.

The file exists so that converters and tests share one table.
"""

from typing import Any


def vit_tower(
    image_size: int, patch_size: int, num_layers: int, width: int, head_width: int = 64
) -> dict[str, Any]:
    """A ViT as published: class token, learned positions, no norm before the blocks; eps 1e-12 as
    in transformers' ViTConfig (1e-6 in the original).
    """
    sizes = dict(image_size=image_size, patch_size=patch_size, num_layers=num_layers, width=width)
    how = dict(pool="cls", pre_norm=False, conv_bias=True, norm_eps=1e-12, weight_init="mae")
    return dict(name="vit", head_width=head_width) | sizes | how


ARCHS: dict[str, dict[str, Any]] = {
    "ViT-B-32": {"image": vit_tower(224, 32, 12, 768)},
    "ViT-B-16": {"image": vit_tower(224, 16, 12, 768)},
    "ViT-B-16-384": {"image": vit_tower(384, 16, 12, 768)},
    "ViT-L-16": {"image": vit_tower(224, 16, 24, 1024)},
    "ViT-H-14": {"image": vit_tower(224, 14, 32, 1280, 80)},
}
