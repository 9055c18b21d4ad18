"""The folder of a converted checkpoint: weights.safetensors, or shards of 4 GB, and vlp_jax.json.

Weights go under our path names, in the source's dtype; vlp_jax.json holds the architecture's name,
the parts with their networks, the config of a method that has these, preprocessing, tokenizer,
source, the files of weights and of the tokenizer with their digests, and golden embeddings. It is
written last, so that a folder without it is none. The file exists so that a checkpoint is complete:
nothing about it lives elsewhere.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlp_jax.core.errors import RunError, UserError, count_of
from vlp_jax.core.strict_json import dumps
from vlp_jax.interop.tensors import State, Tensor, from_arrays
from vlp_jax.interop.weights_file import read_json, read_safetensors, write_safetensors

FORMAT = 1
MANIFEST, WEIGHTS = "vlp_jax.json", "weights.safetensors"
LIMIT = 4 << 30  # bytes of one file of weights
_ANOTHER = f"its digest is not the one in {MANIFEST}; convert it again"
_REQUIRED = ("format", "arch", "method", "preprocessing", "tokenizer", "weights_sha256", "golden")


def is_folder(path: str) -> bool:
    """Whether the path is a folder in this format."""
    return os.path.isfile(os.path.join(path, MANIFEST))


def check_writable(out: str) -> None:
    """Raises UserError if `out` exists and is neither an empty folder nor one of ours."""
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"{out}: exists and is not a folder")
    if os.path.isdir(out) and os.listdir(out) and not is_folder(out):
        raise UserError(
            f"{out}: exists, is not empty and is not a converted checkpoint; nothing was written"
        )


def write_folder(
    out: str,
    arrays: Mapping[str, Any],
    manifest: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
    check: Callable[[str], None] = lambda folder: None,
    more: Callable[[State], Mapping[str, Any]] = lambda weights: {},
) -> None:
    """Writes a checkpoint folder whole or not at all, a tensor at a time.

    Args:
      out: the folder; an older converted checkpoint there is replaced.
      arrays: {path: float32, bfloat16 or float16[...]}, or tensors.
      manifest: everything of vlp_jax.json but `format` and the digests.
      files: {name in the folder: file to copy} (a tokenizer).
      check: called with the written folder before it takes the place of an older one.
      more: of the manifest, made of the weights as they were written.

    Raises:
      UserError: see `check_writable`. RunError: the disk, or weights that it does not give back.
    """

    def fill(folder: str) -> None:
        digests, own, written = {}, {}, {}
        for weights, part in shards(from_arrays(arrays)).items():
            path = os.path.join(folder, weights)
            digests[weights] = write_safetensors(path, part)
            written |= read_safetensors(path)
        for name, source in (files or {}).items():
            shutil.copyfile(source, os.path.join(folder, name))
            own[name] = digest(os.path.join(folder, name))
        said = {"weights_sha256": digests.get(WEIGHTS, digests), "files_sha256": own}
        content = {"format": FORMAT, **manifest, **more(written), **said}
        write_json(os.path.join(folder, MANIFEST), content)

        check(folder)

    check_writable(out)
    replace_folder(out, fill)


def shards(arrays: State) -> dict[str, dict[str, Tensor]]:
    """{file: its tensors}: one file, or as many as hold LIMIT bytes each and no tensor in two."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for path, array in arrays.items():
        size += array.nbytes
        if parts[-1] and size > LIMIT:
            parts.append({})
            size = array.nbytes
        parts[-1][path] = array
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    stem, suffix = os.path.splitext(WEIGHTS)
    name = f"{stem}-{{:05}}-of-{len(parts):05}{suffix}"
    return {name.format(i): part for i, part in enumerate(parts, start=1)}


def replace_folder(out: str, fill: Any) -> None:
    """Calls `fill(temporary folder)`, then renames it to `out`, or to what that links to; a failure
    leaves nothing behind, and what was there as it was."""
    out = os.path.realpath(out)
    parent = os.path.dirname(os.path.abspath(out))
    temporary = ""
    try:
        os.makedirs(parent, exist_ok=True)
        temporary = tempfile.mkdtemp(
            prefix=f".{os.path.basename(os.path.normpath(out))}-", dir=parent
        )
        os.chmod(temporary, 0o755)
        fill(temporary)
        if os.path.isdir(out):
            old = temporary + "-old"
            os.rename(out, old)
            os.rename(temporary, out)
            shutil.rmtree(old)
        else:
            os.rename(temporary, out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def read_folder(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Opens the weights, checks the digests of all files and reads the manifest.

    Returns:
      ({path: tensor}, manifest).

    Raises:
      UserError: no such folder, a manifest that lacks a key, another format version, a file of
        weights that is missing, cut short, damaged or another model's, another file that was
        changed; a tokenizer that is gone is told where it is needed.
    """
    manifest = read_json(os.path.join(path, MANIFEST))
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise UserError(f"{os.path.join(path, MANIFEST)}: lacks {', '.join(missing)}")
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{os.path.join(path, MANIFEST)}: format {manifest['format']}, we read {FORMAT}"
        )
    tensors = _weights(path, manifest["weights_sha256"])
    for name, sha in manifest.get("files_sha256", {}).items():  # older folders say none
        file = os.path.join(path, os.path.basename(name))
        if os.path.isfile(file) and digest(file) != sha:
            raise UserError(f"{file}: changed since the weights came with it, {_ANOTHER}")
    return tensors, manifest


def _weights(path: str, said: Any) -> dict[str, Tensor]:
    """The tensors of all files of weights; said: the digest of the one, or {file: digest}."""
    listed = said if isinstance(said, Mapping) else {WEIGHTS: said}
    files = {os.path.join(path, os.path.basename(name)): sha for name, sha in listed.items()}
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not os.path.isfile(file):
            raise UserError(f"{file}: missing, {MANIFEST} lists {count_of(len(files), 'file')} of"
                            " weights; put it back or convert it again")  # fmt: skip
        tensors |= read_safetensors(file)
    with ThreadPoolExecutor(len(files)) as pool:  # hashing lets other threads run
        for file, found in zip(files, pool.map(digest, files), strict=True):
            if found != files[file]:
                raise UserError(f"{file}: damaged, or a file of another model: {_ANOTHER}")
    return tensors


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes JSON and flushes it to disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def digest(path: str) -> str:
    """sha256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
