"""A folder of pictures: `NAME.png` with `NAME.txt` beside it, or one sub-folder per class.

The file exists because this is how people keep their own pictures, and how most data sets are
unpacked.
"""

import os

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.encoding import decode_json, decode_text
from vlp_jax.data.source import IMAGE_SUFFIXES, Example, captions_of, digest, stamp_of

MAX_BYTES = 64 * 2**20


def read_bounded(path: str, where: str) -> bytes:
    """The content of `path`; raises DamagedSample when missing, not a plain file or above 64
    MiB."""
    try:
        if not os.path.isfile(path):
            raise DamagedSample("missing_file", where)
        if os.path.getsize(path) > MAX_BYTES:
            raise DamagedSample("too_large", where)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DamagedSample("unreadable_file", where) from error


def _scan(root: str) -> dict[str, str]:
    """All files below root, sorted: relative name -> absolute path; hidden ones are left out."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                path = os.path.join(folder, name)
                found[os.path.relpath(path, root).replace(os.sep, "/")] = path
    return found


class FolderSource:
    """Pictures below `root`, recursively, in the order of their names.

    With any `.txt` or `.json` beside a picture the folder is a captioned one and pictures without
    either are counted as damage. Without any, the first sub-folder's name is the class:
    `meta['label']` is its rank among the sorted class names, `meta['class']` the name, and the
    caption is the name with '_' and '-' as spaces. A flat folder is pictures alone.
    """

    def __init__(self, root: str):
        self.root = root
        files = _scan(root)
        images = [
            name
            for name in files
            if name.rsplit(".", 1)[-1].lower() in IMAGE_SUFFIXES and "." in name
        ]
        if not images:
            raise UserError(
                f"no pictures in {root!r} (looked for .png, .jpg, .jpeg, .webp below it)"
            )
        stems = {name: name.rsplit(".", 1)[0] for name in images}
        self.captioned = any(s + ".txt" in files or s + ".json" in files for s in stems.values())
        self.damage: list[Damage] = []
        if self.captioned:
            self._names = [
                n for n in images if stems[n] + ".txt" in files or stems[n] + ".json" in files
            ]
            left = sorted(set(images) - set(self._names))
            self.damage += [Damage("no_caption", os.path.join(root, name)) for name in left]
        else:
            self._names = self._class_names(images)
        self.fingerprint = digest(f"{n}\0{os.path.getsize(files[n])}" for n in self._names)

    def _class_names(self, images: list[str]) -> list[str]:
        names = [name for name in images if "/" in name]
        if not names:
            return images
        self.classes = sorted({name.split("/", 1)[0] for name in names})
        self.damage += [
            Damage("no_class", os.path.join(self.root, n)) for n in images if "/" not in n
        ]
        return names

    def __len__(self) -> int:
        return len(self._names)

    @property
    def stamp(self) -> str:
        """Changes with any caption or metadata file, which the fingerprint does not cover: digest
        of their sizes and times of change. '' without captions."""
        stems = (name.rsplit(".", 1)[0] for name in self._names if self.captioned)
        files = [os.path.join(self.root, s + suffix) for s in stems for suffix in (".txt", ".json")]
        return digest(map(stamp_of, files)) if files else ""

    def where(self, i: int) -> str:
        return os.path.join(self.root, self._names[i])

    def metadata(self, i: int) -> Example:
        """Key, captions and meta of sample i, without its picture."""
        name, where = self._names[i], self.where(i)
        stem = name.rsplit(".", 1)[0]
        if not self.captioned:
            folder, inside, _ = name.partition("/")
            if not inside:
                return {"key": stem, "text": [], "meta": {}}
            meta = {"class": folder, "label": self.classes.index(folder)}
            return {"key": stem, "text": [folder.replace("_", " ").replace("-", " ")], "meta": meta}
        base = os.path.join(self.root, stem)
        meta = (
            decode_json(read_bounded(base + ".json", where), where)
            if os.path.exists(base + ".json")
            else {}
        )
        text = None
        if os.path.exists(base + ".txt"):
            text = decode_text(read_bounded(base + ".txt", where), where)
        return {"key": stem, "text": captions_of(text, meta), "meta": meta}

    def __getitem__(self, i: int) -> Example:
        return {**self.metadata(i), "image": read_bounded(self.where(i), self.where(i))}
