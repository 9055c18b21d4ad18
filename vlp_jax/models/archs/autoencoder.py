"""The sizes of latent diffusion's autoencoders (arXiv:2112.10752, Table 8; CompVis/latent-diffusion
configs/autoencoder and models/first_stage_models).

Attention is told there by the side of a map in pixels, for pictures of 256; here by level. The file
exists so that recipes, converters and tests share one table.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest

_SIDE = 256
# latent channels, channels of the levels over 128, sides with attention, codes
SIZES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "kl-f4": (3, (1, 2, 4), (), 0),
    "kl-f8": (4, (1, 2, 4, 4), (), 0),  # of Stable Diffusion 1, 2 and XL
    "kl-f16": (16, (1, 1, 2, 2, 4), (16,), 0),
    "kl-f16-noattn": (16, (1, 1, 2, 2, 4), (), 0),
    "kl-f32": (64, (1, 1, 2, 2, 4, 4), (16, 8), 0),
    "vq-f4": (3, (1, 2, 4), (), 8192),
    "vq-f4-noattn": (3, (1, 2, 4), (), 8192),
    "vq-f8": (4, (1, 2, 2, 4), (32,), 16384),
    "vq-f8-n256": (4, (1, 2, 2, 4), (32,), 256),
    "vq-f16": (8, (1, 1, 2, 2, 4), (16,), 16384),
}


def autoencoder(name: str, **others: Any) -> dict[str, Any]:
    """The network of a published size, e.g. "kl-f8"; others: further fields.

    Raises:
      UserError: an unknown size.
    """
    if name not in SIZES:
        raise UserError(f"autoencoder size: unknown {name!r}{nearest(name, SIZES)}")
    latent, multiples, sides, codes = SIZES[name]
    attend = tuple(_SIDE >> level in sides for level in range(len(multiples)))
    found = dict(name="autoencoder", latent_channels=latent, codes=codes)
    found |= dict(widths=tuple(128 * m for m in multiples), attend=attend if any(attend) else ())
    return found | {"middle_attention": name != "vq-f4-noattn"} | others


ARCHS: dict[str, dict[str, Any]] = {name: {"autoencoder": autoencoder(name)} for name in SIZES}
