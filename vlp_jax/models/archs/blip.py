"""The sizes of BLIP (arXiv:2201.12086, section 4.1), as pre-trained and as transformers' classes
hold its fine-tuned parts.

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any

from vlp_jax.models.archs.vit import vit_tower

VISION = {"base": (12, 768), "large": (24, 1024)}  # layers, width; heads are 64 wide


def blip_towers(size: str, image_size: int = 224, **text: Any) -> dict[str, Any]:
    """A ViT of patches of 16 pixels whose tokens are all normalised (eps 1e-6), and BERT-base with
    [DEC] and [ENC]; text: further fields of the MED."""
    how = dict(pool="none", cls_token=True, norm_eps=1e-6)
    words = dict(name="med", vocab_size=30524, width=768, num_layers=12, num_heads=12)
    return {"image": vit_tower(image_size, 16, *VISION[size]) | how, "text": words | text}


def _transformers(size: str, role: str, **task: Any) -> dict[str, Any]:
    """Pictures of 384 pixels, and the eps that the classes have, 1e-5."""
    towers = blip_towers(size, 384, roles=role)
    return {**towers, "image": towers["image"] | {"norm_eps": 1e-5}, **task}


ARCHS: dict[str, dict[str, Any]] = {
    **{f"blip-{size}": blip_towers(size) for size in VISION},  # 252,441,919 of base
    **{
        f"blip-image-captioning-{size}": _transformers(size, "decoder", losses=("lm",))
        for size in VISION
    },
    **{
        f"blip-itm-{size}": _transformers(size, "encoder", losses=("itc", "itm")) for size in VISION
    },
}
