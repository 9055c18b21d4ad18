"""Captions against such as are wrong in a word or in the order of words: Winoground
(arXiv:2204.03162) and SugarCrepe (arXiv:2306.14610), retrieval.md 5.6.

A picture's own caption has to score above its negative. Where two pictures are each other's
negatives, Winoground's scores follow: text (both pictures choose their caption), image (both
captions choose their picture), group (both). The file exists so that one comparison serves every
such set and every method that compares pictures with texts.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.vectors import as_sets
from vlp_jax.data.source import Source, check_key
from vlp_jax.evals.base import EvalFn, Evaluator, Result, embed_texts, unit_rows
from vlp_jax.evals.kits.figures import Pictures, Told, extremes
from vlp_jax.evals.kits.samples import embed_pictures, open_samples, read_metadata
from vlp_jax.evals.kits.wording import prompted

BY = {"cosine": ("embed_image", "embed_text"), "match": ("match",)}
CHANCE = {"accuracy": 1 / 2, "text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}


@dataclasses.dataclass(frozen=True)
class Compositional(Evaluator):
    """Config keys: path: data set. by: `cosine` of both towers, or the logits of `match`.
    caption, negative: JSON keys. group: JSON key by whose values the scores are given too. pair:
    JSON key that two pictures share which are each other's negatives. prefix: put before each
    caption. limit: so many samples (0 = all). shown: best and worst pictures kept for the report.
    """

    by: str = "cosine"
    caption: str = "caption"
    negative: str = "negative_caption"
    group: str = "category"
    pair: str = "pair"
    prefix: str = ""
    limit: int = 0
    shown: int = 6

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise UserError(f"compositional.by={self.by!r} is unknown{nearest(self.by, BY)}")
        if self.shown < 1:
            raise UserError(f"compositional needs shown >= 1, got {self.shown}")

    @property
    def requires(self) -> tuple[str, ...]:
        """What `by` names."""
        return BY[self.by]

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The set has both captions."""
        for source in sources.values():
            for key in ("caption", "negative"):
                check_key(source, getattr(self, key), f"{where}.{key}")

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics accuracy, accuracy_VALUE of each group and, where there are pairs,
        text_score, image_score and group_score, in [0, 1]; a table by group.
        """
        source = open_samples(self.path, self.limit)
        metas = [{} if sample is None else sample["meta"] for sample in read_metadata(source)]
        texts = [self._texts(meta) for meta in metas]
        if not any(texts):
            keys = f"{self.caption!r} and {self.negative!r}"
            raise UserError(f"no sample has a text under both JSON keys {keys}")
        worded = [[self.prefix + text for text in some] if some else ["", ""] for some in texts]
        scores, kept = self._scores(fns, source, worded)
        told = np.asarray([bool(texts[i]) for i in kept], bool)
        scores, kept = scores[told], kept[told]
        metas, texts = [metas[i] for i in kept], [texts[i] for i in kept]
        pairs = paired([meta.get(self.pair) for meta in metas])
        groups = [str(meta[self.group]) if meta.get(self.group) else "" for meta in metas]
        metrics, table = summarise(scores, pairs, groups)
        figure = self._figure(scores, texts, Pictures(source, kept))
        protocol = {
            "by": self.by,
            "prefix": self.prefix,
            "ties": "wrong",
            "pictures": len(kept),
            "pairs": len(pairs),
            "left out": len(source) - len(kept),
        }
        details = {"protocol": protocol, "scores": scores, "kept": kept}
        return Result(metrics, {"groups": table}, {"captions": figure}, details)

    def _texts(self, meta: Mapping[str, Any]) -> list[str]:
        """Caption and negative, [] where one is missing."""
        found = [meta.get(key) for key in (self.caption, self.negative)]
        return found if all(isinstance(text, str) and text.strip() for text in found) else []

    def _figure(
        self, scores: np.ndarray, texts: Sequence[Sequence[str]], pictures: Pictures
    ) -> Told:
        """The pictures whose caption is the furthest above its negative, and below."""
        margin = scores[:, 0] - scores[:, 1]

        def entry(i: int) -> dict[str, Any]:
            said = texts[i][int(margin[i] <= 0)]
            both = {"right": texts[i][:1], "against": texts[i][1:]}
            return {"image": int(i), "score": margin[i], "said": said, **both}

        best, worst = extremes(margin, self.shown)
        groups = {"best": list(map(entry, best)), "worst": list(map(entry, worst))}
        return Told(": captions chosen, by margin over the negative", groups, pictures)

    def _scores(
        self, fns: Mapping[str, EvalFn], source: Source, texts: Sequence[Sequence[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """float32[K, 2], of the pictures' captions and negatives, and int[K], the samples."""
        if self.by == "cosine":
            image, kept = embed_pictures(fns["embed_image"], source, self.context)
            flat = [text for i in kept for text in texts[i]]
            rows = unit_rows(embed_texts(fns["embed_text"], flat, self.context))
            texts_of = rows.reshape(len(kept), 2, -1)
            vectors = as_sets(unit_rows(image))
            return np.einsum("knd,kcd->knc", vectors, texts_of).max(1), kept
        columns, reads = [], self.reads.get("match", {})
        for some in zip(*texts, strict=True):
            ask = prompted(fns["match"], some, self.context, reads)
            logits, kept = embed_pictures(ask, source, self.context)
            columns.append(logits[:, 1] - logits[:, 0])
        return np.stack(columns, axis=1), kept


def paired(values: Sequence[Any]) -> np.ndarray:
    """int[P, 2]: rows that share a value, where it is those of just two; None is no value.

    >>> paired([7, 8, 7, None, 8, 9]).tolist()
    [[0, 2], [1, 4]]
    """
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        if value is not None:
            rows.setdefault(str(value), []).append(row)
    two = [some for some in rows.values() if len(some) == 2]
    return np.asarray(two, int).reshape(-1, 2)


def winoground(scores: np.ndarray, pairs: np.ndarray) -> dict[str, np.ndarray]:
    """{score: bool[P]} of pairs; scores float32[N, 2]: s(own caption), s(the other's).

    Worked example: of captions a, b and pictures A, B with rows [s(a, A), s(b, A)] = [.3, .2] and
    [s(b, B), s(a, B)] = [.9, .4] the text is right both times, the image is not: a prefers B.
    """
    (own_a, other_a), (own_b, other_b) = (scores[side].T for side in pairs.T)
    text = (own_a > other_a) & (own_b > other_b)
    image = (own_a > other_b) & (own_b > other_a)
    return {"text_score": text, "image_score": image, "group_score": text & image}


def summarise(
    scores: np.ndarray, pairs: np.ndarray, groups: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over all and of each group with their chance, and a row of each group; a pair is of its
    first picture's group."""
    right = {"accuracy": scores[:, 0] > scores[:, 1]}
    if len(pairs):
        right |= winoground(scores, pairs)
    first = {name: pairs[:, 0] for name in right} | {"accuracy": np.arange(len(scores))}
    of = np.asarray(groups)
    metrics = {name: float(each.mean()) for name, each in right.items()}
    metrics |= {f"chance_{name}": CHANCE[name] for name in right}
    table, counts = [], Counter(group for group in groups if group)
    for group, count in counts.most_common():
        mine = {name: each[of[first[name]] == group] for name, each in right.items()}
        means = {name: float(each.mean()) if len(each) else None for name, each in mine.items()}
        table.append({"group": group, "pictures": count, **means})
    if len(counts) > 1 and not len(pairs):
        metrics |= {f"accuracy_{row['group']}": row["accuracy"] for row in table}
        metrics["accuracy_mean"] = float(np.mean([row["accuracy"] for row in table]))
    return metrics, table
