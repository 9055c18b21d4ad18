"""Inception v3's names, which torchvision, timm, pytorch-fid and torch-fidelity share.

The file exists because two families hold them: torchvision's weights, and those that FID is defined
on.
"""

from typing import Any

from vlp_jax.interop.blocks import linear
from vlp_jax.interop.family import Family
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State

_CONVS = (
    ("conv{n}_{k}", "Conv2d_{n}_{k}"),
    ("mixed{m}/branchpool", "Mixed_{m}.branch_pool"),
    ("mixed{m}/branch{b}_{n}", "Mixed_{m}.branch{b}_{n}"),
    ("mixed{m}/branch{b}", "Mixed_{m}.branch{b}"),
)
_LEAVES = (
    ("image/{}/conv/kernel", "{}.conv.weight", "o i p q -> p q i o"),
    ("image/{}/bn/scale", "{}.bn.weight", ""),
    ("image/{}/bn/bias", "{}.bn.bias", ""),
    ("batch_stats/image/{}/bn/mean", "{}.bn.running_mean", ""),
    ("batch_stats/image/{}/bn/var", "{}.bn.running_var", ""),
)
_AUXILIARY = r"AuxLogits\..*"  # a second classifier, of training alone


def _rules() -> tuple[Rule, ...]:
    return tuple(
        Rule(ours.replace("{}", path), theirs.replace("{}", name), layout)
        for path, name in _CONVS
        for ours, theirs, layout in _LEAVES
    )


class InceptionFamily(Family):
    """Base of both: a file of one of them has the other's names.

    Class attributes:
      biased: its classifier's bias is read.
      of_fid: its classifier has the 1008 classes of TensorFlow's graph.
    """

    has = ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch3x3dbl_3b.conv.weight", "fc.weight")
    archs = "inception"
    methods = ("encoder",)
    biased = True
    of_fid = False

    def table(self, names: Any) -> Table:
        """Its names."""
        del names
        head = linear("head/out", "fc")
        ignored = (r".*num_batches_tracked", _AUXILIARY, *(() if self.biased else (r"fc\.bias",)))
        return Table(self.library, (*_rules(), *(head if self.biased else head[:1])), ignored)

    def recognises(self, state: State, archive: bool) -> bool:
        """By the number of its classes, too."""
        found = super().recognises(state, archive)
        return found and (state["fc.weight"].shape[0] == 1008) == self.of_fid

    def complete(self, method: dict[str, Any], state: State, beside: Any) -> list[str]:
        """The classes of its classifier."""
        del beside
        method["classes"] = state["fc.weight"].shape[0]
        return []
