"""Zero-shot classification with prompt ensembles (CLIP, arXiv:2103.00020 section 3.1).

Per class and template: embed, normalise; mean over templates; normalise again. Averaging logits is
something else. Classes of equal names have equal prompts, and nothing can tell them apart: they are
one class here, and a picture of any of them is right where the name is. (The released evaluators'
argmax gives such a tie to the first class and counts the others' pictures as missed: that number is
`top1_first_of_equal`.) The file exists to give any method with two towers a classifier over any
labelled data set, class by class.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.vectors import similarities
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalContext, EvalFn, Evaluator, Result, embed_texts, unit_rows
from vlp_jax.evals.kits import figures
from vlp_jax.evals.kits.ranking import rank
from vlp_jax.evals.kits.samples import (
    check_labels,
    class_ids,
    class_names,
    embed_pictures,
    open_samples,
    read_values,
)
from vlp_jax.evals.kits.scores import average_precision, score, voc_average_precision
from vlp_jax.evals.kits.templates import fill, load_templates


@dataclasses.dataclass(frozen=True)
class ZeroShot(Evaluator):
    """Top-1, top-5 and mean per-class recall; mean average precision where samples have lists of
    labels.

    Config keys: path: data set. label: JSON key of the class; where it holds numbers, the words
    under `class` are read in its place. classes: file of class names ('' = the sorted values
    found). templates: a set of `templates.TEMPLATES`, one template or several.
    limit: so many samples (0 = all).
    """

    label: str = ""
    classes: str = ""
    templates: str | Sequence[str] = "single"
    limit: int = 0

    requires = ("embed_image", "embed_text")

    def __post_init__(self) -> None:
        load_templates(self.templates)

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The set has the label, and words for it."""
        for source in sources.values():
            try:
                self.key(source)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
        check_labels(sources, self.label, where)

    def key(self, source: Source) -> str:
        """The JSON key whose values are read. Raises UserError where they are only numbers."""
        return self.label if self.classes else spoken_key(source, self.label)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics top1, top5, mean_per_class, chance_top1; for multi-label data map,
        map_voc07."""
        source = open_samples(self.path)
        label = self.key(source)
        source = open_samples(source, self.limit, label)
        values = read_values(source, label)
        classes = class_names(values, self.classes)
        templates = load_templates(self.templates)
        names = list(dict.fromkeys(classes.values()))
        weights = classifier(fns["embed_text"], names, templates, self.context)  # [C, D]
        image, kept = embed_pictures(fns["embed_image"], source, self.context)  # [N, D]
        image, values = unit_rows(image), [values[i] for i in kept]
        if any(isinstance(value, list) for value in values):
            metrics, table = score_multilabel(
                np.asarray(similarities(image, weights)), values, classes
            )
        else:
            own = class_ids(values, classes)
            metrics, table = score(image, weights, by_name(classes)[own], names)
            if len(names) < len(classes):
                metrics["top1_first_of_equal"] = first_of_equal(image, weights, own, classes)
        protocol = {
            "templates": len(templates),
            "names": self.classes or label,
            "classes": len(names),
            "images": len(values),
            "damaged": len(source) - len(kept),
        }
        details = {"protocol": protocol, "image": image, "classifier": weights, "names": names}
        prompts = [{"template": t, "prompt": fill(t, names[0])} for t in templates]
        tables = {"per_class": table, "prompts": prompts}
        return Result(metrics, tables, figures.per_class(table), details)


def spoken_key(source: Source, label: str) -> str:
    """`label`, or 'class' where `label` holds numbers and 'class' words, in 64 samples of a source.

    Raises:
      UserError: numbers for names; it lists the keys that hold words.
    """
    found, words = [], set()
    for i in range(0, len(source), len(source) // 64 + 1):
        try:
            meta = source.metadata(i)["meta"]
        except DamagedSample:
            continue
        value = meta.get(label)
        found += value if isinstance(value, list) else [value]
        words |= {key for key, text in meta.items() if isinstance(text, str) and not _numeric(text)}
    if not found or not all(map(_numeric, found)):
        return label
    if "class" in words:
        return "class"
    keys = f" ({', '.join(sorted(words)[:8])})" if words else ""
    raise UserError(
        f"label={label!r} holds numbers, and a prompt would say 'a photo of a {found[0]}'; set "
        f"`label` to a JSON key of words{keys} or `classes` to a file of names"
    )


def _numeric(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lstrip("+-").replace(".", "", 1).isdecimal()
    return isinstance(value, int | float)


def by_name(classes: Mapping[Any, str]) -> np.ndarray:
    """Number of each class's name among the distinct ones: int[C]; [crane, owl, crane]: 0, 1, 0."""
    place = {name: i for i, name in enumerate(dict.fromkeys(classes.values()))}
    return np.asarray([place[name] for name in classes.values()])


def first_of_equal(
    image: np.ndarray, weights: np.ndarray, label: np.ndarray, classes: Mapping[Any, str]
) -> float:
    """Top-1 of an argmax over all classes, which of equal names can only find the first; label:
    int[N] numbers of `classes`."""
    name = by_name(classes)
    first = np.unique(name, return_index=True)[1][name] == np.arange(len(name))
    ranked = rank(image, weights, name[label][:, None].astype(np.int32), k=1)
    return float(np.mean((ranked.rank == 1) & first[label]))


def classifier(
    fn: EvalFn, names: Sequence[str], templates: Sequence[str], context: EvalContext
) -> np.ndarray:
    """The zero-shot weights float32[C, D]: normalise, mean over templates, normalise."""
    prompts = [fill(template, name) for name in names for template in templates]
    rows = unit_rows(embed_texts(fn, prompts, context))  # [C*T, D]
    return unit_rows(rows.reshape(len(names), len(templates), -1).mean(axis=1))


def score_multilabel(
    logits: np.ndarray, values: Sequence[Any], classes: dict[Any, str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Mean average precision (and VOC 2007's 11-point form) over the classes that occur."""
    target = np.zeros(logits.shape, bool)
    for row, value in enumerate(values):
        own = class_ids(value if isinstance(value, list) else [value], classes)
        target[row, by_name(classes)[own]] = True
    table = []
    for c, name in enumerate(dict.fromkeys(classes.values())):
        if target[:, c].any():
            ap = average_precision(logits[:, c], target[:, c])
            voc = voc_average_precision(logits[:, c], target[:, c])
            table.append(
                {"class": name, "images": int(target[:, c].sum()), "ap": ap, "ap_voc07": voc}
            )
    metrics = {
        "map": float(np.mean([row["ap"] for row in table])),
        "map_voc07": float(np.mean([row["ap_voc07"] for row in table])),
        "chance_map": float(target[:, target.any(axis=0)].mean()),
    }
    return metrics, table
