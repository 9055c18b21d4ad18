"""Tensors as views of raw storages, and the files of PyTorch before 1.6, which have them in a row
behind their pickles: a magic number, the protocol, facts of the system, the content, the storages'
keys; then every storage, its count of items as int64 in front.

Reference: `torch.serialization._legacy_load`. The file exists because torchvision's first weights
and many ports of that time come in this form.
"""

import io
import math
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.interop.pickle_reader import MAX_BYTES, RawTensor, Storage, read_pickle
from vlp_jax.interop.tensors import DTYPES, Tensor, decode

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."


class Storages:
    """A file whose tensors are views of storages; `storage(key)` gives the bytes of one."""

    path: str

    def storage(self, key: str) -> bytes:
        """The bytes of a storage."""
        raise NotImplementedError(type(self).__name__)

    def tensor(self, name: str, raw: RawTensor) -> Tensor:
        """Checks the view against its storage and returns it unread."""
        storage, count = raw.storage, math.prod(raw.shape)
        last = raw.offset + sum((n - 1) * s for n, s in zip(raw.shape, raw.stride, strict=True))
        if count and (last >= storage.numel or count > storage.numel or raw.offset > storage.numel):
            raise UserError(f"{self.path}: tensor {name} reaches beyond its storage")
        return Tensor(raw.shape, storage.dtype, lambda: self.read(name, raw))

    def read(self, name: str, raw: RawTensor) -> np.ndarray:
        storage = raw.storage
        code, size = DTYPES[storage.dtype]
        data = self.storage(storage.key)
        if len(data) < storage.numel * size:
            raise UserError(f"{self.path}: the storage of tensor {name} is cut short")
        items = np.frombuffer(data, np.dtype(code))[raw.offset :]
        if not math.prod(raw.shape):
            return decode(np.zeros(raw.shape, code), storage.dtype)
        view = np.lib.stride_tricks.as_strided(
            items, raw.shape, [s * size for s in raw.stride], writeable=False
        )
        return decode(np.ascontiguousarray(view).reshape(raw.shape), storage.dtype)


def is_legacy(path: str) -> bool:
    """Whether a file begins as one of PyTorch before 1.6."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_START)) == _START
    except OSError:
        return False


class Legacy(Storages):
    """A file of that time. Raises UserError where it is damaged or asks for more than tensors."""

    is_torchscript = False

    def __init__(self, path: str):
        self.path = path
        with open(path, "rb") as file:
            head = io.BytesIO(file.read(MAX_BYTES))
            size = file.seek(0, io.SEEK_END)
        known: dict[str, Storage] = {}
        magic, protocol, _ = (read_pickle(head, path) for _ in range(3))
        if (magic, protocol) != (MAGIC, PROTOCOL):
            raise UserError(f"{path}: protocol {protocol} of a PyTorch checkpoint is not known")
        self._content = read_pickle(head, path, storages=known)
        keys, at = read_pickle(head, path), head.tell()
        if not isinstance(keys, list) or not known.keys() <= set(keys) or len({*keys}) != len(keys):
            raise UserError(f"{path}: damaged, its storages are not those of its tensors")
        self._places: dict[str, tuple[int, int]] = {}
        for key in keys:
            if key not in known:
                raise UserError(f"{path}: storage {key!r} belongs to no tensor")
            count = known[key].numel * DTYPES[known[key].dtype][1]
            self._places[key] = at + 8, count
            at += 8 + count
            if at > size:
                raise UserError(f"{path}: cut short, its storages need {at} bytes of {size}")

    def content(self) -> Any:
        """What the pickle holds."""
        return self._content

    def storage(self, key: str) -> bytes:
        """The bytes of a storage, whose count in front must be the one that the pickle says."""
        start, count = self._places[key]
        with open(self.path, "rb") as file:
            file.seek(start - 8)
            said = int.from_bytes(file.read(8), "little")
            data = file.read(count)
        item = count // said if said else 0
        if said * item != count or len(data) != count:
            raise UserError(f"{self.path}: storage {key} is damaged")
        return data
