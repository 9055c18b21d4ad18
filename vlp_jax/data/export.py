"""Any source to WebDataset tars or ArrayRecord files.

The file exists so that a folder, a table or a TFDS set becomes shards that stream well from
anywhere.
"""

import io
import itertools
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.array_record import write_array_record
from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.index import open_index
from vlp_jax.data.source import Example

_MAGIC = {
    **{b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"},
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tif"),
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), "ppm"),
}


def suffix_of(data: bytes) -> str:
    """The file suffix of an encoded picture. Raises DamagedSample for an unknown kind."""
    for magic, suffix in _MAGIC.items():
        if data.startswith(magic):
            return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise DamagedSample("unknown_format")


def samples(source: Any, damage: list[Damage]) -> Iterator[Example]:
    """Sound samples in order, under running numbers as keys; the old key moves to meta['key']."""
    for i in range(len(source)):
        try:
            example = source[i]
            suffix_of(example.get("image", b""))
            members = dict(example.get("members", {}))
        except DamagedSample as found:
            damage.append(Damage(found.reason, found.where or source.where(i)))
            continue
        meta = {**example["meta"], "key": example["key"]}
        yield {**example, "key": f"{i:09d}", "meta": meta, "members": members}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # its zero time and owner keep the bytes reproducible
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_tar(path: str, examples: Iterable[Example]) -> int:
    """One shard with KEY.jpg (or its kind), KEY.txt (first caption), KEY.json and further members;
    returns its samples."""
    count = 0
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for example in examples:
            key, meta = example["key"], example["meta"]
            if len(example["text"]) > 1:
                meta = {**meta, "captions": example["text"]}
            _add(tar, f"{key}.{suffix_of(example['image'])}", example["image"])
            if example["text"]:
                _add(tar, f"{key}.txt", example["text"][0].encode("utf-8", "replace"))
            _add(tar, f"{key}.json", json.dumps(meta, ensure_ascii=True).encode())
            for name, data in example.get("members", {}).items():
                _add(tar, f"{key}.{name}", data)
            count += 1
    return count


def export(source: Any, folder: str, form: str = "tar", per_shard: int = 10_000) -> dict[str, Any]:
    """Writes all sound samples of a source below `folder` as '00000.tar' (with index) and so on.

    form: 'tar' or 'array_record'. Returns samples, shards and damage as counts by reason. Raises
    UserError where the folder is not empty, RunError when it cannot be written.
    """
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise UserError(f"{folder!r} is not an empty folder")
    os.makedirs(folder, exist_ok=True)
    damage: list[Damage] = list(source.damage)
    paths, written, stream = [], 0, samples(source, damage)
    write = write_tar if form == "tar" else write_array_record
    try:
        for first in stream:  # one sample ahead, so that no empty shard is begun
            path = os.path.join(folder, f"{len(paths):05d}.{form}")
            rest = itertools.islice(stream, per_shard - 1)
            written += write(path + ".part", itertools.chain([first], rest))
            os.replace(path + ".part", path)
            if form == "tar":
                open_index(path)
            paths.append(path)
    except OSError as error:
        raise RunError(f"cannot write {folder!r}: {error}") from error
    counts = dict(Counter(d.reason for d in damage))
    return {"samples": written, "shards": paths, "damaged": counts}
