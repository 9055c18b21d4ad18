"""Which files below a folder are data: one rule for training, evaluation, `embed` and `data check`.

Folders come from other people's machines, with thumbnails of file managers, links, names in
capitals and files that cannot be opened. The file exists so that each of them is read, counted in
`Listing.left_out` or listed in `Listing.lost`, and no command sees other pictures than the next.

Rule: names that begin with a dot and those that systems leave behind (`@eaDir`, `__MACOSX`,
`Thumbs.db`, ...) are left out, with all that is below them. Links are followed, to files and to
folders; below one sub-folder of the root no folder is entered twice, so a link to a folder above
ends there. Suffixes count in any case. What has a picture's name and is no plain file (a dangling
link, a pipe) is lost, and so is a folder that cannot be read.
"""

import functools
import logging
import os
import stat
from collections import Counter
from dataclasses import dataclass, field

from vlp_jax.core.errors import UserError, printable
from vlp_jax.data.damage import Damage

_log = logging.getLogger(__name__)
# What data/decode.py reads; no pfm: it holds depth maps and flow, which are no pictures.
_JPEG = {"jpg", "jpeg", "jpe", "jfif", "mpo"}
IMAGE_SUFFIXES = frozenset(
    {"png", "apng", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"} | _JPEG
)
TEXT_SUFFIXES = ("txt", "json")
_SYSTEM = frozenset(
    {"__macosx", "temporary items", "network trash folder", "icon\r"}  # macOS
    | {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"}  # Synology, QNAP
    | {"$recycle.bin", "recycler", "system volume information"}  # Windows
    | {"thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found", "__pycache__"}
    | {"contact_sheet.png"}  # of all pictures that `sample` drew into a folder
)
_SHOWN = 8  # kinds of left-out files that a line names
_LONGEST = 8  # letters of a suffix that is shown as one


def suffix_of(name: str) -> str:
    """Lower-case suffix of a file's name without its dot; '' where it has none.

    >>> suffix_of("my.cat.JPG")
    'jpg'
    """
    stem, _, suffix = name.rpartition(".")
    return suffix.lower() if stem else ""


def kind_of(name: str) -> str:
    """How a file that is no data is counted: by its suffix."""
    suffix = suffix_of(name)
    return f".{printable(suffix)}" if 0 < len(suffix) <= _LONGEST else "other files"


def unwanted(name: str) -> str:
    """Why a file or folder of this name is no data: 'hidden', its own name where a system left it
    behind, or ''."""
    if name.startswith("."):
        return "hidden"
    return printable(name) if name.lower() in _SYSTEM else ""


def told(counts: Counter) -> str:
    """Counts for people, the largest first: `.csv 3, hidden 2, @eaDir 1`; '' without any."""
    ranked = sorted((+counts).items(), key=lambda item: (-item[1], item[0]))
    words = [f"{word} {count}" for word, count in ranked]
    return ", ".join(words[:_SHOWN]) + (", ..." if len(words) > _SHOWN else "")


@functools.cache
def tell(line: str) -> None:
    """Logs a line once, however often a process opens the same data."""
    _log.info("%s", line)


@dataclass
class Listing:
    """What a walk found below `root`; names are relative to it, with '/'.

    pictures: name -> bytes, each folder's own first, in the order of names. texts: a name without
    suffix -> the suffixes of texts that have it, as they are spelled. left_out: counts of what is
    no data, by a word. lost: name -> reason of what should be data and cannot be read; a folder's
    name ends with '/'. branches: the sub-folders of the root itself.
    """

    root: str
    pictures: dict[str, int] = field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Counter = field(default_factory=Counter)
    lost: dict[str, str] = field(default_factory=dict)
    branches: list[str] = field(default_factory=list)

    def path(self, name: str) -> str:
        """Where a name of the listing lies."""
        return os.path.join(self.root, name)

    @property
    def damage(self) -> list[Damage]:
        """What is lost, as damage."""
        return [Damage(reason, printable(self.path(name))) for name, reason in self.lost.items()]


class _Walk:
    """Fills one Listing; knows which folders were entered below each branch."""

    def __init__(self, root: str):
        self.found = Listing(root)
        self._entered: dict[str, set[tuple[int, int]]] = {}

    def run(self) -> Listing:
        root = self.found.root
        for folder, folders, names in os.walk(root, onerror=self._failed, followlinks=True):
            inside = self._inside(folder)
            folders[:] = [name for name in sorted(folders) if self._enters(inside, name)]
            for name in sorted(names):
                self._add(inside, name)
        return self.found

    def _inside(self, folder: str) -> str:
        name = os.path.relpath(folder, self.found.root).replace(os.sep, "/")
        return "" if name == "." else name + "/"

    def _failed(self, error: OSError) -> None:
        inside = self._inside(error.filename)
        if not inside:
            raise UserError(f"cannot read folder {self.found.root!r}: {error.strerror}") from error
        self.found.lost[inside] = "unreadable_folder"

    def _enters(self, inside: str, name: str) -> bool:
        reason = unwanted(name)
        if not reason:
            branch = (inside + name).partition("/")[0]
            entered = self._entered.setdefault(branch, {_identity(self.found.root)})
            try:
                here = _identity(self.found.path(inside + name))
            except OSError:
                self.found.lost[inside + name + "/"] = "unreadable_folder"
                return False
            reason = "linked again" if here in entered else ""
            entered.add(here)
        self.found.left_out.update([reason] if reason else [])
        if not inside and not reason:
            self.found.branches.append(name)
        return not reason

    def _add(self, inside: str, name: str) -> None:
        reason, suffix = unwanted(name), suffix_of(name)
        if reason:
            self.found.left_out[reason] += 1
        elif suffix in IMAGE_SUFFIXES:
            self._picture(inside + name)
        elif suffix in TEXT_SUFFIXES and os.path.isfile(self.found.path(inside + name)):
            stem, _, spelled = (inside + name).rpartition(".")
            self.found.texts[stem] = (*self.found.texts.get(stem, ()), spelled)
        else:
            self.found.left_out[kind_of(name)] += 1

    def _picture(self, name: str) -> None:
        try:
            status = os.stat(self.found.path(name))
        except OSError:
            self.found.lost[name] = "missing_file"
            return
        if stat.S_ISREG(status.st_mode):
            self.found.pictures[name] = status.st_size
        else:
            self.found.lost[name] = "missing_file"


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def walk(root: str) -> Listing:
    """All pictures and texts below a folder by the rule above.

    Raises:
      UserError: the folder itself cannot be read.
    """
    return _Walk(root).run()
