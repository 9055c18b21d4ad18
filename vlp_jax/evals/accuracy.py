"""Accuracy of a method that classifies by itself, on any labelled source.

Ties count against the method. The file exists so that supervised training, fine-tuning and the
trained linear probe report the same numbers as the zero-shot classifier.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.labels import class_list
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalFn, Learner, Result
from vlp_jax.evals.kits import figures
from vlp_jax.evals.kits.samples import (
    check_labels,
    class_ids,
    embed_pictures,
    open_samples,
    read_values,
)
from vlp_jax.evals.kits.scores import score


@dataclasses.dataclass(frozen=True)
class Accuracy(Learner):
    """Config keys: path: labelled data set. train: the one that was trained on, whose words under
    `label` number the classes ('' = path itself). label: JSON key. limit: so many samples of
    path (0 = all).
    """

    label: str = ""
    limit: int = 0

    requires = ("classify",)

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """Both sets have the label."""
        check_labels(sources, self.label, where)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics top1, top5, mean_per_class, chance_top1, chance_top5 and majority_top1.

        Raises:
          UserError: a label that the model has no class for.
        """
        source = open_samples(self.path, self.limit, self.label)
        values = read_values(source, self.label)
        trained = open_samples(self.train or self.path)
        classes = class_list(trained, self.label, "label")
        if classes:
            class_ids(values, dict.fromkeys(classes), where="path")  # before any picture is read
        logits, kept = embed_pictures(fns["classify"], source, self.context)  # [N, C]
        if classes and len(classes) != logits.shape[1]:
            raise UserError(
                f"the model has {logits.shape[1]} classes but label={self.label!r} has "
                f"{len(classes)}; set `train` to the data set that it was trained on"
            )
        known = dict.fromkeys(classes or range(logits.shape[1]))
        label = class_ids([values[i] for i in kept], known, where="path")
        one_hot = np.eye(len(known), dtype=np.float32)
        own = getattr(trained, "classes", ())  # a folder numbers its own names
        names = [*map(str, own if len(own) == len(known) else known)]
        metrics, table = score(logits, one_hot, label, names)
        protocol = {"images": len(kept), "damaged": len(source) - len(kept)}
        details = {"protocol": protocol}
        return Result(metrics, {"per_class": table}, figures.per_class(table), details)
