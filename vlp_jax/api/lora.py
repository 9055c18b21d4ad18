"""LoRA files on a loaded model, folded into weights, and written from a run.

The strength of a file is a leaf of its adapters, so it is traced: another strength compiles
nothing. The file exists as what `load(..., lora={FILE: 0.8})` and `convert --lora=FILE:0.8` share.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.api.placement import places
from vlp_jax.core import adapters
from vlp_jax.core.adapters import Adapter
from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.pytree import flatten, matches, unflatten
from vlp_jax.core.types import Params
from vlp_jax.interop.folder import replace_folder
from vlp_jax.interop.lora import FILE, read_lora, write_lora
from vlp_jax.interop.weights_file import write_safetensors
from vlp_jax.methods.base import Method
from vlp_jax.nn.precision import DTYPES
from vlp_jax.parallel.sharding import place

Strengths = Mapping[str, float]


def strengths(flags: Sequence[str]) -> dict[str, float]:
    """{file: strength} of flags FILE or FILE:STRENGTH.

    Raises:
      UserError: a strength that is no number, or one file twice.
    """
    found: dict[str, float] = {}
    for text in flags:
        file, _, tail = text.rpartition(":")
        file, strength = (text, 1.0) if not file or os.path.exists(text) else (file, tail)
        try:
            strength = float(strength)
        except ValueError:
            raise UserError(f"--lora={text}: {tail!r} is no number, write FILE:0.8") from None
        if file in found:
            raise UserError(f"--lora={text}: {file} is given twice")
        found[file] = strength
    return found


def read(method: Method, lora: Strengths) -> dict[str, np.ndarray]:
    """The adapters of files for a method, {path of a leaf: float32 array}, several on one kernel as
    one of all their ranks.

    Raises:
      UserError: a strength that is not finite, no such file, or one of another base.
    """
    shapes, found = method.adapters(1), {}
    for file, strength in lora.items():
        if not np.isfinite(strength):
            raise UserError(f"--lora={file}:{strength}: must be a finite number")
        path = os.path.join(file, FILE) if os.path.isdir(file) else file
        flat = read_lora(path, shapes)
        for leaf in flat:
            if matches(leaf, adapters.CONSTANT):
                flat[leaf] = flat[leaf] * np.float32(strength)
        found = beside(found, flat)
    return found


def beside(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Two flat trees of which both may have adapters on a kernel."""
    found, own = {**one, **two}, dict(adapters.adapters(one))
    for kernel, its in adapters.adapters(two):
        if kernel in own:
            both = adapters.joined(own[kernel], its)
            found |= dict(zip(adapters.names(kernel), both, strict=True))
    return found


def with_lora(model: Any, lora: Strengths) -> Any:
    """A Model that computes with the adapters of files too, beside those that it has.

    The base is shared with `model`. Asked again with other strengths, `model` gives one that runs
    the same programs.

    Raises:
      UserError: as `read`.
    """
    if not lora:
        return model
    read_ = unflatten(read(model.method, lora))
    where = places(model.mesh, "replicated" if model.mesh else "")
    params = beside(flatten(model.params), flatten(place(read_, where(read_))))
    return dataclasses.replace(model, params=unflatten(params))


def folded(method: Method, arrays: Mapping[str, np.ndarray], lora: Strengths) -> dict[str, Any]:
    """A flat tree of the host with its own adapters and those of files in its kernels."""
    return flatten(adapters.fold(unflatten(beside(arrays, read(method, lora))), np))


def write(out: str, method: Method, params: Params, dtype: str = "") -> dict[str, np.ndarray]:
    """Writes the adapters among `params` as `out`, a .safetensors file or a folder for one, and
    reads them back.

    Returns:
      What was written.

    Raises:
      UserError: there are none, files have no names for them, or `out` is in the way. RunError: the
        disk, or a file that does not give them back.
    """
    flat = {path: leaf for path, leaf in flatten(params).items() if matches(path, adapters.PATHS)}
    if not flat:
        raise UserError("--to=lora: it has no adapters; train them with --config.adapt.rank=4")
    kind = DTYPES[dtype or "float32"]
    state = {name: array.astype(kind) for name, array in write_lora(flat).items()}
    if out.endswith(".safetensors"):
        _write_file(out, state)
        path = out
    else:
        fill = lambda folder: write_safetensors(f"{folder}/{FILE}", state, {"format": "pt"})  # noqa: E731
        replace_folder(out, fill)
        path = os.path.join(out, FILE)
    back, tolerance = read_lora(path, method.adapters(1)), 1e-6 if kind == np.float32 else 1e-2
    for kernel, its in adapters.adapters(flat):
        ours = adapters.product(Adapter(*map(np.asarray, its)), np)
        read_ = adapters.product(Adapter(*(back[name] for name in adapters.names(kernel))), np)
        if np.abs(ours - read_).max() > tolerance * max(np.abs(ours).max(), 1e-30):
            raise RunError(f"{path}: the adapter of {kernel} does not survive the way back")
    return state


def _write_file(out: str, state: dict[str, np.ndarray]) -> None:
    try:
        os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
        write_safetensors(f"{out}.tmp", state, {"format": "pt"})
        os.replace(f"{out}.tmp", out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})") from error
