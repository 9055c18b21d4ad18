"""How well a method paints what it was not shown, and what that looks like.

The method's `reconstruct` gives input, mask, output and target; its `loss` the training loss of
each picture beside that of predicting zero. The file exists so that a masked autoencoder has a
number beside a trivial answer and a sheet in the report.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalContext, EvalFn, HostBatch, Result, require_fns
from vlp_jax.evals.samples import embed_pictures, open_samples

TITLES = ("input", "mask (white: hidden)", "output", "target")


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Config keys: path: data set. limit: so many samples for the numbers (0 = all). shown:
    pictures on the sheet.
    """

    context: EvalContext
    path: str | Source = ""
    limit: int = 1000
    shown: int = 8

    requires: ClassVar[tuple[str, ...]] = ("loss", "reconstruct")

    def __post_init__(self) -> None:
        if self.shown < 1:
            raise UserError(f"reconstruction needs shown >= 1, got {self.shown}")

    def __call__(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics loss and chance_loss (predicting zero), masked_mse of pixels in [0, 1]
        over all that is masked, masked_psnr of it in dB, and masked_share; details hold the panels
        float32[shown, 4, S, S, 3] in [0, 1].
        """
        require_fns(self, fns)
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
        details = {"panels": panels, "titles": TITLES, "protocol": {"images": len(rows)}}
        return Result(metrics, {}, details)


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
