"""The hidden folder in which a result of many parts grows: `.OUT.building` beside OUT.

It holds a plan, what the result is made of, and a record of every whole part. A kill leaves it; the
same command goes on in it, and another plan empties it first. The last step gives it the name OUT.
The file exists so that no half index or data set can be opened, and none is mixed of two.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vlp_jax.core.errors import RunError, UserError, printable
from vlp_jax.data.index import index_path
from vlp_jax.data.shard import ShardFile
from vlp_jax.data.shard_index import probe
from vlp_jax.data.walk import tell
from vlp_jax.data.whole import PARTIAL, write_json

MANIFEST, PLAN, DONE = "manifest.json", "plan.json", "done"
Read = Callable[[str], Mapping[str, Any]]  # the manifest of a folder, {} without; UserError


class Staging:
    """The parts of a result on their way. Use `staging`, which takes the folder."""

    def __init__(self, out: str, plan: Mapping[str, Any], command: str, read: Read):
        self.out, self.plan, self._command = os.path.realpath(out), plan, command
        self.folder = building(out)
        self.complete = False  # but for its name
        self._old, self._read = replaced(out), read

    def begin(self) -> None:
        """Empties the folder unless it holds parts of the same plan."""
        self.complete = read_plan(self.folder, self._read) == self.plan
        begun = self.record(PLAN)
        if self.complete or (isinstance(begun, dict) and begun.get("plan") == self.plan):
            return
        if os.listdir(self.folder):
            tell(f"{self.folder}: of another checkpoint, data or settings; starts again")
        _empty(self.folder)
        write_json(self._path(PLAN), {"plan": self.plan, "command": self._command})

    def record(self, name: str) -> Any:
        """The content of a JSON file; None where it is missing or cut short."""
        try:
            with open(self._path(name), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def part(self, name: str) -> dict[str, Any] | None:
        """The record of a whole part whose files are as they were written, else None. Of a result
        that is complete it is empty."""
        if self.complete:
            return {}
        found = self.record(f"{DONE}/{name}.json")
        try:
            check_files(self.folder, found["files"]) if found else None
        except UserError:
            return None
        return found

    def seal(self, name: str, record: Mapping[str, Any]) -> None:
        """Says that a part is whole."""
        write_json(self._path(DONE, f"{name}.json"), record)

    def finish(
        self, manifest: Callable[[], Mapping[str, Any]], check: Callable[[], None] = lambda: None
    ) -> None:
        """Writes the manifest and gives the folder its name, in the place of an older result.
        check: of that one, at the last moment, `check_ours`. Raises RunError where it refuses."""
        self._sweep()
        if not self.complete:
            write_json(self._path(MANIFEST), manifest())
        shutil.rmtree(self._path(DONE), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path(PLAN))
        tidy(self.out, self._read)
        try:
            check()
        except UserError as error:
            raise RunError(
                f"{error}; the same command then goes on, what it made is kept"
            ) from error
        if os.path.isdir(self.out):
            os.rename(self.out, self._old)
        os.rename(self.folder, self.out)
        tidy(self.out, self._read)

    def _sweep(self) -> None:
        """Removes what a kill left half-written."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if name.startswith(".") or name.endswith(PARTIAL):
                    os.remove(os.path.join(folder, name))

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)


def building(out: str) -> str:
    """The hidden folder in which the result `out` grows."""
    parent, name = os.path.split(os.path.realpath(out))
    return os.path.join(parent, f".{name}.building")


def replaced(out: str) -> str:
    """Where an older result lies for the moment in which a new one takes its name."""
    parent, name = os.path.split(os.path.realpath(out))
    return os.path.join(parent, f".{name}.replaced")


def _empty(folder: str) -> None:
    """Removes what a folder holds; what says whose it is last, so that a kill leaves that."""
    for name in sorted(os.listdir(folder), key=lambda name: name in (PLAN, MANIFEST)):
        path = os.path.join(folder, name)
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)


def _is_ours(folder: str, read: Read) -> bool:
    """Whether a hidden folder is one that a kill left."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        return not os.path.lexists(folder)
    names = set(os.listdir(folder)) - {PLAN + PARTIAL}
    try:
        return not names or PLAN in names or isinstance(read(folder).get("plan"), dict)
    except UserError:
        return False


def tidy(out: str, read: Read) -> None:
    """Removes an older result that a kill left under its hidden name; anything else stays."""
    old = replaced(out)
    if os.path.isdir(old) and _is_ours(old, read):
        _empty(old)
        os.rmdir(old)


def file_facts(path: str) -> list[int]:
    """[bytes, checksum of the end and of pieces all over] of a file."""
    file = ShardFile(path)
    try:
        return [file.size, probe(file)]
    finally:
        file.close()


def manifest_of(folder: str, what: str, form: int, kind: str | None = None) -> dict[str, Any]:
    """What manifest.json of a result says; {} where there is none.

    Args:
      what: the result is called.
      form, kind: the only format that is read, and the kind that such a manifest says, if any.

    Raises:
      UserError: naming the file, which is damaged or of something else.
    """
    path = os.path.join(folder, MANIFEST)
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        said = {key: found[key] for key in ("format", "files")} | {"kind": found.get("kind")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; make the {what} again") from error
    for key, ours in (("kind", kind), ("format", form)):
        if said[key] != ours:
            raise UserError(f"{path}: {key} {said[key]!r}, we read {ours!r}")
    right = {"files": _is_files(said["files"]), "plan": isinstance(found.get("plan", {}), dict)}
    if wrong := next((key for key in right if not right[key]), ""):
        raise UserError(f"{path}: damaged ({wrong}); make the {what} again")
    return found


def _is_files(files: Any) -> bool:
    """Whether it is {path inside the folder: [bytes, checksum]}."""
    return isinstance(files, dict) and all(
        isinstance(facts, list) and len(facts) == 2 and all(type(n) is int for n in facts)
        for facts in files.values()
    )


def check_files(folder: str, files: Mapping[str, Sequence[int]], what: str = "index") -> None:
    """Raises UserError naming a file of the manifest that is missing or another one; what: the
    folder is."""
    for name, facts in files.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            raise UserError(f"{path}: is missing; make the {what} again")
        found = file_facts(path)
        if found != list(facts):
            digests = f"digest {found[1]:08x}, the manifest says {int(facts[1]):08x}"
            raise UserError(f"{path}: is not the file of this {what} ({digests}); make it again")


def check_free(out: str, read: Read, what: str) -> None:
    """Raises UserError where a folder holds something else than what the same command wrote; what:
    it writes."""
    if not os.path.isdir(out) or not os.listdir(out):
        return
    try:
        found = read(out)
    except UserError as error:
        raise UserError(f"--out={out}: {error}, or remove the folder") from error
    if not isinstance(found.get("plan"), dict):
        raise UserError(f"--out={out}: is not empty and holds no {what} of ours; choose another")


def check_ours(out: str, read: Read, known: Iterable[str], command: str) -> None:
    """Raises UserError where a folder that is about to be replaced holds a file that the command
    did not write (notes), which would go with it; known: files that the manifest does not name."""
    if not os.path.isdir(out) or not os.listdir(out):
        return
    written = {MANIFEST, *known, *read(out).get("files", {})}
    written |= {index_path(name) for name in written if name.endswith(".tar")}
    folders = {os.path.dirname(name) for name in written}
    for folder, inside, names in os.walk(out):
        links = {name for name in inside if os.path.islink(os.path.join(folder, name))}
        for name in sorted([*names, *inside]):
            own = folders if name in inside and name not in links else written
            name = os.path.relpath(os.path.join(folder, name), out)
            if name.removesuffix(PARTIAL) not in own:
                what = f"holds {printable(name)!r}, which `{command}` did not write"
                raise UserError(f"--out={out}: {what}; move it away, or choose another folder")


def read_plan(folder: str, read: Read) -> Any:
    """The plan of a complete result; None where there is none or a file of it is another one."""
    try:
        manifest = read(folder)
        check_files(folder, manifest.get("files", {}))
    except UserError:
        return None
    return manifest.get("plan")


@contextlib.contextmanager
def staging(out: str, plan: Mapping[str, Any], read: Read, command: str = "") -> Iterator[Staging]:
    """The folder for a plan, held while it is used. command: that makes it, for whom finds it
    unfinished.

    Raises:
      UserError: another process holds it, or its hidden name is of something else.
      RunError: the disk refuses.
    """
    found = Staging(out, plan, command, read)
    for path in (found.folder, replaced(out)):
        if not _is_ours(path, read):
            raise UserError(f"--out={out}: {path} is in the way and not of ours; move it away")
    try:
        os.makedirs(found.folder, exist_ok=True)
        handle = os.open(found.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(NotImplementedError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.begin()
            try:
                yield found
            except UserError:  # of such input nothing is kept
                _empty(found.folder)
                os.rmdir(found.folder)
                raise
        except BlockingIOError:
            raise UserError(f"--out={out}: another process is building it; wait for it") from None
        finally:
            os.close(handle)
    except OSError as error:
        raise RunError(f"--out={out}: cannot be written ({error.strerror or error})") from error
