"""How well a method answers its own question on other pictures, and what its answers look like.

The method's `task` gives every picture scores, those of a trivial answer and weights; its `show`
gives rows of panels. The file exists so that any method with those two functions has numbers beside
chance and a sheet in the report.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import EvalFn, Evaluator, Result
from vlp_jax.evals.kits.figures import Panels
from vlp_jax.evals.kits.samples import embed_pictures, open_samples


@dataclasses.dataclass(frozen=True)
class PretextTask(Evaluator):
    """Config keys: path: data set. metric: names of the first scores, with commas. titles: one per
    panel. limit: so many samples for the scores (0 = all). shown: pictures on the sheet.
    """

    metric: str = "accuracy"
    titles: tuple[str, ...] = ()
    limit: int = 0
    shown: int = 8

    requires = ("task", "show")

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics METRIC and chance_METRIC of every name, weighted means over pictures;
        figure `panels`.
        """
        rows, _ = embed_pictures(fns["task"], open_samples(self.path, self.limit), self.context)
        panels, _ = embed_pictures(fns["show"], open_samples(self.path, self.shown), self.context)
        if self.titles and len(self.titles) != panels.shape[1]:
            raise UserError(f"titles: {len(self.titles)} of them for {panels.shape[1]} panels")
        names = self.metric.split(",")
        if len(names) > rows.shape[1]:
            raise UserError(f"metric: {len(names)} names for {rows.shape[1]} scores")
        means = np.average(rows[..., :2], 0, np.float64(rows[..., 2:].repeat(2, -1)))  # [M, 2]
        metrics = {}
        for name, (score, chance) in zip(names, means.tolist(), strict=False):
            metrics |= {name: score, f"chance_{name}": chance}
        shown = {"panels": Panels(": answers", panels, self.titles)}
        return Result(metrics, figures=shown, details={"protocol": {"images": len(rows)}})
