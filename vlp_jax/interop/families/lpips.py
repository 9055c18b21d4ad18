"""LPIPS on VGG16: a saved `lpips.LPIPS(net="vgg")`, or torchvision's VGG16 and beside it the heads,
`vgg.pth` of the `lpips` package (weights/v0.1).

The file exists to hold what is this family's alone: one network that is released as two files.
"""

import os
from collections.abc import Callable
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.family import Config, Family
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State

HEADS = "vgg.pth"
# torchvision's numbers of the convolutions of each stage, among activations and pools
_CONVS = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
_RENAMED = {
    f"features.{n}.{end}": f"net.slice{stage}.{n}.{end}"
    for stage, numbers in _CONVS.items()
    for n in numbers
    for end in ("weight", "bias")
}
_LAST_HEAD = "lin4.model.1.weight"


def _rules() -> tuple[Rule, ...]:
    found = []
    for stage, numbers in _CONVS.items():
        for place, n in enumerate(numbers, start=1):
            ours, theirs = f"image/conv{stage}_{place}", f"net.slice{stage}.{n}"
            found += [
                Rule(f"{ours}/kernel", f"{theirs}.weight", "o i p q -> p q i o"),
                Rule(f"{ours}/bias", f"{theirs}.bias"),
            ]
        head = f"lin{stage - 1}.model.1.weight"
        found.append(Rule(f"image/head{stage}", head, "1 c 1 1 -> c"))
    return tuple(found)


class Lpips(Family):
    """Version 0.1, net="vgg"."""

    has = ("net.slice1.0.weight", "net.slice3.14.weight", "net.slice5.28.weight")
    archs = "lpips"
    release = preprocess.TORCHVISION
    library = "lpips"
    methods = ("encoder",)

    def table(self, names: Any) -> Table:
        """One table."""
        del names
        return Table("LPIPS", _rules(), (r"scaling_layer\..*", r"lins\..*", r"classifier\..*"))

    def known_names(self, state: State) -> State:
        """torchvision's convolutions under LPIPS' names, where they are those of VGG16."""
        own = [name for name in state if name.startswith("features.")]
        if sorted(own) != sorted(_RENAMED):
            return state
        return {_RENAMED.get(name, name): tensor for name, tensor in state.items()}

    def further(self, state: State, folder: str, read: Callable[[str], State]) -> State:
        """The heads beside a VGG16.

        Raises:
          UserError: there are none.
        """
        path = os.path.join(folder, HEADS)
        if _LAST_HEAD in state:
            return {}
        if not os.path.isfile(path):
            raise UserError(
                f"{path}: no such file; LPIPS' heads lie there, weights/v0.1/{HEADS} of the lpips"
                " package"
            )
        found = read(path)
        if _LAST_HEAD not in found:
            raise UserError(f"{path}: holds no heads of LPIPS ({_LAST_HEAD})")
        return {name: tensor for name, tensor in found.items() if name.startswith("lin")}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """There is one size."""
        del config, where
        return {"name": "encoder", "image": {"name": "lpips", "image_size": 64}}


FAMILY = Lpips()
