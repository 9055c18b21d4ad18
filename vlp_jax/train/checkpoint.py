"""Checkpoints of the train state, asynchronous: which steps there are, which stay, which are whole.

A step counts as complete once its files are committed and their digests are written; a torn one is
never listed. Frozen weights are written once, and a step only names them. The file exists so that
a run finds its newest complete step whatever stopped it.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.types import Params
from vlp_jax.train.frozen import FrozenWeights
from vlp_jax.train.saved import Saved, one_line

log = logging.getLogger(__name__)
Places = jax.sharding.Sharding | Callable[[Any], Any]  # of all leaves, or shapes -> shardings
_TORN = ".orbax-checkpoint-tmp"  # in the name of a folder whose save has not been committed
_ASIDE = ".before"  # after the number of a step that is being saved again
_HINT = "delete this step's folder or let train go on from an older one with --step=OLDER"


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
        self._frozen = FrozenWeights(self.folder)
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

    def save(self, step: int, state: Any, frozen: Params | None = None) -> None:
        """Starts an asynchronous save; returns once the arrays are copied off the device. The first
        save of a run writes its frozen weights before.

        Raises:
          RunError: the previous save failed (disk full, permissions).
        """
        self.wait()
        try:
            if self._main:
                (self.folder / "digests").mkdir(parents=True, exist_ok=True)
            self._frozen.keep(frozen or {})
            if self._main:
                self._put_aside(step)
            response = self._saved(step).write(state)
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

    def restore(self, abstract: Any, step: int | None = None) -> Any:
        """Loads a step into the shapes, dtypes and shardings of `abstract` (ShapeDtypeStructs with
        shardings).

        Args:
          abstract: the tree to fill.
          step: which one; None is the newest complete one.

        Raises:
          UserError: no such step, or a tree of another shape (one message lists every difference).
          RunError: a damaged file, named.
        """
        saved = self._saved(self._chosen(step))
        old = saved.shapes().get("frozen")
        if jax.tree.leaves(old):
            raise UserError(
                f"{saved.folder}: of an older version, with its frozen weights inside; no run goes "
                "on from it, but one may start from it (init_from)"
            )
        if old is None:
            return saved.load(abstract)
        found = saved.load({**abstract, "frozen": {}})
        return {name: found[name] for name in abstract}

    def restore_frozen(self, abstract: Params, step: int | None = None) -> Params:
        """Loads the frozen weights that a step names into `abstract`, see `restore`.

        Raises:
          UserError: weights of other shapes, or of a step that names none. RunError: they are gone,
            damaged, or others.
        """
        if not abstract:
            return {}
        saved = self._saved(self._chosen(step))
        digest = saved.read().get("frozen")
        if digest is None:
            raise UserError(f"{saved.folder} is of another model: it has no frozen weights")
        return self._frozen.load(abstract, digest, saved.folder)

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

    def restore_model(self, where: Places, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """Loads what evaluation needs: params, frozen, ema and extra, also of checkpoints of older
        versions, which have frozen weights inside.

        Args:
          where: the sharding of every leaf, or a function from a tree of shapes to its shardings.
          step: which one; None is the newest complete one.

        Returns:
          (step, {params, frozen, ema, extra}).

        Raises:
          UserError: no complete checkpoint. RunError: a damaged file, named.
        """
        step = self._chosen(step)
        saved, names = self._saved(step), ("params", "frozen", "ema", "extra")
        abstract = {
            name: _placed(tree, where) if name in names else _skipped(tree)
            for name, tree in saved.shapes().items()
        }
        found = {"frozen": {}, **saved.load(abstract, compare=False)}
        digest = saved.read().get("frozen")
        if digest is not None:
            self._frozen.check(digest, saved.folder)
            frozen = _placed(self._frozen.saved.shapes(), where)
            found["frozen"] = self._frozen.load(frozen, digest, saved.folder, compare=False)
        return step, {name: found[name] for name in names}

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
        digest = self._frozen.digest
        self._saved(step).seal(**({} if digest is None else {"frozen": digest}))

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

    def _saved(self, step: int) -> Saved:
        return Saved(self.folder / str(step), self._digest_file(step), _HINT)

    def _digest_file(self, step: int) -> Path:
        return self.folder / "digests" / f"{step}.json"

    def _failure(self, step: int, error: BaseException) -> RunError:
        if self._main:
            self._clear_torn()  # a full disk gets its space back
        failure = RunError(
            f"{self.folder / str(step)}: checkpoint could not be saved: {one_line(error)}"
        )
        failure.__cause__ = error
        return failure


def _placed(tree: Any, where: Places) -> Any:
    """Saved shapes as ShapeDtypeStructs with shardings."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    if isinstance(where, jax.sharding.Sharding):
        places = jax.tree.map(lambda _: where, shapes)
    else:
        places = where(shapes)
    return jax.tree.map(lambda leaf, at: leaf.update(sharding=at), shapes, places)


def _skipped(tree: Any) -> Any:
    return jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)
