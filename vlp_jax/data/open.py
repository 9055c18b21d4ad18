"""Opens a data source by what its path names.

The file exists so that every kind of source is found by one rule and knows none of the others.
"""

import os
from typing import Any

from vlp_jax.core.errors import UserError, printable
from vlp_jax.data.annotations import split_path
from vlp_jax.data.cache import CacheSource, is_cache
from vlp_jax.data.caption_list import list_in
from vlp_jax.data.source import FOLDER_KINDS, TABLE_SUFFIXES, Source
from vlp_jax.data.walk import IMAGE_SUFFIXES, suffix_of, tell, unwanted


def _builtin(name: str) -> str:
    folder = os.path.join(os.path.dirname(__file__), *name.split("/")[:-1])
    stem = name.rsplit("/", 1)[-1]
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if ".." in name or not any(n.startswith(stem) and n.endswith(".tar") for n in names):
        known = sorted({n.rsplit("-", 1)[0] for n in names if n.endswith(".tar")})
        raise UserError(
            f"no embedded data set 'builtin:{name}'; known: {', '.join(known) or 'none'}"
        )
    return os.path.join(folder, stem + "*.tar")


def _open_folder(path: str, options: dict) -> Source:
    if is_cache(path):
        return CacheSource(path, open_source)
    captions = list_in(path)
    if captions:
        from vlp_jax.data.table import TableSource

        return TableSource(captions)
    try:
        names = [name for name in os.listdir(path) if not unwanted(name)]
    except OSError as error:
        raise UserError(f"cannot read folder {path!r}: {error.strerror}") from error
    files = [name for name in names if os.path.isfile(os.path.join(path, name))]
    tars = [name for name in files if suffix_of(name) == "tar"]
    if tars:
        return _open_tars(path, tars, files, options)
    if any(name.endswith(".array_record") or ".array_record-" in name for name in files):
        from vlp_jax.data.array_record import ArrayRecordSource

        return ArrayRecordSource(path, **options)
    from vlp_jax.data.folder import FolderSource

    return FolderSource(path, **options)


def _open_tars(path: str, tars: list[str], files: list[str], options: dict) -> Source:
    from vlp_jax.data.tar import TarSource

    lower = all(name.endswith(".tar") for name in tars)
    source = TarSource(os.path.join(path, "*.tar" if lower else "*.[tT][aA][rR]"), **options)
    beside = sum(suffix_of(name) in IMAGE_SUFFIXES for name in files)
    if beside:
        line = f"{printable(path)}: read as tars; left out: {beside} pictures beside them"
        tell(line)
        source.notes = (*source.notes, line)
    return source


def _open_kind(kind: str, folder: str, options: dict) -> Source:
    from vlp_jax.data.folder import FolderSource

    if not os.path.isdir(folder):
        raise UserError(f"{kind}:{folder}: no such folder")
    return FolderSource(folder, kind=kind, **options)


def open_source(path: str, **options: Any) -> Source:
    """Opens what `path` names, by its form.

    Tar file, glob of tars, folder of tars, bounded brace range `x-{0000..0012}.tar`, remote tar
    URL; folder of pictures, its kind stated (`captions:DIR`, `classes:DIR`, `pictures:DIR`) or
    judged; `.csv`, `.tsv`, `.jsonl`; a caption or question set's `.json[:SPLIT]`; `*.array_record`;
    `tfds:NAME[:SPLIT]`; `builtin:emoji/NAME`.
    What exists as it is written is no pattern. Raises UserError, naming the path, where it is
    missing, empty or of no known form.
    """
    if not isinstance(path, str) or not path.strip():
        raise UserError(
            "data.path is empty; give a tar pattern, a folder, a table or builtin:emoji/noto-train"
        )
    path = path.strip()
    if path.startswith("pipe:"):
        raise UserError(
            f"{path!r}: pipe: sources run shell commands and are not supported; give a path or URL"
        )
    if path.startswith("tfds:"):
        from vlp_jax.data.tfds import TfdsSource

        return TfdsSource(path, **options)
    if path.startswith("builtin:"):
        path = _builtin(path.removeprefix("builtin:"))
    path = os.path.expanduser(path)
    kind, _, folder = path.partition(":")
    if kind in FOLDER_KINDS and not os.path.exists(path):
        return _open_kind(kind, os.path.expanduser(folder), options)
    if os.path.isdir(path):
        return _open_folder(path, options)
    if path.lower().endswith(TABLE_SUFFIXES) or split_path(path)[0]:
        from vlp_jax.data.table import TableSource

        return TableSource(path, **options)
    if ".array_record" in os.path.basename(path):
        from vlp_jax.data.array_record import ArrayRecordSource

        return ArrayRecordSource(path, **options)
    if ".tar" in os.path.basename(path).lower():
        from vlp_jax.data.tar import TarSource

        return TarSource(path, **options)
    if os.path.exists(path):
        raise UserError(
            f"{path!r} is no data set: expected .tar, .csv, .tsv, .jsonl, .array_record or a folder"
        )
    raise UserError(f"no such file or folder: {path!r}")
