"""LPIPS' two forms of release: names both ways, and the heads beside torchvision's VGG16."""

import jax
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.interop.families.lpips import FAMILY
from vlp_jax.interop.family import recognise
from vlp_jax.interop.rules import to_ours, to_theirs
from vlp_jax.interop.tensors import from_arrays
from vlp_jax.models.lpips import LPIPS, STAGES

NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def constant(shape, value):
    return np.broadcast_to(np.float32(value), shape)


def convolutions(prefix):
    """{name: array} of VGG16, each of one number; prefix: f(stage) of a name."""
    found, before, value = {}, 3, 0
    for stage, ((count, width), numbers) in enumerate(zip(STAGES, NUMBERS, strict=True), start=1):
        for n in numbers[:count]:
            value += 1
            found[f"{prefix(stage)}.{n}.weight"] = constant((width, before, 3, 3), value)
            found[f"{prefix(stage)}.{n}.bias"] = constant((width,), -value)
            before = width
    return found


HEADS = {
    f"lin{stage}.model.1.weight": constant((1, width, 1, 1), 100 + stage)
    for stage, (_, width) in enumerate(STAGES)
}
WHOLE = convolutions(lambda stage: f"net.slice{stage}")
VGG = convolutions(lambda stage: "features") | {"classifier.0.weight": constant((8, 8), 0)}


def shapes():
    made = jax.eval_shape(LPIPS(64).init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    return made["params"], {
        f"image/{path}": leaf.shape for path, leaf in flatten(made["params"]).items()
    }


@pytest.mark.parametrize("state", [WHOLE | HEADS, VGG | HEADS], ids=["lpips", "torchvision"])
def test_every_tensor_has_its_place(state):
    params, wanted = shapes()
    assert size(params) == 14_716_160
    tensors = from_arrays(state)
    assert recognise(tensors, False, "F") is FAMILY
    tensors = FAMILY.known_names(tensors)
    table = FAMILY.table(tensors)
    found = to_ours(table, tensors, wanted, "F")
    numbers = [found[f"image/conv{s}_{n + 1}/kernel"].max()
               for s, (count, _) in enumerate(STAGES, start=1) for n in range(count)]  # fmt: skip
    assert numbers == list(range(1, 14)), "convolutions in their order"
    assert [found[f"image/head{s}"].shape for s in range(1, 6)] == [(w,) for _, w in STAGES]
    assert [float(found[f"image/head{s}"][0]) for s in range(1, 6)] == [100, 101, 102, 103, 104]
    back = to_theirs(table, found)
    assert back.keys() == (WHOLE | HEADS).keys()
    assert all(np.array_equal(back[name], array) for name, array in (WHOLE | HEADS).items())


def test_the_heads_lie_beside_the_network(tmp_path):
    vgg, read = FAMILY.known_names(from_arrays(VGG)), lambda path: from_arrays(HEADS)
    with pytest.raises(UserError, match=r"vgg\.pth: no such file; LPIPS' heads lie there"):
        FAMILY.further(vgg, str(tmp_path), read)
    (tmp_path / "vgg.pth").write_bytes(b"")
    assert FAMILY.further(vgg, str(tmp_path), read).keys() == HEADS.keys()
    assert not FAMILY.further(from_arrays(WHOLE | HEADS), str(tmp_path), read)
    with pytest.raises(UserError, match="holds no heads of LPIPS"):
        FAMILY.further(vgg, str(tmp_path), lambda path: from_arrays(VGG))


def test_another_vgg_is_not_taken_for_it():
    nineteen = {**VGG, "features.30.weight": constant((512, 512, 3, 3), 1)}
    with pytest.raises(UserError, match="neither an open_clip"):
        recognise(from_arrays(nineteen), False, "F")
