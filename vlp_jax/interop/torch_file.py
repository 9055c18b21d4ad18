"""Reads PyTorch checkpoints (`.pt`, `.pth`, `.bin`) and TorchScript archives without PyTorch.

Both are zip archives: a pickle (see pickle_reader.py) beside raw little-endian storages in
data/KEY. Before PyTorch 1.6 a checkpoint was pickles in a row, the storages behind them (see
torch_legacy.py). The file exists because half of the released CLIP weights come in this form.
"""

import os
import zipfile
from collections.abc import Iterator
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.pickle_reader import MAX_BYTES, Module, RawTensor, read_pickle
from vlp_jax.interop.tensors import Tensor
from vlp_jax.interop.torch_legacy import Legacy, Storages, is_legacy
from vlp_jax.interop.wrapped import EMA, RAW, unwrap

_SCALARS = (
    "input_resolution",
    "context_length",
    "vocab_size",
)  # stored beside the weights by OpenAI


def read_torch_file(path: str) -> dict[str, Tensor]:
    """Returns the state dict of a PyTorch checkpoint, unwrapped as wrapped.py does."""
    return dict(unwrap(read_archive(path))[0])


def read_archive(path: str) -> dict[str, Tensor]:
    """Returns all tensors of a PyTorch checkpoint, to be read when asked; the names of nested
    dictionaries that training scripts put weights into are joined by dots.

    Raises:
      UserError: neither form, damaged, or a pickle that asks for anything but tensors and plain
        containers; the message names the class.
    """
    archive = Legacy(path) if is_legacy(path) else _Archive(path)
    content = archive.content()
    state = _flatten_module(content) if isinstance(content, Module) else _state_dict(content, path)
    tensors = {name: archive.tensor(name, raw) for name, raw in state.items()}
    return {name: tensor for name, tensor in tensors.items() if name not in _SCALARS}


def is_torchscript(path: str) -> bool:
    """Whether the file is a TorchScript archive, the form in which OpenAI released CLIP."""
    return zipfile.is_zipfile(path) and _Archive(path).is_torchscript


class _Archive(Storages):
    """The zip archive: members by their name below the top folder."""

    def __init__(self, path: str):
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path}: {_what_else(path)}") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        pickles = [
            name
            for name in self.zip.namelist()
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(pickles) != 1:
            raise UserError(f"{path}: a zip archive, but not a PyTorch checkpoint (no data.pkl)")
        self.prefix = pickles[0].removesuffix("data.pkl")
        self.is_torchscript = self.prefix + "constants.pkl" in self.zip.namelist()
        if (
            self.prefix + "byteorder" in self.zip.namelist()
            and self.member("byteorder") != b"little"
        ):
            raise UserError(f"{path}: big-endian checkpoints are not read")

    def member(self, name: str, limit: int = 1 << 62) -> bytes:
        try:
            info = self.zip.getinfo(self.prefix + name)
            if info.file_size > limit:
                raise UserError(f"{self.path}: member {name} has {info.file_size} bytes")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > os.path.getsize(
                self.path
            ):
                raise UserError(
                    f"{self.path}: member {name} is compressed, which PyTorch never writes"
                )
            return self.zip.read(info)
        except (
            KeyError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise UserError(
                f"{self.path}: member {name} is missing or damaged ({error})"
            ) from error

    def content(self) -> Any:
        """What the pickle holds."""
        pickled = self.member("data.pkl", MAX_BYTES)
        return read_pickle(pickled, self.path, allow_modules=self.is_torchscript)

    def storage(self, key: str) -> bytes:
        """A member's bytes."""
        return self.member("data/" + key)


def _what_else(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(16)
    if start.startswith(b"\x80"):
        return (
            "a bare pickle that PyTorch did not write, not read because it can run code; resave the"
            " weights as .safetensors"
        )
    if start.startswith(b"PK"):
        return "a zip archive that is cut short or damaged"
    return "not a PyTorch checkpoint (no zip archive)"


def _state_dict(content: Any, path: str) -> dict[str, RawTensor]:
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    state = dict(_leaves(content))
    if not state:
        raise UserError(f"{path}: holds no tensors")
    return state


def _leaves(content: dict, prefix: str = "", depth: int = 4) -> Iterator[tuple[str, RawTensor]]:
    for key, value in content.items():
        if isinstance(value, RawTensor) and isinstance(key, str):
            yield prefix + key, value
        elif isinstance(value, dict) and key in RAW + EMA and depth:
            yield from _leaves(value, f"{prefix}{key}.", depth - 1)


def _flatten_module(root: Module) -> dict[str, RawTensor]:
    """Joins attribute names of nested modules by dots, like state_dict(); cycles are harmless."""
    state: dict[str, RawTensor] = {}
    pending, seen = [("", root)], set()
    while pending:
        prefix, module = pending.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, value in module.attributes.items():
            if isinstance(value, RawTensor):
                state[f"{prefix}{name}"] = value
            elif isinstance(value, Module):
                pending.append((f"{prefix}{name}.", value))
    return state
