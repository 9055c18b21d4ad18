"""The sizes of BLIP-2 (arXiv:2301.12597, section 3; reference: salesforce/LAVIS): the frozen eyes
and the Q-Former.

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest

# Tokens as the last block leaves them: of EVA-CLIP's ViT-g/14 without its last layer (985,949,440
# parameters; its keys have no bias, which is zeros here and adds the same to all logits of a
# query), and of CLIP's ViT-L/14 without its last layer.
VISION: dict[str, dict[str, Any]] = {
    "g": dict(
        width=1408, num_layers=39, head_width=88, mlp_ratio=4.3637, pre_norm=False, conv_bias=True,
        activation="gelu", norm_eps=1e-6,
    ),
    "L": dict(
        width=1024, num_layers=23, head_width=64, pre_norm=True, conv_bias=False,
        activation="quick_gelu", norm_eps=1e-5,
    ),
}  # fmt: skip


def blip2_vision(size: str, image_size: int = 224) -> dict[str, Any]:
    """A tower of patches of 14 pixels whose tokens are all given, the class token first.

    Raises:
      UserError: another size.
    """
    if size not in VISION:
        raise UserError(f"BLIP-2: unknown size {size!r}{nearest(size, VISION)}")
    how = dict(image_size=image_size, patch_size=14, pool="tokens", cls_token=True)
    return dict(name="vit", **how, **VISION[size])


def blip2_towers(size: str, image_size: int = 224, **qformer: Any) -> dict[str, Any]:
    """A tower and the Q-Former beside it: BERT-base whose vocabulary has [DEC] for its last word;
    qformer: further fields of models/qformer.py."""
    words = dict(name="qformer", vocab_size=30523, width=768, num_layers=12, num_heads=12)
    return {"image": blip2_vision(size, image_size), "qformer": words | qformer}


ARCHS: dict[str, dict[str, Any]] = {
    "blip2-vit-g": blip2_towers("g"),  # 186,705,470 that learn
    "blip2-vit-L": blip2_towers("L"),
    **{
        f"blip2-itm-vit-{size}": blip2_towers(size, texts="read") | {"losses": ("itc", "itm")}
        for size in VISION
    },
}
