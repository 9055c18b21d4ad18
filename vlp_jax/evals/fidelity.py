"""How well pictures come back from a model that knows them by less: an autoencoder, or what MAE
paints.

Pictures are rounded to 8 bits first, as a file would hold them, and every figure is the mean over
pictures (arXiv:2112.10752, Table 8: PSNR, SSIM, LPIPS). The file exists so that any method with
`reconstruct` has them.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import HostBatch
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalFn, Evaluator, Result
from vlp_jax.evals.kits.closeness import PROTOCOL, psnr, ssim
from vlp_jax.evals.kits.figures import Panels
from vlp_jax.evals.kits.samples import embed_pictures, open_samples

TITLES = ("target", "output")
DISTANCE = "distance"


@dataclasses.dataclass(frozen=True)
class Fidelity(Evaluator):
    """Config keys: path: data set. lpips: a converted LPIPS; '': none. limit: so many samples for
    the numbers (0 = all). shown: pictures on the sheet.
    """

    lpips: str = ""
    limit: int = 0
    shown: int = 8

    requires = ("reconstruct",)

    def __post_init__(self) -> None:
        if self.shown < 1:
            raise UserError(f"fidelity needs shown >= 1, got {self.shown}")

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The network is there."""
        del sources
        if self.lpips and self.context.network is not None:  # `plan` opens none
            try:
                self._distance()
            except UserError as error:
                raise UserError(f"{where}.lpips: {error}") from error

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics psnr in dB, ssim, and lpips where its network is named; figure
        `panels`.
        """
        reconstruct, distance = fns["reconstruct"], self._distance() if self.lpips else None
        some = open_samples(self.path, self.limit)
        run = lambda batch: self._scores(reconstruct, distance, batch)  # noqa: E731
        rows, _ = embed_pictures(run, some, self.context)
        names = ("psnr", "ssim", *(("lpips",) if self.lpips else ()))
        means = rows.mean(axis=0, dtype=np.float64)
        few, _ = embed_pictures(reconstruct, open_samples(self.path, self.shown), self.context)
        sheet = few[:, [-1, -2]].astype(np.float32)
        protocol = {"images": len(rows), "pictures": "rounded to 8 bits", "ssim": PROTOCOL}
        metrics = {name: float(value) for name, value in zip(names, means, strict=True)}
        shown = {"panels": Panels(": what comes back", sheet, TITLES)}
        return Result(metrics, figures=shown, details={"protocol": protocol})

    def _distance(self) -> EvalFn:
        """LPIPS.

        Raises:
          UserError: another network, or one that cannot be opened.
        """
        if self.context.network is None:
            raise UserError(f"lpips={self.lpips}: this evaluation cannot open checkpoints")
        found = self.context.network(self.lpips)
        if DISTANCE not in found.fns:
            raise UserError(f"{self.lpips} holds {found.label}, no LPIPS (function {DISTANCE!r})")
        return found.fns[DISTANCE]

    def _scores(
        self, reconstruct: EvalFn, distance: EvalFn | None, batch: HostBatch
    ) -> tuple[np.ndarray, np.ndarray]:
        """float32[B, 2 or 3] of a batch, the rows of all hosts, and their index."""
        panels, index = reconstruct(batch)
        output, target = (np.rint(255 * np.asarray(panels)[:, at]) for at in (-2, -1))
        rows = [psnr(output / 255, target / 255), ssim(output / 255, target / 255)]
        if distance is not None:
            local = len(batch["index"])
            first = self.context.process_index * local
            pair = {"image": output, "other": target}
            own = {n: p[first : first + local].astype(np.uint8) for n, p in pair.items()}
            rows.append(np.asarray(distance({**own, "index": batch["index"]})[0]))
        return np.stack(rows, 1).astype(np.float32), index
