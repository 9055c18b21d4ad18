"""Checkpoints in and out: a released one to a folder of ours, and ours, or any, to another
library's files; offline, without PyTorch, and proven.

The file exists as what `python -m vlp_jax convert` and a notebook call.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlp_jax.api import export as writing
from vlp_jax.api import lora as adapting
from vlp_jax.api.golden import golden
from vlp_jax.api.model import load_converted, load_workdir
from vlp_jax.api.released import Parts, cast, read_released
from vlp_jax.api.weights import tokenizer_name
from vlp_jax.api.words import write_words
from vlp_jax.core import adapters
from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.pytree import flatten, matches
from vlp_jax.interop import folder, gguf_file
from vlp_jax.interop.family import families
from vlp_jax.interop.wrapped import CHOICES
from vlp_jax.methods.base import STATS, make_method
from vlp_jax.nn.precision import DTYPES

OURS, LORA, WORDS = "vlp_jax", "lora", "learned_embeds"


def convert(
    source: str,
    out: str,
    arch: str = "",
    *,
    to: str = OURS,
    image_size: int = 0,
    tokenizer: str = "",
    weights: str = "",
    dtype: str = "",
    lora: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Converts a checkpoint.

    Args:
      source: a file or folder of a family of interop/families; with `to`, also one of our folders
        or training runs.
      out: the folder to write (or a .safetensors file where the library loads it alone).
      arch: the architecture's name; "": what the config beside the weights says.
      to: vlp_jax, another library's form (api/export.py `formats`), or what was learned alone, as
        diffusers' files: lora, adapters, which in all others are folded into the weights, or
        learned_embeds, new words, which other forms lack.
      image_size: resize a ViT's position embeddings to pictures of so many pixels; 0 keeps them.
      tokenizer: tokenizer.json, spm:FILE, clip or bytes; "": found beside the source.
      weights: raw or ema, where the source holds both; "": a run's average, a file's raw weights.
      dtype: float32, bfloat16 or float16 of the written networks; "": as the source.
      lora: {LoRA file: strength}, whose adapters are added to the source's own.

    Returns:
      {input, output, to, arch, source, tensors, parameters, dtypes, notes, proof}.

    Raises:
      UserError: an unknown name, an input that is refused or does not fit (every mismatch is
        listed), an output that is in the way. RunError: the disk, a proof that fails.
    """
    forms, lora = (OURS, *writing.formats(), LORA, WORDS), lora or {}
    for flag, value, known in (
        ("--to: unknown format", to, forms),
        ("--weights: unknown", weights, ("", *CHOICES)),
        ("--dtype: unknown", dtype, ("", *DTYPES)),
    ):
        if value not in known:
            raise UserError(f"{flag} {value!r}{nearest(value, [name for name in known if name])}")
    if to == OURS:
        folder.check_writable(out)
    else:
        writing.check_writable(out, to, alone=to == LORA)
    if source.endswith(".gguf") and os.path.isfile(source):
        how = dict(image_size=image_size, tokenizer=tokenizer, dtype=dtype, lora=lora)
        with tempfile.TemporaryDirectory(prefix="gguf-") as unpacked:
            gguf_file.unpack(source, unpacked)
            return convert(unpacked, out, arch, to=to, **how) | {"input": source}
    if folder.is_folder(source):
        parts = _cast(_ours(source, arch, to, bool(lora)), dtype)
        parts = parts if to == OURS else _whole(parts)
    elif os.path.isdir(os.path.join(source, "checkpoints")):
        parts = _cast(_run(source, arch, to, weights), dtype)
    else:
        parts = read_released(source, arch, image_size, tokenizer, weights, dtype)
        if to != OURS:
            parts = _whole(parts)
            golden(make_method(parts.manifest["method"]), parts.arrays, source)
    if to == WORDS:
        new = parts.manifest["tokenizer"].get("options", {}).get("new", ())
        parts = parts._replace(arrays=write_words(out, parts.arrays, new))
        proof = "the written rows, read back, are ours"
    elif to == LORA:
        parts, proof = _adapters(out, parts, lora, dtype)
    else:
        parts, note = _folded(parts, lora, to)
        proof = note + (_write(source, out, parts) if to == OURS else _export(out, to, parts))
    sizes = {path: a.size for path, a in parts.arrays.items() if not path.startswith("batch_stats")}
    return {
        "input": source,
        "output": out,
        "to": to,
        "arch": parts.manifest["arch"],
        "source": parts.manifest["source"],
        "tensors": len(parts.arrays),
        "parameters": sum(sizes.values()),
        "dtypes": sorted({str(array.dtype) for array in parts.arrays.values()}),
        "notes": parts.notes,
        "proof": proof,
    }


def export(source: str, out: str, to: str, **how: str) -> dict[str, Any]:
    """`convert` to another library's form: export("OUT", "BACK", to="open_clip")."""
    return convert(source, out, to=to, **how)


def _whole(parts: Parts) -> Parts:
    """With every weight read."""
    return parts._replace(arrays={path: its[...] for path, its in parts.arrays.items()})


def _cast(parts: Parts, dtype: str) -> Parts:
    method = make_method(parts.manifest["method"])
    return parts._replace(arrays=cast(method, parts.arrays, dtype))


def _folded(parts: Parts, lora: Mapping[str, float], to: str) -> tuple[Parts, str]:
    """The parts without adapters, what they do in the weights, and what to say of it."""
    if to != OURS:
        parts = _without_words(parts)
    if not lora and not adapters.present(parts.arrays):
        return parts, ""
    method = make_method(parts.manifest["method"])
    arrays = adapting.folded(method, _whole(parts).arrays, lora)
    return parts._replace(arrays=arrays), "with adapters folded in, "


def _without_words(parts: Parts) -> Parts:
    """The parts without new rows, which other libraries' tables lack."""
    own = [path for path in parts.arrays if path.endswith(f"/{adapters.NEW_ROWS}")]
    if not own:
        return parts
    arrays = {path: array for path, array in parts.arrays.items() if path not in own}
    config = dict(parts.manifest["method"])
    for part, _, _ in (path.partition("/") for path in own):
        net = dict(config[part])
        size = net["vocab_size"] - net.pop(adapters.NEW_ROWS)
        config[part] = net | {"vocab_size": size}
    spec = dict(parts.manifest["tokenizer"])
    spec["options"] = {k: v for k, v in spec.get("options", {}).items() if k != "new"}
    note = f"its new words are not written; --to={WORDS} writes them alone"
    manifest = {**parts.manifest, "method": config, "tokenizer": spec}
    return parts._replace(arrays=arrays, manifest=manifest, notes=[*parts.notes, note])


def _adapters(out: str, parts: Parts, lora: Mapping[str, float], dtype: str) -> tuple[Parts, str]:
    """A LoRA file of the adapters alone."""
    method = make_method(parts.manifest["method"])
    own = {path: its[...] for path, its in parts.arrays.items() if matches(path, adapters.PATHS)}
    flat = adapting.beside(own, adapting.read(method, lora))
    written = adapting.write(out, method, flat, dtype)
    return parts._replace(arrays=written), "the written file, read back, is the adapters"


def _write(source: str, out: str, parts: Parts) -> str:
    """Our folder, opened once more before it takes its place."""
    method = make_method(parts.manifest["method"])
    more = lambda weights: {"golden": golden(method, weights, source)}  # noqa: E731

    def prove(written: str) -> None:
        try:
            load_converted(written)
        except (UserError, RunError) as error:
            raise type(error)(str(error).replace(written, out)) from error

    folder.write_folder(out, parts.arrays, parts.manifest, parts.files, prove, more)
    return "mapped back it is the input bit for bit; the written folder gives the golden embeddings"


def _export(out: str, to: str, parts: Parts) -> str:
    """Another library's files."""

    def found(name: str) -> str:  # under the name of the file that it is
        file = name.removeprefix("spm:")
        return name.removesuffix(file) + parts.files.get(file, file)

    manifest = {"tokenizer": {"name": ""}, **parts.manifest}
    parts.notes.extend(writing.write(out, to, parts.arrays, _renamed(manifest, found)))
    proof = "the written weights, read back, are ours bit for bit"
    if any(family.config_name for family in families().values() if family.to == to):
        proof += "; what its library builds of the written config is ours, switch by switch"
    return proof


def _ours(source: str, arch: str, to: str, changed: bool) -> Parts:
    """A converted folder, for another library, or to be changed."""
    arrays, manifest = folder.read_folder(source)
    if arch and arch != manifest["arch"]:
        raise UserError(f"--arch: {source} holds {manifest['arch']}, not {arch}")
    if to == OURS and not changed:
        others = writing.formats()
        shown = f"{', '.join(others[:-1])} or {others[-1]}"
        raise UserError(f"{source}: is converted already; give --to={shown}")
    if to == OURS:
        kept = [name for name in os.listdir(source) if not name.startswith(("weights", "vlp_jax"))]
        return Parts(arrays, manifest, [], {name: os.path.join(source, name) for name in kept})
    named = _renamed(manifest, lambda name: tokenizer_name(source, name))
    return Parts(arrays, named, [], {})


def _renamed(manifest: Mapping[str, Any], name: Callable[[str], str]) -> dict[str, Any]:
    """With other names of its tokenizers."""
    own = lambda spec: {**spec, "name": name(spec["name"])}  # noqa: E731
    further = {key: own(spec) for key, spec in manifest.get("tokenizers", {}).items()}
    found = {**manifest, "tokenizer": own(manifest["tokenizer"])}
    return found | ({"tokenizers": further} if further else {})


def _run(source: str, arch: str, to: str, weights: str) -> Parts:
    """The newest checkpoint of a training workdir, for another library."""
    if to == OURS:
        raise UserError(f"{source}: is a training run, which every command opens as it is")
    model = load_workdir(source, average=weights != "raw")
    averaged = model.config["ema_decay"] > 0
    if weights == "ema" and not averaged:
        raise UserError(f"--weights=ema: {source} keeps no average (ema_decay=0)")
    notes = []
    if averaged and not weights:
        notes = ["the moving average is taken; --weights=raw takes the weights themselves"]
    stats = {STATS: model.extra[STATS]} if STATS in model.extra else {}  # queues, teachers stay
    arrays = {path: np.asarray(a) for path, a in flatten({**model.params, **stats}).items()}
    manifest = {
        "arch": arch or f"step {model.config['step']}",
        "source": "workdir",
        "method": model.config["method"],
        "preprocessing": model.preprocessing,
        "tokenizer": model.tokenizer_spec,
        "tokenizers": model.tokenizers,
    }
    return Parts(arrays, manifest, notes, {})
