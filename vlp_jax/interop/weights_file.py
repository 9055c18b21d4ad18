"""Reads and writes safetensors, one file or shards behind an index, trusting no byte of the header.

Format: 8 bytes little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, then the
data (https://github.com/huggingface/safetensors). The file exists because headers come from
strangers: lengths, offsets and shapes are checked against the file before anything is allocated,
and tensors are read only when asked.
"""

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.interop.tensors import DTYPES, Tensor, decode, from_arrays

Arrays = dict[str, np.ndarray]
MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
ALIGNED = 64  # bytes; XLA's CPU backend computes with memory that is so aligned as it lies
MAPPED = 1 << 26  # bytes of a tensor from which it is mapped into memory, not read


def read_safetensors(path: str) -> dict[str, Tensor]:
    """Returns {name: Tensor}; only the header is read.

    Raises:
      UserError: the file cannot be read or its header is malformed; one line that names the file
        and the tensor.
    """
    header, start, size = _header(path)
    tensors, spans = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensors[name], span = _entry(path, name, entry, start, size)
        spans.append(span)
    spans = sorted(span for span in spans if span[0] != span[1])
    for (_, end), (begin, _) in itertools.pairwise(spans):
        if begin < end:
            raise UserError(f"{path}: malformed safetensors header (tensors overlap)")
    return tensors


def read_metadata(path: str) -> dict[str, Any]:
    """What a safetensors file says beside its tensors. Raises UserError as `read_safetensors`."""
    found = _header(path)[0].get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def read_sharded(
    index_path: str, read_torch: Callable[[str], Mapping[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """Returns the tensors of all shards named by an index, `*.safetensors.index.json` or
    `*.bin.index.json`.

    Args:
      index_path: the index.
      read_torch: reads a `.bin` shard; None refuses those.

    Raises:
      UserError: a malformed index, a shard outside the index's folder, one that is missing or cut,
        or that lacks a tensor which the index says it holds, or holds one of another shard's.
    """
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise UserError(f"{index_path}: no weight_map of names to files")
    folder, tensors = os.path.dirname(index_path), {}
    suffixes = (".safetensors", ".bin") if read_torch else (".safetensors",)
    _check_count(index_path, set(weight_map.values()))
    for shard in sorted(set(weight_map.values())):
        if os.path.basename(shard) != shard or not shard.endswith(suffixes):
            kinds = "safetensors or .bin" if read_torch else "safetensors"
            raise UserError(
                f"{index_path}: {shard!r} is not the name of a {kinds} file beside the index"
            )
        read = read_safetensors if shard.endswith(".safetensors") else read_torch
        path = os.path.join(folder, shard)
        found = read(path)
        listed = {name for name, its in weight_map.items() if its == shard}
        others = sorted(name for name in found.keys() - listed if name in weight_map)
        lacking = sorted(listed - found.keys())
        verb, names = ("lacks", lacking) if lacking else ("holds", others)
        if names:
            more = f" and {len(names) - 1} more" if names[1:] else ""
            where = weight_map[names[0]] if verb == "holds" else "it"
            lists = f"{os.path.basename(index_path)} lists in {where}"
            raise UserError(f"{path}: {verb} {names[0]!r}{more}, which {lists}")
        tensors.update(found)
    return tensors


def _check_count(index_path: str, shards: set[str]) -> None:
    """Raises UserError where an index leaves out one of the files NAME-I-of-N that it names."""
    for shard in sorted(shards):
        found = re.fullmatch(r"(.*-)(\d+)(-of-(\d+)\..*)", shard)
        if found and int(found[4]) <= 10**5:
            for i in range(1, int(found[4]) + 1):
                other = f"{found[1]}{i:0{len(found[2])}}{found[3]}"
                if other not in shards:
                    raise UserError(f"{index_path}: lists nothing in {other}")
            return


def read_json(path: str) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      UserError: unreadable, or not a JSON object.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def write_safetensors(
    path: str, arrays: Mapping[str, Any], metadata: dict[str, str] | None = None
) -> str:
    """Writes arrays, or tensors, to one file, some rows of one at a time, and flushes it to disk.

    Data starts at a multiple of ALIGNED, and so does every tensor of so many bytes: a CPU device
    then computes with the file's own pages, mapped into memory, without a copy.

    Returns:
      sha256 of what the file must hold, hexadecimal.

    Raises:
      OSError: disk full.
    """
    tensors = from_arrays(arrays)
    odd = lambda name: (tensors[name].nbytes % ALIGNED != 0, -tensors[name].dtype.itemsize, name)  # noqa: E731
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in sorted(tensors, key=odd):
        its, begin, end = tensors[name], end, end + tensors[name].nbytes
        header[name] = {"dtype": its.code, "shape": its.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    sha = hashlib.sha256()
    with open(path, "wb") as file:
        for part in itertools.chain(
            [len(text).to_bytes(8, "little"), text], _data(tensors, header)
        ):
            sha.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return sha.hexdigest()


def _data(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The bytes of tensors in the order of a header, uint8[n] each. Raises ValueError for one that
    is not what it said."""
    for name in header:
        if name != "__metadata__":
            its, found = tensors[name], 0
            for piece in its.each():
                found += piece.nbytes * (piece.dtype == its.dtype)
                yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
            if found != its.nbytes:
                raise ValueError(f"{name}: {found} bytes of {its.dtype}, not {its.nbytes}")


def _header(path: str) -> tuple[dict[str, Any], int, int]:
    """Returns (header, offset of the data, size of the file)."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise UserError(
                    f"{path}: malformed safetensors header (of {length} bytes, the file has {size})"
                )
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: malformed safetensors header ({error})") from error
    if not isinstance(header, dict):
        raise UserError(f"{path}: malformed safetensors header (not an object)")
    return header, 8 + length, size


def _entry(
    path: str, name: str, entry: Any, start: int, size: int
) -> tuple[Tensor, tuple[int, int]]:
    """Checks one tensor's entry; returns it unread with its span in bytes."""

    def wrong(reason: str) -> UserError:
        return UserError(f"{path}: malformed safetensors header (tensor {name!r}: {reason})")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise wrong("needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise wrong(f"dtype {dtype!r} is not read; valid: {', '.join(DTYPES)}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or any(
            type(n) is not int or not 0 <= n < 1 << 48 for n in numbers
        ):
            raise wrong("shape and data_offsets must be lists of whole numbers")
    if len(offsets) != 2 or len(shape) > 32:
        raise wrong("two data_offsets and at most 32 axes")
    begin, end = offsets
    if end - begin == math.prod(shape) * DTYPES[dtype][1] and start + end > size:
        raise wrong(f"needs a file of {start + end} bytes, this one is cut short at {size}")
    if end - begin != math.prod(shape) * DTYPES[dtype][1]:
        raise wrong(f"{end - begin} bytes at {begin} do not fit shape {shape} {dtype}")
    return Tensor(tuple(shape), dtype, lambda: _read(path, start + begin, tuple(shape), dtype)), (
        begin,
        end,
    )


def _read(path: str, offset: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    code, size = DTYPES[dtype]
    count = math.prod(shape)
    try:
        if count * size < MAPPED:
            items = np.fromfile(path, code, count=count, offset=offset)
        else:  # a device's shard alone is read of it (parallel/sharding.py put)
            items = np.asarray(np.memmap(path, code, "r", offset, (count,)))
    except ValueError:
        items = np.empty(0, code)
    if items.size != count:
        raise UserError(f"{path}: cut short while it was read")
    return decode(items.reshape(shape), dtype)
