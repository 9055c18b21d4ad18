"""The sizes of the released masked autoencoders (MAE, arXiv:2111.06377; mae.md 2.1).

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest

_SIZES = {  # patch, layers, width, width of a head
    "ViT-B-16": (16, 12, 768, 64),
    "ViT-L-16": (16, 24, 1024, 64),
    "ViT-H-14": (14, 32, 1280, 80),
}
NAMES = tuple(_SIZES)


def mae_tower(
    image_size: int, patch_size: int, num_layers: int, width: int, head_width: int
) -> dict[str, Any]:
    """An encoder as MAE has it: class token, fixed positions, no norm before the blocks."""
    return dict(
        name="vit",
        image_size=image_size,
        patch_size=patch_size,
        num_layers=num_layers,
        width=width,
        head_width=head_width,
        pool="cls",
        pos_embed="sincos",
        pre_norm=False,
        conv_bias=True,
        norm_eps=1e-6,
        weight_init="mae",
    )


def _arch(name: str) -> dict[str, Any]:
    decoder = dict(num_layers=8, width=512, num_heads=16)
    return {"image": mae_tower(224, *_SIZES[name]), "decoder": decoder}


ARCHS: dict[str, dict[str, Any]] = {name: _arch(name) for name in NAMES}


def mae_arch(name: str) -> dict[str, Any]:
    """{image, decoder} of a released size; the decoder is the same in all.

    Raises:
      UserError: an unknown name.
    """
    if name not in _SIZES:
        raise UserError(f"MAE size: unknown {name!r}{nearest(name, NAMES)}")
    return _arch(name)
