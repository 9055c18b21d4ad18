"""The Inception v3 that FID, KID and the Inception Score are defined on, as pytorch-fid
(`pt_inception-2015-12-05-6726825d.pth`) and torch-fidelity (`weights-inception-2015-12-05-...pth`)
store it.

Its own pictures are resized by TensorFlow 1's bilinear rule without rounding, which the evaluator
`generation` follows (evals/kits/views.py); other commands take Pillow's. The file exists to hold
what is this family's alone.
"""

from typing import Any

from vlp_jax.interop import preprocess
from vlp_jax.interop.family import Config
from vlp_jax.interop.inception import InceptionFamily


class FidInception(InceptionFamily):
    """1008 classes, whose bias the score leaves out."""

    release = preprocess.FID
    library = "pytorch-fid"
    biased = False
    of_fid = True

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """There is one size."""
        image = {"name": "inception", "pools": "tensorflow"}
        return {"name": "encoder", "image": image, "head_bias": False}


FAMILY = FidInception()
