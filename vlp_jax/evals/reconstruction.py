"""How well a method paints what it was not shown, and what that looks like.

The method's `reconstruct` gives input, mask, output and target; its `loss` the training loss of
each picture beside that of predicting zero. The file exists so that a masked autoencoder has a
number beside a trivial answer and a sheet in the report.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import HostBatch
from vlp_jax.evals.base import EvalFn, Evaluator, Result
from vlp_jax.evals.kits.figures import Panels
from vlp_jax.evals.kits.samples import embed_pictures, open_samples

TITLES = ("input", "mask (white: hidden)", "output", "target")


@dataclasses.dataclass(frozen=True)
class Reconstruction(Evaluator):
    """Config keys: path: data set. limit: so many samples for the numbers (0 = all). shown:
    pictures on the sheet.
    """

    limit: int = 1000
    shown: int = 8

    requires = ("loss", "reconstruct")

    def __post_init__(self) -> None:
        if self.shown < 1:
            raise UserError(f"reconstruction needs shown >= 1, got {self.shown}")

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics loss and chance_loss (predicting zero), masked_mse of pixels in [0, 1]
        over all that is masked, masked_psnr of it in dB, and masked_share; figure `panels`.
        """
        some = open_samples(self.path, self.limit)
        losses, _ = embed_pictures(fns["loss"], some, self.context)
        rows, _ = embed_pictures(_squares(fns["reconstruct"]), some, self.context)
        few = open_samples(self.path, self.shown)
        panels, _ = embed_pictures(fns["reconstruct"], few, self.context)
        loss, zero = losses.mean(axis=0, dtype=np.float64)
        square, masked, pixels = rows.sum(axis=0, dtype=np.float64)
        mse = square / max(masked, 1)
        metrics = {
            "loss": float(loss),
            "chance_loss": float(zero),
            "masked_mse": float(mse),
            "masked_psnr": float(-10 * np.log10(max(mse, 1e-10))),
            "masked_share": float(masked / pixels),
        }
        shown = {"panels": Panels(": answers", panels, TITLES)}
        return Result(metrics, figures=shown, details={"protocol": {"images": len(rows)}})


def _squares(reconstruct: EvalFn) -> EvalFn:
    """Panels reduced batch by batch to float32[B, 3]: summed squared error of masked pixels, their
    number, the number of all.
    """

    def run(batch: HostBatch) -> tuple[np.ndarray, np.ndarray]:
        panels, index = reconstruct(batch)
        _, mask, output, target = np.moveaxis(np.asarray(panels), 1, 0)
        each = (np.square(output - target) * mask, mask, np.ones_like(mask))
        return np.stack([x.sum((1, 2, 3)) for x in each], axis=1), index

    return run
