"""The sizes of ALIGN (arXiv:2102.05918, section 5.1 and Table 9) and of the one release,
kakaobrain/align-base.

The file exists so that recipes, converters and tests share one table.
"""

import copy
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.models.archs.bert import bert_tower
from vlp_jax.models.archs.efficientnet import efficientnet_tower

TEXTS = {  # width, layers, heads
    "mini": (256, 4, 4),
    "medium": (512, 8, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def align_towers(image: str, text: str, embed_dim: int = 640) -> dict[str, Any]:
    """EfficientNet of size `image` without its last convolution on pictures of 289 pixels, a BERT
    of size `text` on 64 tokens of a vocabulary of 100,000."""
    words = dict(vocab_size=100_000, context_length=64, pooler=False)
    picture = dict(image_size=289, top_width=0, padding="even")
    return {
        "embed_dim": embed_dim,
        "image": efficientnet_tower(image, **picture),
        "text": bert_tower(*TEXTS[text], **words),
    }


def _released() -> dict[str, Any]:
    """BERT's own vocabulary, positions and, unused, its pooler: 172,117,841 parameters."""
    towers = align_towers("B7", "base")
    own = dict(vocab_size=30522, context_length=512, pooler=True)
    return {**towers, "text": {**towers["text"], **own}}


ARCHS: dict[str, dict[str, Any]] = {
    "align-base": _released(),
    "L2-large": align_towers("L2", "large", 1376),
    **{
        f"{image}-{text}": align_towers(image, text)
        for image, text in (("B7", "base"), ("B5", "base"), ("B3", "mini"), ("B1", "mini"))
    },
}


def align_arch(name: str) -> dict[str, Any]:
    """{embed_dim, image, text} that the caller may change.

    Raises:
      UserError: an unknown name; the message gives the nearest one.
    """
    if name not in ARCHS:
        raise UserError(f"ALIGN size: unknown {name!r}{nearest(name, ARCHS)}")
    return copy.deepcopy(ARCHS[name])


def small_align() -> dict[str, Any]:
    """A dual encoder for small runs (align.md 8): three stages on pictures of 64 pixels, two layers
    of BERT on the bytes of a text, a space of 64 numbers."""
    stages = ((3, 1, 1, 8, 1), (3, 2, 4, 24, 1), (5, 2, 4, 64, 1))
    image = dict(name="efficientnet", image_size=64, stem=16, stages=stages, padding="even")
    text = bert_tower(128, 2, 2, vocab_size=259, context_length=48, pooler=False)
    return {"embed_dim": 64, "image": {**image, "top_width": 0}, "text": text}
