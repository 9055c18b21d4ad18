"""torchvision's Inception v3 (torchvision/models/inception.py; also timm's), without its auxiliary
classifier.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.interop import preprocess
from vlp_jax.interop.family import Config
from vlp_jax.interop.inception import InceptionFamily


class TorchvisionInception(InceptionFamily):
    """inception_v3, whose weights take pictures in [-1, 1] (`transform_input`)."""

    release = preprocess.INCEPTION
    library = "torchvision"

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """There is one size."""
        return {"name": "encoder", "image": {"name": "inception", "pools": "torch"}}


FAMILY = TorchvisionInception()
