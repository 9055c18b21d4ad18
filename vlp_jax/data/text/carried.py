"""Tokenizers' files that a run's folder carries, so that what it trained is read where it is moved.

Each lies in a folder named by its content and is never changed; the run's record names those of its
texts. Built-in tokenizers have no files. The file exists so that a workdir alone can embed and
write.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlp_jax.core.errors import UserError
from vlp_jax.data.text.vocab_txt import is_vocabulary
from vlp_jax.data.whole import write_whole

BUILT_IN = ("clip", "bytes")
FOLDER = "tokenizers"
_BESIDE = "tokenizer_config.json"  # names ends, padding and case


class Carried(NamedTuple):
    """The files of a tokenizer.

    Attributes:
      name: as load_tokenizer takes it, from the run's folder on.
      files: {path below the run's folder: content}.
    """

    name: str
    files: dict[str, bytes]


def carried(name: str) -> Carried | None:
    """What a tokenizer reads, by its name; None of a built-in one. Raises OSError."""
    if name in BUILT_IN:
        return None
    path, spm = os.path.expanduser(name.removeprefix("spm:")), name.startswith("spm:")
    own = "tokenizer.model" if spm else "vocab.txt" if is_vocabulary(path) else "tokenizer.json"
    file = os.path.join(path, own) if os.path.isdir(path) else path
    beside = os.path.join(os.path.dirname(file), _BESIDE)
    found = {own: Path(file).read_bytes()}
    if not spm and os.path.isfile(beside):
        found[_BESIDE] = Path(beside).read_bytes()
    digest = hashlib.blake2b(digest_size=6)
    for each, content in found.items():
        digest.update(f"{each} {len(content)} ".encode() + content)
    place = f"{FOLDER}/{digest.hexdigest()}"
    files = {f"{place}/{each}": content for each, content in found.items()}
    return Carried(f"{'spm:' if spm else ''}{place}/{own}", files)


def carry(folder: str | os.PathLike, those: Mapping[str, Carried]) -> None:
    """Writes the files that are not there, each whole. Raises OSError."""
    for one in those.values():
        for file, content in one.files.items():
            path = os.path.join(folder, file)
            if not os.path.isfile(path):
                write_whole(path, lambda part, data=content: Path(part).write_bytes(data))


def found_in(folder: str, names: Mapping[str, Any]) -> dict[str, str]:
    """{field: name of its tokenizer} of those that a record names and that are there. Raises
    UserError: as `check_same`."""
    found = {}
    for field, name in names.items():
        path = os.path.join(folder, name.removeprefix("spm:"))
        if os.path.isfile(path):
            found[field] = f"spm:{path}" if name.startswith("spm:") else path
            check_same(found[field], name, "changed since")
    return found


def check_same(path: str, name: str, why: str) -> None:
    """Raises UserError where a tokenizer has other files than a record names; one that is not there
    is told where it is opened. why: it may have."""
    with contextlib.suppress(OSError):
        found = carried(path)
        if found is None or found.name != name:
            said = f"is not the tokenizer that this run was trained with ({why})"
            raise UserError(f"{path}: {said}; put back what {name.removeprefix('spm:')} held")
