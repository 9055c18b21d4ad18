"""Inception v3's two released forms (models/inception.py) with their classifiers.

The file exists so that converters and reports know them by name.
"""

from typing import Any

FID = "FID-Inception-v3"
ARCHS: dict[str, dict[str, Any]] = {
    # TensorFlow's graph of 2015-12-05; the score is of logits without their bias
    FID: {
        "image": {"name": "inception", "pools": "tensorflow"},
        "classes": 1008,
        "head_bias": False,
    },
    "Inception-v3": {"image": {"name": "inception", "pools": "torch"}, "classes": 1000},
}
