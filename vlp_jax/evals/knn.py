"""Cosine k-nearest-neighbour classification with a weighted vote (Wu et al., arXiv:1805.01978;
DINO's evaluation).

Weight of a neighbour: exp(cosine / 0.07). The file exists as the probe without anything to tune.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalFn, Learner, Result, unit_rows
from vlp_jax.evals.kits.ranking import nearest_neighbours
from vlp_jax.evals.kits.samples import (
    check_labels,
    check_several,
    class_ids,
    class_names,
    embed_pictures,
    open_samples,
    read_values,
)
from vlp_jax.evals.kits.scores import majority, per_class_recall


@dataclasses.dataclass(frozen=True)
class NearestNeighbours(Learner):
    """Config keys: train, path: labelled data sets (bank, queries). label: JSON key. k: neighbour
    counts.

    temperature: of the vote. limit: so many samples of each set, by class (0 = all). features: the
    method's function that gives the rows; `pixels` is the baseline of raw pictures.
    """

    label: str = ""
    k: tuple[int, ...] = (1, 20)
    temperature: float = 0.07
    limit: int = 0
    features: str = "features"

    @property
    def requires(self) -> tuple[str, ...]:
        """The function that `features` names."""
        return (self.features,)

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not self.k or min(self.k) < 1:
            raise UserError(
                f"knn needs k >= 1 and temperature > 0, got {self.k}, {self.temperature}"
            )

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """Both sets have the label."""
        check_labels(sources, self.label, where)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics top1_k<K> and mean_per_class_k<K> for every k, and chance_top1."""
        bank = open_samples(self.train, self.limit, self.label, cover=True)
        queries = open_samples(self.path, self.limit, self.label)
        train_values = read_values(bank, self.label)
        classes = class_names(train_values)
        check_several(classes, self.label)
        values = read_values(queries, self.label)
        class_ids(values, classes, where="path")  # before any picture is read
        bank_rows, kept = embed_pictures(fns[self.features], bank, self.context)
        bank_label = class_ids([train_values[i] for i in kept], classes)
        rows, kept = embed_pictures(fns[self.features], queries, self.context)
        label = class_ids([values[i] for i in kept], classes)
        scores, ids = nearest_neighbours(unit_rows(rows), unit_rows(bank_rows), max(self.k))
        metrics, table = {"chance_top1": 1 / len(classes), "majority_top1": majority(label)}, []
        for k in self.k:
            guess = vote(scores[:, :k], bank_label[ids[:, :k]], len(classes), self.temperature)
            recall, support = per_class_recall(guess == label, label, len(classes))
            top1, mean = float(np.mean(guess == label)), float(recall[support > 0].mean())
            metrics |= {f"top1_k{k}": top1, f"mean_per_class_k{k}": mean}
            table.append({"k": k, "top1": top1, "mean per class": mean})
        protocol = {"temperature": self.temperature, "bank": len(bank_rows), "images": len(rows)}
        return Result(metrics, {"knn": table}, details={"protocol": protocol})


def vote(scores: np.ndarray, label: np.ndarray, num_classes: int, temperature: float) -> np.ndarray:
    """Class of the largest summed weight; scores: float[Q, k] cosines, label: int[Q, k] ->
    int[Q]."""
    votes = np.zeros((len(scores), num_classes))
    rows = np.arange(len(scores))[:, None]
    np.add.at(votes, (rows, label), np.exp(scores.astype(np.float64) / temperature))
    return votes.argmax(axis=1)
