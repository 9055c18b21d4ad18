"""The sizes of BLIP-2's Q-Former alone (models/archs/blip2.py), as its second stage has it: without
texts.

The file exists so that converters and tests share one table.
"""

from typing import Any

from vlp_jax.models.archs.blip2 import VISION, blip2_towers

ARCHS: dict[str, dict[str, Any]] = {
    f"blip2-qformer-vit-{size}": {
        "qformer": blip2_towers(size, texts="none")["qformer"],
        "context_width": eye["width"],
    }
    for size, eye in VISION.items()
}
