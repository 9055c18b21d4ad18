"""A folder of pictures: `NAME.png` with `NAME.txt` beside it, or one sub-folder per class.

The file exists because this is how people keep their own pictures, and how most data sets are
unpacked. Which files count is the rule of `walk`; what they make is stated by a prefix of the path
(`captions:DIR`, `classes:DIR`, `pictures:DIR`) or judged here, said in a line, and refused where
it is not clear.
"""

import bisect
import copy
import glob
import os
import re
from collections.abc import Iterable

import numpy as np

from vlp_jax.core.errors import RunError, UserError, printable
from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.encoding import decode_json, decode_text
from vlp_jax.data.source import Example, Members, Source, captions_of, digest, stamp_of
from vlp_jax.data.subset import Subset
from vlp_jax.data.walk import IMAGE_SUFFIXES, TEXT_SUFFIXES, Listing, tell, told, walk

MAX_BYTES = 64 * 2**20
_MOST = 0.5  # share of pictures with a text of their name from which a folder is a captioned one
_STRAY = 0.05  # share up to which such texts are strays (a README beside a logo); between: unclear
_SPLITS = re.compile(r"(train(ing)?|val(id|idation)?|dev|test(ing)?)\d*", re.IGNORECASE)


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


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _suffixes(base: str) -> list[str]:
    """Of the files that have a picture's name, without pictures and texts; one dot each."""
    found = sorted(path[len(base) + 1 :] for path in glob.glob(f"{glob.escape(base)}.*"))
    known = {*IMAGE_SUFFIXES, *TEXT_SUFFIXES}
    return [suffix for suffix in found if "." not in suffix and suffix.lower() not in known]


def _further(listing: Listing) -> dict[str, list[str]]:
    """Takes out of a listing the pictures that belong to a captioned one by its name, as
    `NAME.edge.png` to `NAME.png` and `NAME.txt`; returns {NAME: ["edge.png"]}."""
    captioned = {stem for stem in map(_stem, listing.pictures) if stem in listing.texts}
    found: dict[str, list[str]] = {}
    for name in list(listing.pictures):
        stem, part, _ = _stem(name).rpartition(".")
        if part and stem in captioned and _stem(name) not in captioned:
            del listing.pictures[name]
            found.setdefault(stem, []).append(name[len(stem) + 1 :])
    listing.left_out["further pictures of the same"] += sum(map(len, found.values()))
    return found


def _branches(names: Iterable[str]) -> list[str]:
    """The first sub-folders of relative names, sorted."""
    return sorted({name.partition("/")[0] for name in names if "/" in name})


def _judged(listing: Listing) -> str:
    """What a folder is whose path does not say it. Raises UserError where that is unclear."""
    names, root = listing.pictures, listing.root
    captioned = [name for name in names if _stem(name) in listing.texts]
    inside = sum("/" in name for name in names)
    kind = "classes" if 2 * inside >= len(names) else "pictures"
    if len(captioned) >= _MOST * len(names):
        kind = "captions"
    elif len(captioned) > _STRAY * len(names):
        raise UserError(
            f"{root!r}: {len(captioned)} of {len(names)} pictures have a text of their name, such "
            f"as {printable(captioned[0])!r}: give captions:{root} for those alone, classes:{root} "
            f"for the names of sub-folders or pictures:{root} for neither"
        )
    folders = _branches(names)
    parts = [name for name in folders if _SPLITS.fullmatch(name)]
    if len(parts) > 1 or (kind == "classes" and folders == parts):
        paths = " or ".join(os.path.join(root, name) for name in parts)
        raise UserError(
            f"{root!r} holds the parts of a data set: give {paths} ({kind}:{root} takes it whole)"
        )
    return kind


def _check_any(listing: Listing) -> None:
    """Raises where no picture can be read: RunError for damage, UserError where there was none."""
    if listing.pictures:
        return
    if listing.lost:
        first = listing.damage[0]
        raise RunError(f"no picture left in {listing.root!r}: {first.where}: {first.reason}")
    held = told(listing.left_out)
    raise UserError(
        f"no pictures in {listing.root!r} (looked for .png, .jpg, .webp and others below it)"
        + (f"; it holds {held}" if held else "")
    )


class FolderSource:
    """Pictures below `root`, recursively, in the order of their names.

    kind 'captions': a picture's captions are in the `.txt` or `.json` of its name, and pictures
    without either are damage, but for further ones of the same sample (`NAME.edge.png`).
    'classes': the first sub-folder's name is the class: `meta['label']` is its rank among the
    sorted class names, `meta['class']` the name and, where there are several, the caption the name
    with '_' and '-' as spaces; pictures outside are damage. 'pictures': they alone. '': captions
    where at least half of the pictures have them, refused where fewer do but not just strays; else
    classes where half of the pictures are in sub-folders. `notes` say what was taken and what was
    left out.

    Raises:
      UserError: no pictures, unclear, or the parts of a data set (train, test) side by side.
      RunError: damage left no picture.
    """

    def __init__(self, root: str, kind: str = ""):
        self.root = root
        listing = walk(root)
        _check_any(listing)
        self._further = _further(listing) if kind in ("", "captions") else {}
        self.kind = kind or _judged(listing)
        self.damage: list[Damage] = listing.damage
        self._texts = listing.texts if self.kind == "captions" else {}
        self._names = self._taken(listing)
        self._folders = _branches((*listing.pictures, *listing.lost))
        if self.kind == "classes":
            self.classes = [printable(name) for name in self._folders]
            listing.left_out["empty folders"] += len(set(listing.branches) - set(self._folders))
        self._texts = {stem: self._texts[stem] for stem in map(_stem, self._names) if self._texts}
        for stem in listing.texts.keys() - self._texts.keys():
            listing.left_out.update(f".{suffix.lower()}" for suffix in listing.texts[stem])
        self.notes = (self._note(listing),)
        tell(self.notes[0])
        self._bytes = listing.pictures
        self.fingerprint = self._digest()

    def _digest(self) -> str:
        return digest(f"{n}\0{self._bytes[n]}" for n in self._names)

    def all_pictures(self) -> "FolderSource":
        """The same folder with those of its pictures that have no caption or no class, as samples
        without one."""
        alone = len(self._bytes) - len(self._names)
        if not alone:
            return self
        found = copy.copy(self)
        lack = {"captions": "no_caption", "classes": "no_class"}[self.kind]
        found.damage = [damage for damage in self.damage if damage.reason != lack]
        found._names = list(self._bytes)
        words = {"no_caption": "a text of its name", "no_class": "a sub-folder"}[lack]
        found.notes = (*self.notes, f"{printable(self.root)}: and {alone} without {words}")
        tell(found.notes[-1])
        found.fingerprint = found._digest()
        return found

    def _taken(self, listing: Listing) -> list[str]:
        """The pictures of this kind of folder; the others are damage."""
        names = list(listing.pictures)
        if self.kind == "pictures":
            return names
        captions = self.kind == "captions"
        fits = {n: _stem(n) in listing.texts if captions else "/" in n for n in names}
        if not any(fits.values()):
            lack = "a text of its name" if captions else "a sub-folder"
            raise UserError(f"{self.kind}:{self.root}: none of {len(names)} pictures has {lack}")
        reason = "no_caption" if captions else "no_class"
        self.damage += [Damage(reason, self._place(n)) for n in sorted(names) if not fits[n]]
        return [name for name in names if fits[name]]

    def _note(self, listing: Listing) -> str:
        what = {
            "captions": "with captions in texts of their names",
            "classes": f"in {len(self._folders)} class folders",
            "pictures": "without captions",
        }[self.kind]
        left = told(listing.left_out)
        line = f"{printable(self.root)}: {len(self._names)} pictures {what}"
        return line + (f"; left out: {left}" if left else "")

    def _place(self, name: str) -> str:
        return printable(os.path.join(self.root, name))

    def __len__(self) -> int:
        return len(self._names)

    @property
    def stamp(self) -> str:
        """Changes with any caption or metadata file, which the fingerprint does not cover: digest
        of their sizes and times of change. '' without captions."""
        named = [(stem, suffix) for stem, found in self._texts.items() for suffix in found]
        files = [os.path.join(self.root, f"{stem}.{suffix}") for stem, suffix in named]
        return digest(map(stamp_of, files)) if files else ""

    @property
    def pictures_stamp(self) -> str:
        """Changes with the times of change of the pictures; see `source.pictures_stamp`."""
        return digest(stamp_of(os.path.join(self.root, name)) for name in self._names)

    def where(self, i: int) -> str:
        return self._place(self._names[i])

    def metadata(self, i: int) -> Example:
        """Key, captions and meta of sample i, without its picture; members: files of its name."""
        name, where = self._names[i], self.where(i)
        stem = _stem(name)
        base = os.path.join(self.root, stem)

        def member(suffix: str) -> bytes | None:
            path = f"{base}.{suffix}"
            return read_bounded(path, where) if os.path.isfile(path) else None

        members = Members(member, lambda: [*_suffixes(base), *self._further.get(stem, ())])
        example: Example = {"key": printable(stem), "text": [], "meta": {}, "members": members}
        if self.kind == "classes" and "/" in name:
            rank = bisect.bisect_left(self._folders, name.partition("/")[0])
            title = self.classes[rank]
            spoken = [title.replace("_", " ").replace("-", " ")] if len(self.classes) > 1 else []
            return {**example, "text": spoken, "meta": {"class": title, "label": rank}}
        beside = {suffix.lower(): f"{base}.{suffix}" for suffix in self._texts.get(stem, ())}
        meta = decode_json(read_bounded(beside["json"], where), where) if "json" in beside else {}
        text = decode_text(read_bounded(beside["txt"], where), where) if "txt" in beside else None
        return {**example, "text": captions_of(text, meta), "meta": meta}

    def __getitem__(self, i: int) -> Example:
        path = os.path.join(self.root, self._names[i])
        return {**self.metadata(i), "image": read_bounded(path, self.where(i))}


def in_order(source: Source) -> Source:
    """The source itself; of a folder all pictures, with captions or without, in the order of their
    paths."""
    if not isinstance(source, FolderSource):
        return source
    source = source.all_pictures()
    return Subset(source, np.array(sorted(range(len(source)), key=source.where), np.int64))
