"""Which pictures a model finds alike: some of a set, each beside its nearest others.

The file exists so that features without labels, captions or a picture as their answer (SimCLR's)
can be looked at on one's own pictures.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import EvalFn, Evaluator, Result, unit_rows
from vlp_jax.evals.kits.figures import Grid, Pictures, evenly
from vlp_jax.evals.kits.ranking import nearest_neighbours
from vlp_jax.evals.kits.samples import embed_pictures, open_samples


@dataclasses.dataclass(frozen=True)
class Neighbours(Evaluator):
    """Config keys: path: data set. limit: so many of its pictures (0 = all). shown: pictures on the
    sheet. count: neighbours beside each.
    """

    limit: int = 1000
    shown: int = 8
    count: int = 6

    requires = ("features",)

    def __post_init__(self) -> None:
        if self.shown < 1 or self.count < 1:
            raise UserError(f"neighbours needs shown, count >= 1, got {self.shown}, {self.count}")

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics nearest_cosine, the mean over pictures of the cosine to the nearest other
        one, and chance_nearest_cosine, that of two different pictures; figure `neighbours`: rows of
        a picture, then its nearest others.

        Raises:
          UserError: fewer than two pictures that can be read.
        """
        source = open_samples(self.path, self.limit)
        rows, kept = embed_pictures(fns["features"], source, self.context)
        total = len(rows)
        if total < 2:
            raise UserError("neighbours: needs at least 2 pictures that can be read")
        rows = unit_rows(rows)
        scores, ids = nearest_neighbours(rows, rows, self.count + 1)
        others = ids != np.arange(total)[:, None]
        others[others.all(axis=1), -1] = False  # a copy of many: it is not among its own nearest
        nearest = scores[others].reshape(total, -1)[:, 0]
        sum_of_all = np.square(rows.sum(axis=0, dtype=np.float64)).sum()
        metrics = {
            "nearest_cosine": float(nearest.mean()),
            "chance_nearest_cosine": float((sum_of_all - total) / (total * (total - 1))),
        }
        some = evenly(total, self.shown)
        found = np.column_stack([some, ids[others].reshape(total, -1)[some]])
        titles = ("picture", "nearest", *map(str, range(2, found.shape[1])))
        caption = ": pictures and those nearest to them"
        grid = Grid(caption, found, Pictures(source, kept), titles)
        details = {"kept": kept, "protocol": {"images": total}}
        return Result(metrics, figures={"neighbours": grid}, details=details)
