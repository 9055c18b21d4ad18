"""safetensors headers from strangers (fault row R18), shards, and what is written."""

import hashlib
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlp_jax.core.errors import UserError
from vlp_jax.interop import weights_file
from vlp_jax.interop.weights_file import (
    read_json,
    read_safetensors,
    read_sharded,
    write_safetensors,
)


def write(path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return str(path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_library_writes_and_back(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "h": np.float16([1, 2]),
        "i": np.arange(3),
        "s": np.float32(2.5),
        "e": np.zeros((0, 3), np.float32),
    }
    save_file(
        {k: np.asarray(v) for k, v in arrays.items()}, tmp_path / "x.safetensors", {"format": "pt"}
    )
    found = read_safetensors(str(tmp_path / "x.safetensors"))
    assert {k: t.shape for k, t in found.items()} == {k: np.shape(v) for k, v in arrays.items()}
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key].read(), array)
    write_safetensors(str(tmp_path / "y.safetensors"), {"t": arrays["a"].T})
    np.testing.assert_array_equal(load_file(tmp_path / "y.safetensors")["t"], arrays["a"].T)


def test_written_data_is_aligned_and_its_digest_told(tmp_path):
    """Every tensor of a multiple of 64 bytes, so that a CPU device takes it as it lies; others lie
    behind, the widest first."""
    path = tmp_path / "x.safetensors"
    sizes = {"a": 3, "b": 32, "c": 1, "d": 64}
    arrays = {name: np.full(n, n, np.float16) for name, n in sizes.items()}
    digest = write_safetensors(str(path), {**arrays, "e": np.zeros(3)}, {"format": "pt"})
    whole = path.read_bytes()
    assert digest == hashlib.sha256(whole).hexdigest()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    begins = {name: 8 + length + header[name]["data_offsets"][0] for name in ("b", "d", "e")}
    assert {begin % 64 for begin in begins.values()} == {0} and begins["e"] > begins["d"]
    found = load_file(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_large_tensors_are_mapped_into_memory(tmp_path, monkeypatch):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "h": np.float16([1, 2, 3])}
    save_file(arrays, tmp_path / "x.safetensors")
    monkeypatch.setattr(weights_file, "MAPPED", 0)
    for key, tensor in read_safetensors(str(tmp_path / "x.safetensors")).items():
        found = tensor.read()
        np.testing.assert_array_equal(found, arrays[key])
        while isinstance(found.base, np.ndarray):
            found = found.base
        assert isinstance(found, np.memmap)


def test_bfloat16_stays(tmp_path):
    path = write(
        tmp_path / "b.safetensors",
        {"b": entry("BF16", (2,), (0, 4))},
        bytes([0x80, 0x3F, 0x00, 0xC0]),
    )
    found = read_safetensors(path)["b"].read()
    assert found.dtype == "bfloat16"
    np.testing.assert_array_equal(found.astype(np.float32), np.float32([1, -2]))


@pytest.mark.parametrize(
    "header,length",
    [
        ({"a": entry()}, 1 << 60),
        ({"a": entry()}, 0),
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        ({"a": 3}, None),
        ({"a": {"dtype": "F32"}}, None),
        ({"a": entry("F99")}, None),
        ({"a": entry(dtype=["F32"])}, None),
        ({"a": entry(shape=(-2,))}, None),
        ({"a": entry(shape=(2.0,))}, None),
        ({"a": entry(shape=(True, 2))}, None),
        ({"a": entry(shape=(1 << 62, 1 << 62))}, None),
        ({"a": entry(shape=(1,) * 40)}, None),
        ({"a": entry(offsets=(0, 4))}, None),
        ({"a": entry(offsets=(8, 0))}, None),
        ({"a": entry(offsets=(4, 12))}, None),
        ({"a": entry(offsets=(1 << 40, (1 << 40) + 8))}, None),
        ({"a": entry(offsets=(0, 8, 9))}, None),
        ({"a": entry(offsets=(-8, 0))}, None),
        ({"a": entry(), "b": entry()}, None),  # two tensors on the same bytes
    ],
)
def test_malformed_headers_give_one_line(tmp_path, header, length):
    path = write(tmp_path / "x.safetensors", header, bytes(8), length)
    with pytest.raises(UserError, match=r"x\.safetensors: malformed safetensors header") as error:
        read_safetensors(path)
    assert "\n" not in str(error.value)


def test_seeded_mutations_never_escape(tmp_path):
    valid = {
        "w": entry("F32", (2, 2), (0, 16)),
        "b": entry("I64", (1,), (16, 24)),
        "__metadata__": {"a": "b"},
    }
    write(tmp_path / "v.safetensors", valid, bytes(24))
    whole = (tmp_path / "v.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data) - 24)] = rng.integers(256)
        (tmp_path / "m.safetensors").write_bytes(
            data[: rng.integers(len(data)) if rng.random() < 0.2 else None]
        )
        try:
            for tensor in read_safetensors(str(tmp_path / "m.safetensors")).values():
                assert tensor.read().shape == tensor.shape
        except UserError:
            refused += 1
    assert 300 < refused < 1500


def test_shards(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "m-1.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / "m-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    assert {name: t.shape for name, t in read_sharded(str(index)).items()} == {"a": (2,), "b": (3,)}
    for bad, message in (
        ({"weight_map": {"a": "../m-1.safetensors"}}, "not the name of a safetensors file"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not the name of a safetensors file"),
        ({"weight_map": {"a": "m-3.safetensors"}}, "cannot be read"),
        ({"weight_map": {"c": "m-1.safetensors"}}, "m-1.safetensors: lacks 'c', which .* in it"),
        ({"weight_map": dict.fromkeys("acd", "m-1.safetensors")}, "lacks 'c' and 1 more, which"),
        ({"weight_map": {"a": "m-1-of-2.safetensors"}}, "lists nothing in m-2-of-2.safetensors"),
        ({"weight_map": [1]}, "no weight_map"),
        ({}, "no weight_map"),
    ):
        index.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=message):
            read_sharded(str(index))


def test_shards_that_are_not_those_of_their_index(tmp_path):
    """R23: missing, cut, exchanged, or of another model: the file is named, no tensor is read."""
    names = [f"m-{i}.safetensors" for i in (1, 2)]
    save_file({"a": np.ones(2, np.float32)}, tmp_path / names[0])
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / names[1])
    whole = (tmp_path / names[1]).read_bytes()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))

    def refused(message):
        with pytest.raises(UserError, match=message) as caught:
            read_sharded(str(index))
        assert "\n" not in str(caught.value)

    (tmp_path / names[1]).write_bytes(whole[:-4])
    refused(f"{names[1]}: .*76 bytes, this one is cut short at 72")
    save_file({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}, tmp_path / names[1])
    refused(f"{names[1]}: holds 'a', which model.safetensors.index.json lists in {names[0]}")
    save_file({"other": np.ones(3, np.float32)}, tmp_path / names[1])
    refused(f"{names[1]}: lacks 'b', which")
    (tmp_path / names[1]).unlink()
    refused(f"{names[1]}: cannot be read")


def test_json_that_is_none(tmp_path):
    for content in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "c.json").write_bytes(content)
        with pytest.raises(UserError, match=r"c\.json: not"):
            read_json(str(tmp_path / "c.json"))
    with pytest.raises(UserError, match="cannot be read"):
        read_json(str(tmp_path / "none.json"))
