"""Checkpoints of the train state: orbax, asynchronous and atomic, with a digest of every file.

A step counts as complete once its files are committed and their digests are written; a torn one is
never listed. A restore reads the arrays and checks the digests at the same time, so damage is found
before the first step and the file is named. The file exists as the one thin layer over orbax's v1
interface.
"""

import concurrent.futures
import json
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.pytree import flatten

log = logging.getLogger(__name__)
_CHUNK = 1 << 22
_TORN = ".orbax-checkpoint-tmp"  # in the name of a folder whose save has not been committed
_ASIDE = ".before"  # after the number of a step that is being saved again
Placing = jax.sharding.Sharding | Callable[[Any], Any]
_HINT = "delete this step's folder or let train go on from an older one with --step=OLDER"


def _context() -> ocp.Context:
    context = ocp.Context()
    context.array.saving.use_compression = (
        False  # float32 weights hardly compress; zstd would halve the speed
    )
    return context


def file_digest(path: Path) -> dict[str, int]:
    """Returns {bytes, crc32} of a file."""
    value, size = 0, 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            value, size = zlib.crc32(chunk, value), size + len(chunk)
    return {"bytes": size, "crc32": value}


def _table_digest(files: dict[str, dict[str, int]]) -> int:
    return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Checkpoints:
    """The checkpoints of one run under FOLDER: `FOLDER/STEP/` and `FOLDER/digests/STEP.json`."""

    def __init__(self, folder: str | os.PathLike, keep: int = 3, keep_every: int = 0):
        """Looks at the folder; the first save creates it.

        Args:
          folder: where checkpoints live.
          keep: how many of the newest steps stay.
          keep_every: steps that are a multiple of this stay for ever; 0 is off.
        """
        self.folder = Path(folder).absolute()
        self._keep, self._keep_every = max(1, keep), keep_every
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._main = jax.process_index() == 0

    def steps(self) -> list[int]:
        """Complete steps, ascending. A committed step without digests was interrupted; it is logged
        and left out.
        """
        complete = [step for step in self._present() if self._digest_file(step).is_file()]
        for step in sorted(set(self._present()) - set(complete)):
            log.warning(
                "checkpoint %s/%d is incomplete (interrupted save), ignored", self.folder, step
            )
        return sorted(complete)

    def _present(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]

    def save(self, step: int, state: Any) -> None:
        """Starts an asynchronous save; returns once the arrays are copied off the device.

        Raises:
          RunError: the previous save failed (disk full, permissions).
        """
        self.wait()
        try:
            if self._main:
                (self.folder / "digests").mkdir(parents=True, exist_ok=True)
                self._put_aside(step)
            with _context():
                response = ocp.save_async(self.folder / str(step), state, overwrite=True)
        except Exception as error:
            raise self._failure(step, error) from error
        self._thread = threading.Thread(
            target=self._finish, args=(step, response), name="checkpoint", daemon=True
        )
        self._thread.start()

    def _aside(self, step: int) -> tuple[Path, Path]:
        """Where the folder and the digests of a step lie while the step is saved again."""
        return self.folder / f"{step}{_ASIDE}", self.folder / "digests" / f"{step}{_ASIDE}.json"

    def _put_aside(self, step: int) -> None:
        """Keeps a complete checkpoint of the very step until its successor is complete, which is
        what a run that goes back writes first."""
        folder, digests = self._aside(step)
        if not self._digest_file(step).is_file():
            return
        self._digest_file(step).replace(digests)  # the step is torn from here on
        (self.folder / str(step)).replace(folder)

    def recover(self) -> None:
        """Ends what `_put_aside` began: the successor stays where it is complete, else the
        checkpoint that was put aside comes back. For who holds the workdir."""
        for digests in sorted((self.folder / "digests").glob(f"*{_ASIDE}.json")):
            step = int(digests.name.partition(".")[0])
            folder = self._aside(step)[0]
            if self._digest_file(step).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                digests.unlink()
                continue
            if folder.is_dir():
                shutil.rmtree(self.folder / str(step), ignore_errors=True)
                folder.replace(self.folder / str(step))
            digests.replace(self._digest_file(step))

    def wait(self) -> None:
        """Blocks until the running save is complete.

        Raises:
          RunError: that save failed; older checkpoints are untouched.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def restore(self, abstract: Any, step: int | None = None, compare: bool = True) -> Any:
        """Loads a step into the shapes, dtypes and shardings of `abstract` (ShapeDtypeStructs with
        shardings).

        Args:
          abstract: the tree to fill.
          step: which one; None is the newest complete one.
          compare: refuse a checkpoint whose tree differs from `abstract`.

        Raises:
          UserError: no such step, or a tree of another shape (one message lists every difference).
          RunError: a damaged file, named.
        """
        step = self._chosen(step)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            checks = [
                pool.submit(_check_file, path, digest) for path, digest in self._expected(step)
            ]
            problem: Exception | None = None
            try:
                state = self._load(step, abstract, compare)
            except Exception as error:
                problem = error
            for check in checks:
                check.result()  # a damaged file is the better explanation, so it is raised first
        if problem is not None:
            raise problem
        return state

    def _chosen(self, step: int | None) -> int:
        """A complete step, the newest for None; raises UserError where there is none."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.folder}: holds no complete checkpoint yet")
        if step is not None and step not in steps:
            raise UserError(
                f"{self.folder}: no complete checkpoint of step {step}; complete: {steps}"
            )
        return steps[-1] if step is None else step

    def restore_model(
        self, sharding: Placing, step: int | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Loads what evaluation needs: params, frozen, ema and extra.

        Args:
          sharding: of every leaf, or f(tree of shapes) -> the tree of their shardings.
          step: which one; None is the newest complete one.

        Returns:
          (step, {params, frozen, ema, extra}).

        Raises:
          UserError: no complete checkpoint. RunError: a damaged file, named.
        """
        step = self._chosen(step)
        names = ("params", "frozen", "ema", "extra")
        try:
            abstract = self._saved_shapes(step, names, sharding)
        except Exception as error:
            for path, digest in self._expected(step):
                _check_file(path, digest)
            raise self._unreadable(step, error) from error
        loaded = self.restore(abstract, step, compare=False)
        return step, {name: loaded[name] for name in names}

    def _saved_shapes(self, step: int, names: tuple[str, ...], sharding: Placing) -> dict[str, Any]:
        """The saved tree as ShapeDtypeStructs, the parts beside `names` to be skipped."""

        def wanted(tree: Any) -> Any:
            one = isinstance(sharding, jax.sharding.Sharding)
            where = jax.tree.map(lambda _: sharding, tree) if one else sharding(tree)
            shape = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
            return jax.tree.map(shape, tree, where)

        with _context():
            saved = ocp.metadata(self.folder / str(step)).metadata
        skipped = lambda tree: jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)  # noqa: E731
        return {
            name: wanted(tree) if name in names else skipped(tree) for name, tree in saved.items()
        }

    def _unreadable(self, step: int, error: BaseException) -> RunError:
        return RunError(f"{self.folder / str(step)}: cannot be restored: {_one_line(error)}")

    def _load(self, step: int, abstract: Any, compare: bool) -> Any:
        with _context():
            if compare:
                self._compare(step, abstract)
            try:
                return ocp.load(self.folder / str(step), abstract)
            except Exception as error:
                raise self._unreadable(step, error) from error

    def _compare(self, step: int, abstract: Any) -> None:
        saved = flatten(ocp.metadata(self.folder / str(step)).metadata)
        wanted = flatten(abstract)
        lines = [f"missing {path}" for path in wanted if path not in saved]
        lines += [f"unexpected {path}" for path in saved if path not in wanted]
        for path in wanted.keys() & saved.keys():
            have, want = saved[path], wanted[path]
            if tuple(have.shape) != tuple(want.shape) or have.dtype != want.dtype:
                found = f"{have.dtype}{list(have.shape)}"
                lines.append(f"{path} is {found}, needs {want.dtype}{list(want.shape)}")
        if lines:
            raise UserError(
                f"{self.folder / str(step)} is of another model: " + "; ".join(sorted(lines))
            )

    def _expected(self, step: int) -> list[tuple[Path, dict[str, int]]]:
        file = self._digest_file(step)
        try:
            table = json.loads(file.read_text())
            whole = table["crc32"] == _table_digest(table["files"])
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise RunError(f"{file}: damaged; {_HINT}")
        table = table["files"]
        return [(self.folder / str(step) / name, digest) for name, digest in table.items()]

    def _finish(self, step: int, response: Any) -> None:
        try:
            response.result()
            if self._main:
                self._write_digests(step)
                self.recover()
                self._prune(step)
        except BaseException as error:
            self._error = self._failure(step, error)

    def _write_digests(self, step: int) -> None:
        folder = self.folder / str(step)
        table = {str(path.relative_to(folder)): file_digest(path) for path in _files(folder)}
        target = self._digest_file(step)
        partial = target.with_suffix(".tmp")
        with open(partial, "w") as file:
            json.dump({"files": table, "crc32": _table_digest(table)}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)

    def _prune(self, newest: int) -> None:
        """Removes complete steps beyond `keep`, and what interrupted saves before `newest` left;
        later steps, of a run that has gone back, do not count.
        """
        present = [step for step in self._present() if step <= newest]
        complete = sorted(step for step in present if self._digest_file(step).is_file())
        old = [s for s in complete[: -self._keep] if not self._keep_every or s % self._keep_every]
        self.remove([*old, *(step for step in present if step not in complete)])
        self._clear_torn()

    def remove(self, steps: Iterable[int]) -> None:
        """Deletes steps, those that are not there anyhow; each is torn before it is gone."""
        for step in steps:
            self._digest_file(step).unlink(missing_ok=True)
            folder = self.folder / str(step)
            if folder.is_dir():
                shutil.rmtree(folder)  # orbax's own delete waits for all processes

    def _clear_torn(self) -> None:
        for path in self.folder.glob(f"*{_TORN}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _digest_file(self, step: int) -> Path:
        return self.folder / "digests" / f"{step}.json"

    def _failure(self, step: int, error: BaseException) -> RunError:
        if self._main:
            self._clear_torn()  # a full disk gets its space back
        failure = RunError(
            f"{self.folder / str(step)}: checkpoint could not be saved: {_one_line(error)}"
        )
        failure.__cause__ = error
        return failure


def _check_file(path: Path, expected: dict[str, int]) -> None:
    if not path.is_file():
        raise RunError(f"{path}: file of a complete checkpoint is missing; {_HINT}")
    found = file_digest(path)
    if found != expected:
        raise RunError(f"{path}: damaged, {found} does not match {expected} at save time; {_HINT}")


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
