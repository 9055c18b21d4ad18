"""The frozen weights of a run on disk: written once, `FOLDER/frozen/`, and named by the checkpoints
of all steps by the digest of their files.

The file exists because frozen weights may be a hundred times larger than what learns, and a
checkpoint that wrote them again each time would cost as much.
"""

from pathlib import Path
from typing import Any

import jax

from vlp_jax.core.errors import RunError
from vlp_jax.core.types import Params
from vlp_jax.train.saved import Saved

_HINT = "put it back: no checkpoint of this workdir is whole without it"


class FrozenWeights:
    """The file of a run, beside its checkpoints in `folder`."""

    def __init__(self, folder: Path):
        self.saved = Saved(folder / "frozen", folder / "digests" / "frozen.json", _HINT)
        self.digest: int | None = None  # of the file that this run goes on with

    def keep(self, frozen: Params) -> None:
        """Writes the weights unless this run has written or read them; all processes call it."""
        if not frozen or self.digest is not None:
            return
        self.saved.write(frozen).result()
        self.digest = self.saved.seal() if jax.process_index() == 0 else 0

    def check(self, digest: int, where: Path) -> None:
        """Raises RunError unless the file is there and has that digest; where: what names it."""
        if not self.saved.table.is_file():
            raise RunError(f"{self.saved.folder}: the frozen weights of {where} are gone; {_HINT}")
        found = self.saved.read()["crc32"]
        if found != digest:
            raise RunError(
                f"{self.saved.folder}: other frozen weights ({found:08x}) than those of {where} "
                f"({digest:08x}); {_HINT}"
            )

    def load(self, abstract: Any, digest: int, where: Path, compare: bool = True) -> Params:
        """The weights in shapes, dtypes and shardings of `abstract`.

        Raises:
          UserError: weights of other shapes. RunError: no such file, another one, or a damaged one.
        """
        self.check(digest, where)
        frozen = self.saved.load(abstract, compare)
        self.digest = digest
        return frozen
