"""PyTorch archives without PyTorch: what is read, and that nothing in them can run (fault row
R18)."""

import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.interop.pickle_reader import read_pickle
from vlp_jax.interop.torch_file import is_torchscript, read_torch_file


def test_dtypes_strides_and_offsets(archive, ops):
    tensor, base = ops["tensor"], np.arange(12, dtype=np.float32)
    half = np.float16([1.5, -2])
    bfloat = np.array([0x3F80, 0xC000], np.uint16)  # 1, -2
    items = {
        "plain": tensor("0", "FloatStorage", 12, (3, 4), (4, 1)),
        "transposed": tensor("0", "FloatStorage", 12, (4, 3), (1, 4)),
        "offset": tensor("0", "FloatStorage", 12, (2, 2), (4, 1), offset=5),
        "scalar": tensor("0", "FloatStorage", 12, (), (), offset=7),
        "empty": tensor("0", "FloatStorage", 12, (0, 4), (4, 1)),
        "half": tensor("1", "HalfStorage", 2, (2,), (1,)),
        "bfloat": tensor("2", "BFloat16Storage", 2, (2,), (1,)),
        "long": tensor("3", "LongStorage", 1, (1,), (1,)),
    }
    storages = {
        "0": base.tobytes(),
        "1": half.tobytes(),
        "2": bfloat.tobytes(),
        "3": struct.pack("<q", -9),
    }
    found = {
        k: t.read() for k, t in read_torch_file(archive(ops["state_dict"](items), storages)).items()
    }
    np.testing.assert_array_equal(found["plain"], base.reshape(3, 4))
    np.testing.assert_array_equal(found["transposed"], base.reshape(3, 4).T)
    np.testing.assert_array_equal(found["offset"], [[5, 6], [9, 10]])
    assert found["scalar"] == 7 and found["scalar"].shape == ()
    assert found["empty"].shape == (0, 4)
    np.testing.assert_array_equal(found["half"], half)
    np.testing.assert_array_equal(found["bfloat"], np.float32([1, -2]))
    assert found["long"] == -9


def test_nested_state_dict_and_module_prefix(archive, ops):
    weights = ops["state_dict"]({"module.a": ops["tensor"]("0", "FloatStorage", 1, (1,), (1,))})
    body = (
        b"}(" + ops["text"]("epoch") + ops["number"](3) + ops["text"]("state_dict") + weights + b"u"
    )
    assert list(read_torch_file(archive(body, {"0": bytes(4)}))) == ["a"]


@pytest.mark.parametrize(
    "name", ["torch\nSize", "torch.jit._pickle\nbuild_intlist", "torch.jit._pickle\nbuild_boollist"]
)
def test_lists_of_torch_beside_the_weights_are_no_obstacle(archive, ops, name):
    """A checkpoint's `shape: torch.Size([2])`: one argument, a tuple of numbers."""
    listed = f"c{name}\n((".encode() + ops["number"](2) + b"tt" + b"R"
    weights = ops["state_dict"]({"a": ops["tensor"]("0", "FloatStorage", 1, (1,), (1,))})
    body = b"}(" + ops["text"]("shape") + listed + ops["text"]("state_dict") + weights + b"u"
    assert list(read_torch_file(archive(body, {"0": bytes(4)}))) == ["a"]


def test_torchscript_modules_become_dotted_names(archive, ops):
    one = ops["tensor"]("0", "FloatStorage", 1, (1,), (1,))
    inner = b"c__torch__.inner\nLinear\n)\x81}(" + ops["text"]("weight") + one + b"ub"
    outer = (
        b"c__torch__.clip\nCLIP\n)\x81}("
        + ops["text"]("visual")
        + inner
        + ops["text"]("res")
        + ops["number"](8)
    )
    outer += ops["text"]("context_length") + one + b"ub"
    path = archive(outer, {"0": struct.pack("<f", 2.5)}, torchscript=True)
    assert is_torchscript(path)
    found = read_torch_file(path)
    assert {name: float(tensor.read()[0]) for name, tensor in found.items()} == {
        "visual.weight": 2.5
    }
    with pytest.raises(
        UserError, match=r"__torch__\.clip\.CLIP"
    ):  # only TorchScript archives may name modules
        read_torch_file(archive(outer, {"0": bytes(4)}))


class Payload:
    """Unpickling this with the pickle module runs a command."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"state_dict": {"w": x}}, lambda x: [(x,)]]
)
def test_payloads_are_refused_and_never_run(archive, tmp_path, protocol, wrap):
    canary = tmp_path / "canary"
    payloads = [
        Payload(os.system, f"touch {canary}"),
        Payload(eval, f"open({str(canary)!r}, 'w')"),
        Payload(exec, f"open({str(canary)!r}, 'w')"),
        Payload(open, str(canary), "w"),
        Payload(getattr, os, "system"),
        Payload(__import__, "antigravity"),
    ]
    for payload in payloads[:4] + payloads[5:]:
        data = pickle.dumps(wrap(payload), protocol)
        path = archive(data if protocol >= 2 else b"\x80\x02" + data, name=f"p{protocol}.pt")
        with pytest.raises(UserError, match=r"refused|not admitted") as error:
            read_torch_file(path)
        assert "\n" not in str(error.value)
        assert not canary.exists()


def test_the_message_names_the_class(archive):
    path = archive(pickle.dumps(Payload(os.system, "true"), 2))
    with pytest.raises(UserError, match=rf"model\.pt.*'{os.system.__module__}\.system'"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "body",
    [
        b"(S'true'\nios\nsystem\n",  # INST
        b"\x82\x01",  # EXT1: the copyreg registry
        b"(cos\nsystem\nX\x04\x00\x00\x00trueo",  # OBJ
        b"cos\nsystem\n(X\x04\x00\x00\x00truetR",
        b"c__torch__.x\nY\n)\x81",  # a module outside a TorchScript archive
        b"ccollections\nOrderedDict\n)\x81",  # NEWOBJ of a container
        b"X\x01\x00\x00\x00aX\x01\x00\x00\x00b\x93",  # STACK_GLOBAL a.b
        b"ctorch\nload\n(X\x01\x00\x00\x00xtR",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",  # too few arguments
        b"ctorch\nFloatStorage\n)R",  # a label called as a function
        b"}K\x01K\x02b",  # BUILD on a number
        b"]K\x01K\x02s",  # items for a list
        b"h\x07",  # an unset memo
        b"0",  # POP
        b"(K\x01",  # never ends in a value
        b"Q",  # persistent id of nothing
        b"}]K\x01su",  # an unhashable key
    ],
)
def test_odd_instructions_give_one_line(archive, body):
    with pytest.raises(UserError) as error:
        read_torch_file(archive(body))
    assert "\n" not in str(error.value) and "model.pt" in str(error.value)


def test_a_huge_memo_index_and_a_huge_pickle_cost_nothing(archive):
    body = b"}r\xff\xff\xff\xff"  # LONG_BINPUT: the C unpickler would allocate 64 GB
    with pytest.raises(UserError, match="no tensors"):
        read_torch_file(archive(body))
    with pytest.raises(UserError, match="more than any state dict needs"):
        read_pickle(bytes(65 << 20), "x.pt")


@pytest.mark.parametrize(
    "numel,shape,stride,offset",
    [
        (4, (5,), (1,), 0),
        (4, (2, 2), (100, 1), 0),
        (4, (4,), (1,), 1),
        (4, (1 << 40,), (0,), 0),  # expanded without memory of its own
        (1 << 40, (1 << 40,), (1,), 0),  # storage that the file does not hold
        (-4, (1,), (1,), 0),
        (4, (-1,), (1,), 0),
        (4, (2,), (1, 1), 0),
    ],
)
def test_views_beyond_their_storage_are_refused(archive, numel, shape, stride, offset):
    def long(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def longs(values):
        return b"(" + b"".join(map(long, values)) + b"t"

    persistent = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + long(numel)
    )
    body = (
        b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + persistent
        + b"tQ"
        + long(offset)
    )
    body += longs(shape) + longs(stride) + b"\x89ccollections\nOrderedDict\n)RtRs"
    with pytest.raises(UserError):
        read_torch_file(archive(body, {"0": bytes(16)}))["w"].read()


def test_seeded_mutations_never_escape(archive, ops, tmp_path):
    items = {f"w{i}": ops["tensor"]("0", "FloatStorage", 4, (2, 2), (2, 1)) for i in range(3)}
    valid = b"\x80\x02" + ops["state_dict"](items) + b"."
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(1500):
        data = bytearray(valid)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            content = read_pickle(bytes(data), "fuzz.pt")
            outcomes.add(type(content).__name__)
        except UserError as error:
            assert "fuzz.pt" in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes and "dict" in outcomes


def test_other_files_are_told_apart(tmp_path):
    cases = {
        "old.pt": (pickle.dumps({"a": 1}, 2), "bare pickle"),
        "text.pt": (b"<html>", "no zip archive"),
        "empty.pt": (b"", "no zip archive"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_torch_file(str(tmp_path / name))
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("a/b.txt", "x")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read_torch_file(str(tmp_path / "other.pt"))


def test_compressed_and_damaged_members_are_refused(archive, ops, tmp_path):
    body = (
        b"\x80\x02"
        + ops["state_dict"]({"w": ops["tensor"]("0", "FloatStorage", 64, (64,), (1,))})
        + b"."
    )
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", body)
    with pytest.raises(UserError, match="compressed"):
        read_torch_file(str(path))
    whole = archive(body, {"0": np.arange(64, dtype=np.float32).tobytes()})
    data = bytearray(pathlib.Path(whole).read_bytes())
    data[data.find(struct.pack("<f", 33.0))] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(str(tmp_path / "flipped.pt"))["w"].read()
