"""Files of PyTorch before 1.6: their tensors, and that damage is told and nothing in them can
run."""

import pickle
import struct

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.interop.torch_file import read_torch_file
from vlp_jax.interop.torch_legacy import MAGIC, PROTOCOL


def legacy(path, ops, names, storages, keys=None):
    """A file whose state dict is `names` {name: (key, storage class, items, shape)}."""
    strides = lambda shape: tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))  # noqa: E731
    items = {
        name: ops["tensor"](key, kind, count, shape, strides(shape))
        for name, (key, kind, count, shape) in names.items()
    }
    body = b"\x80\x02" + ops["state_dict"](items) + b"."
    body = body.replace(b"tQ", b"NtQ")  # the storage's view, None
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(PROTOCOL, 2)]
    parts += [pickle.dumps({"little_endian": True, "type_sizes": {"int": 4}}, 2), body]
    parts += [pickle.dumps(list(storages) if keys is None else keys, 2)]
    parts += [struct.pack("<q", count) + data for count, data in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


NAMES = {
    "fc.weight": ("17", "FloatStorage", 6, (2, 3)),
    "fc.bias": ("9", "HalfStorage", 2, (2,)),
    "bn.num_batches_tracked": ("4", "LongStorage", 1, ()),
}
WEIGHT, BIAS = np.arange(6, dtype=np.float32), np.float16([1.5, -2])
STORAGES = {
    "9": (2, BIAS.tobytes()),
    "17": (6, WEIGHT.tobytes()),
    "4": (1, struct.pack("<q", 7)),
}


def test_tensors_lie_behind_their_pickles(tmp_path, ops):
    found = read_torch_file(str(legacy(tmp_path / "a.pth", ops, NAMES, STORAGES)))
    assert list(found) == list(NAMES)
    np.testing.assert_array_equal(found["fc.weight"].read(), WEIGHT.reshape(2, 3))
    np.testing.assert_array_equal(found["fc.bias"].read(), BIAS)
    assert found["bn.num_batches_tracked"].read() == 7


def test_texts_as_python_2_wrote_them(tmp_path, ops):
    """The heads of LPIPS are such a file."""
    file = legacy(tmp_path / "a.pth", ops, NAMES, STORAGES)
    data = file.read_bytes()
    for word in (b"storage", b"cpu", b"17", *(name.encode() for name in NAMES)):
        new = b"X" + struct.pack("<I", len(word)) + word
        assert new in data
        data = data.replace(new, b"U" + bytes([len(word)]) + word)
    file.write_bytes(data)
    found = read_torch_file(str(file))
    assert list(found) == list(NAMES)
    np.testing.assert_array_equal(found["fc.weight"].read(), WEIGHT.reshape(2, 3))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[:60], "damaged pickle"),
        (lambda data: data.replace(struct.pack("<q", 6), struct.pack("<q", 5), 1), "17 is damaged"),
        (lambda data: data.replace(b"torch\nHalfStorage", b"posix\nsystemXXXXX"), "asks for"),
        (lambda data: data.replace(b"\xe9\x03", b"\xea\x03", 1), "protocol 1002"),
    ],
)
def test_damage_is_one_line(tmp_path, ops, change, message):
    file = legacy(tmp_path / "a.pth", ops, NAMES, STORAGES)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        [tensor.read() for tensor in read_torch_file(str(file)).values()]
    assert "\n" not in str(caught.value)


def test_storages_must_be_those_of_the_tensors(tmp_path, ops):
    for keys in (["9", "17"], ["9", "17", "4", "4"], ["9", "17", "4", "x"], "9"):
        file = legacy(tmp_path / "a.pth", ops, NAMES, STORAGES, keys)
        with pytest.raises(UserError, match="storage"):
            read_torch_file(str(file))
