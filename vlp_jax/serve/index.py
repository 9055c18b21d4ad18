"""An index folder: vectors, metadata and thumbnails of the same rows, opened without reading them.

    manifest.json                what it was made of: model, preprocessing, data, every file
    img_emb/img_emb_0000.npy     float16[n, E], unit vectors of pictures, in parts
    text_emb/text_emb_0000.npy   the same rows' captions; zeros where a picture has none
    metadata/metadata_0000.parquet   key, caption, path, width, height and the data's own columns
    thumbnails/thumbnails_0000.tar   NUMBER.jpg of every row
    image.index, text.index      faiss, on request

The layout is that of clip-retrieval (github.com/rom1504/clip-retrieval), whose folders open as they
are. The file exists so that the parts of an index cannot drift apart unnoticed.
"""

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import shrink
from vlp_jax.data.folder import read_bounded
from vlp_jax.data.staging import MANIFEST, PLAN, building, check_files, manifest_of
from vlp_jax.data.walk import tell
from vlp_jax.serve.ann import reconstructed
from vlp_jax.serve.metadata import Metadata
from vlp_jax.serve.sample import to_jpeg
from vlp_jax.serve.vectors import Vectors, check_ids, numbered, part_numbers

FORMAT = 1
FOLDERS = {"image": "img_emb", "text": "text_emb"}
ANN = {"image": "image.index", "text": "text.index"}
PLACES, SIDE = ("image_path", "path"), 256
METADATA, THUMBNAILS = "metadata", "thumbnails"


class Index:
    """Rows of pictures.

    Attributes:
      folder: where it lies.
      manifest: what `index` wrote; {} of clip-retrieval's folders.
      sides: {'image', and 'text' where captions were embedded too: Vectors}.
      table: their metadata.
    """

    def __init__(self, folder: str, manifest: Mapping[str, Any], sides: Mapping[str, Vectors]):
        self.folder, self.manifest, self.sides = folder, manifest, dict(sides)
        self.table = Metadata(os.path.join(folder, METADATA))
        self._check()

    @classmethod
    def open(cls, folder: str) -> "Index":
        """Opens a folder that `index` wrote, or one of clip-retrieval.

        Raises:
          UserError: no such folder, no index or an unfinished one, an empty one, a file that is
            missing or not the one that the manifest describes, metadata of fewer rows than vectors.
        """
        folder = os.fspath(folder)
        if not os.path.isdir(folder):
            raise UserError(f"--index={folder}: {_unfinished(folder) or 'no such folder'}")
        manifest = read_manifest(folder)
        if manifest:
            check_files(folder, manifest["files"])
            _check_listed(folder, manifest["files"])
        sides = {side: _vectors(folder, side) for side in FOLDERS}
        return cls(folder, manifest, {side: found for side, found in sides.items() if found.parts})

    def _check(self) -> None:
        if not self.sides:
            what = f"neither {MANIFEST} nor {FOLDERS['image']}/*.npy"
            raise UserError(f"--index={self.folder}: holds no index ({what})")
        if not self.rows:
            raise UserError(f"--index={self.folder}: is empty; make it again with `index`")
        for side, vectors in self.sides.items():
            if (len(self.table), self.width) != (vectors.rows, vectors.width):
                rows = f"{vectors.rows} {side} vectors of {vectors.width} numbers"
                many = f"{len(self.table)} rows of metadata, width {self.width}"
                raise UserError(f"--index={self.folder}: {rows} but {many}; make it again")
            self._check_parts(side, vectors)
        for what, found in (("rows", self.rows), ("dim", self.width)):
            if self.manifest.get(what, found) != found:
                says = f"the manifest says {what} {self.manifest[what]}, the vectors {found}"
                raise UserError(f"--index={self.folder}: {says}; make it again")

    def _check_parts(self, side: str, vectors: Vectors) -> None:
        """Raises UserError where parts that are numbered on both sides do not belong together."""
        numbers, others = part_numbers(vectors.files), part_numbers(self.table.files)
        if numbers is None or others is None:
            return
        if odd := sorted(set(numbers) ^ set(others)):
            here, there = FOLDERS[side], METADATA
            has, lacks = (here, there) if odd[0] in numbers else (there, here)
            number = ".".join(map(str, odd[0]))
            raise UserError(f"--index={self.folder}: {has} has a part {number}, {lacks} has none")
        for file, part, rows in zip(
            vectors.files, vectors.parts, self.table.file_rows, strict=True
        ):
            if len(part) != rows:
                raise UserError(
                    f"{file}: {len(part)} vectors, the metadata of its part {rows} rows"
                )

    @property
    def rows(self) -> int:
        return next(iter(self.sides.values())).rows

    @property
    def width(self) -> int:
        """E, numbers of a vector."""
        return next(iter(self.sides.values())).width

    @property
    def modalities(self) -> list[str]:
        """'image', and 'text' where captions can be searched."""
        return list(self.sides)

    @property
    def columns(self) -> list[str]:
        """Names of the metadata."""
        return self.table.columns

    def vectors(self, ids: Iterable[int], modality: str = "image") -> np.ndarray:
        """float32[m, E] of rows by number, of unit norm again after their rounding to float16.

        Raises:
          UserError: an id that is no row, or no such modality.
        """
        return self.side(modality).take(np.asarray(list(ids), np.int64))

    def side(self, modality: str) -> Vectors:
        """The vectors of 'image' or 'text'. Raises UserError where the index has none."""
        if modality not in self.sides:
            has = ", ".join(self.modalities)
            raise UserError(f"--index={self.folder}: holds no {modality!r} vectors, only {has}")
        return self.sides[modality]

    def ann_path(self, modality: str) -> str | None:
        """The faiss index of 'image' or 'text'; None where there is none that belongs to it."""
        path = os.path.join(self.folder, ANN[modality])
        known = not self.manifest or ANN[modality] in self.manifest["files"]
        return path if known and os.path.isfile(path) else None

    def metadata(
        self, ids: Iterable[int], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """One {column: value} per id, in their order; columns that are not there are left out.

        Raises:
          UserError: an id that is no row.
        """
        return self.table.take(ids, columns)

    def thumbnail(self, row: int) -> bytes | None:
        """JPEG of a row's picture, at most 256 pixels a side; without thumbnails of the file that
        its metadata names. None where there is neither.

        Raises:
          UserError: no such row.
        """
        row = int(check_ids(np.array([row]), self.rows)[0])
        try:
            if self._thumbnails is not None:
                return self._thumbnails[row].get("image")
            said = self.metadata([row], PLACES)[0]
            path = next((p for p in map(said.get, PLACES) if p and os.path.isfile(p)), "")
            return to_jpeg(shrink(read_bounded(path, path), SIDE)[0]) if path else None
        except DamagedSample:
            return None

    @functools.cached_property
    def _thumbnails(self) -> Any:
        from vlp_jax.data.tar import TarSource

        folder = os.path.join(self.folder, THUMBNAILS)
        tars = numbered(folder, ".tar")
        if not tars:
            return None
        found = TarSource(folder, paths=tars)
        many, parts = [len(index) for _, index in found.shards], self.table.file_rows
        if sum(many) == self.rows and (len(many) != len(parts) or many == parts):
            return found
        tell(f"{folder}: not shown, {sum(many)} thumbnails in {len(tars)} tars are not its rows")
        return None


def _unfinished(folder: str) -> str:
    """What is to be done where an index is unfinished; '' where none was begun."""
    place = building(folder)
    try:
        with open(os.path.join(place, PLAN), encoding="utf-8") as file:
            command = json.load(file)["command"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        command = "its `index`"
    return f"is not finished ({place}); go on with: {command}"


def _check_listed(folder: str, files: Mapping[str, Any]) -> None:
    """Raises UserError naming a file that would be taken for a part and is not of the manifest."""
    kinds = {**dict.fromkeys(FOLDERS.values(), ".npy"), METADATA: ".parquet", THUMBNAILS: ".tar"}
    for kind, suffix in kinds.items():
        for path in numbered(os.path.join(folder, kind), suffix):
            if f"{kind}/{os.path.basename(path)}" not in files:
                raise UserError(f"{path}: the manifest does not name it; move it away")


def _vectors(folder: str, side: str) -> Vectors:
    """Of the files, or of the faiss index that clip-retrieval leaves alone beside the metadata."""
    found = Vectors.open(os.path.join(folder, FOLDERS[side]))
    path = os.path.join(folder, ANN[side])
    return found if found.parts or not os.path.isfile(path) else reconstructed(path)


def read_manifest(folder: str) -> dict[str, Any]:
    """What manifest.json says; {} where there is none.

    Raises:
      UserError: it is damaged, of another format or of something else.
    """
    found = manifest_of(folder, "index", FORMAT)
    said, plan = found.get("checkpoint", {}), found.get("plan", {})
    right = {
        "plan": isinstance(plan.get("digests", {}), dict),
        "checkpoint": isinstance(said, dict)
        and (not said or all(isinstance(said.get(key), str) for key in ("path", "beside"))),
    }
    if wrong := next((key for key in right if not right[key]), ""):
        path = os.path.join(folder, MANIFEST)
        raise UserError(f"{path}: damaged ({wrong}); make the index again")
    return found
