"""Image-text retrieval with several captions a picture (CLIP, arXiv:2103.00020 Table 13; Karpathy
splits).

Text to image: over every caption, is its picture in the top K. Image to text: over every picture,
is any of its captions in the top K. The file exists because the choices that move R@1 by a point
(ties, prefix, number of captions, captions that several pictures share) must be made once, on
purpose, and be printed with every result.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.vectors import facing, similarities
from vlp_jax.data.source import Source, captioned, check_key
from vlp_jax.data.subset import Subset
from vlp_jax.evals.base import EvalFn, Evaluator, Result, embed_texts, unit_rows
from vlp_jax.evals.kits.figures import Figure, HeatMap, Pictures, Queries, Space, evenly
from vlp_jax.evals.kits.ranking import Ranked, rank, rank_few
from vlp_jax.evals.kits.rerank import REQUIRES, Few, rerank
from vlp_jax.evals.kits.samples import embed_pictures, open_samples, read_captions

RECALL_AT = (1, 5, 10)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Which caption belongs to which picture, with equal texts stored once.

    texts: the U distinct captions. text_of: int32[M] caption -> text. owner: int32[M] caption ->
    picture. Worked example: pictures with captions [a, b] and [b]: texts [a, b], text_of [0, 1, 1],
    owner [0, 0, 1].
    """

    texts: list[str]
    text_of: np.ndarray
    owner: np.ndarray
    num_images: int

    @classmethod
    def from_captions(cls, captions: list[list[str]]) -> "Pairs":
        """Builds the table from the captions of each picture."""
        flat = [text for texts in captions for text in texts]
        place = {text: i for i, text in enumerate(dict.fromkeys(flat))}
        owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
        return cls(list(place), np.asarray([place[t] for t in flat]), owner, len(captions))

    @property
    def counts(self) -> np.ndarray:
        """int[U]: how many captions have each text."""
        return np.bincount(self.text_of, minlength=len(self.texts))

    @property
    def strangers(self) -> np.ndarray:
        """int[M]: how many captions of other pictures have each caption's text."""
        key = self.owner * len(self.texts) + self.text_of
        _, place, copies = np.unique(key, return_inverse=True, return_counts=True)
        return self.counts[self.text_of] - copies[place]

    def told(self) -> str:
        """How many pictures have a caption that another one has too, in words."""
        shared = len(np.unique(self.owner[self.strangers > 0]))
        return f"{shared} of {self.num_images} pictures have a caption of another" if shared else ""


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluator):
    """Recall at 1, 5 and 10 both ways. Config keys:

    path: data set. caption: JSON key to read captions from ('' = the sample's captions). captions:
    use the first so many of each picture (0 = all; COCO: 5). prefix: put before each caption (CLIP:
    'a photo of '). share_duplicates: captions of equal text share their pictures as positives;
    where there are such, the other way is reported too, as `strict_` or `shared_` metrics. rerank:
    the K nearest of each query (pictures, distinct texts) once more, by cosine + logit of a match,
    the others behind them in their order (0 = none; BLIP: 256 on COCO, 128 on Flickr30k), as
    `rerank_` metrics. limit: so many samples (0 = all). shown: best and worst queries kept for the
    pictures of the report.
    """

    caption: str = ""
    captions: int = 0
    prefix: str = ""
    share_duplicates: bool = False
    rerank: int = 0
    limit: int = 0
    shown: int = 6

    @property
    def requires(self) -> tuple[str, ...]:
        """Both towers; for a rerank what sees pairs, too."""
        return ("embed_image", "embed_text", *(REQUIRES if self.rerank else ()))

    def __post_init__(self) -> None:
        for key in ("captions", "rerank", "shown"):
            if getattr(self, key) < 0:
                raise UserError(f"retrieval.{key} is {getattr(self, key)}, it must be >= 0")

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The set has the captions that will be asked for."""
        for source in sources.values():
            if self.caption:
                check_key(source, self.caption, f"{where}.caption")
            elif not captioned(source):
                raise UserError(f"{where}: no captions in {self.path!r}; {where}.path needs pairs")

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics i2t_r1 ... t2i_r10 (fractions), r_mean, median ranks, chance levels; with
        equal captions also `strict_max_` ones, the most that strict recalls can be.
        """
        source = open_samples(self.path, self.limit)
        captions = read_captions(source, self.caption, self.captions)
        image, kept = embed_pictures(fns["embed_image"], source, self.context)
        told = np.asarray([bool(captions[i]) for i in kept], bool)
        image, kept = image[told], kept[told]
        if len(kept) <= max(RECALL_AT):
            few = "retrieval among %d pictures only: recalls at %d and %d are high in any order"
            _log.warning(few, len(kept), *RECALL_AT[1:])
        pairs = Pairs.from_captions([captions[i] for i in kept])
        prompts = [self.prefix + text for text in pairs.texts]
        text = unit_rows(embed_texts(fns["embed_text"], prompts, self.context))
        image = unit_rows(image)
        share = self.share_duplicates
        i2t, t2i = (way(image, text, pairs, share) for way in (rank_captions, rank_pictures))
        metrics, table = summarise(i2t, t2i, pairs, share)
        if pairs.strangers.any():
            other = [way(image, text, pairs, not share) for way in (rank_captions, rank_pictures)]
            more, rows = both_protocols(summarise(*other, pairs, not share)[0], pairs, share)
            metrics, table = metrics | more, table + rows
        if self.rerank:
            vectors, own = (image, text), Subset(source, kept)
            how = vectors, self.rerank, self.context, self.reads
            more, rows = summarise_reranked(rerank(fns, own, prompts, *how), pairs, vectors, share)
            metrics, table = metrics | more, table + rows
        details = {
            "protocol": {
                "prefix": self.prefix,
                "captions": self.captions or "all",
                "embeddings": "float32",
                "ties": "pessimistic",
                "duplicates": "shared" if self.share_duplicates else "strict",
                "equal captions": pairs.told(),
                "rerank": f"the nearest {self.rerank}" if self.rerank else "none",
                "images": pairs.num_images,
                "texts": len(pairs.owner),
                "damaged": len(source) - len(kept),
            },
            "image": image,
            "text": text,
            "pairs": pairs,
            "kept": kept,
        }
        pictures = Pictures(source, kept)
        shown = maps(image, text, pairs, pictures)
        ways = (("i2t", "image to text", i2t, _caption_entry),)
        ways += (("t2i", "text to image", t2i, _picture_entry),)
        for short, title, ranked, entry in ways:
            some = _extremes(ranked, self.shown, functools.partial(entry, ranked, pairs))
            shown[short] = Queries(f", {title}: best and worst", some, pictures)
        return Result(metrics, {"recall": table}, shown, details)


def rank_captions(
    image: np.ndarray, text: np.ndarray, pairs: Pairs, share: bool, few: Few | None = None
) -> Ranked:
    """Image to text: rank of each picture's best caption among all captions (not distinct texts);
    few: by these scores of texts."""
    own, copies = np.unique(np.stack([pairs.owner, pairs.text_of]), axis=1, return_counts=True)
    positive = _table(own[0], own[1], pairs.num_images)
    strangers = np.zeros_like(own[0]) if share else pairs.counts[own[1]] - copies
    extra = np.maximum(_table(own[0], strangers, pairs.num_images), 0)
    how = dict(weight=pairs.counts, extra=extra)
    if few is None:
        return rank(image, text, positive, **how)
    return rank_few(few, image, text, positive, **how)


def rank_pictures(
    image: np.ndarray, text: np.ndarray, pairs: Pairs, share: bool, few: Few | None = None
) -> Ranked:
    """Text to image: rank of each caption's best picture; few: by these scores of pictures."""
    positive = pairs.owner[:, None]
    if share:
        own = np.unique(np.stack([pairs.text_of, pairs.owner]), axis=1)
        positive = _table(own[0], own[1], len(pairs.texts))[pairs.text_of]
    positive = positive.astype(np.int32)
    queries = text[pairs.text_of]
    if few is None:
        return rank(queries, image, positive)
    mine = few.ids[pairs.text_of], few.score[pairs.text_of]
    return rank_few(mine, queries, image, positive, weight=np.ones(pairs.num_images))


def summarise_reranked(
    few: tuple[Few, Few], pairs: Pairs, rows: tuple[np.ndarray, np.ndarray], share: bool
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`rerank_` metrics and rows of the table, of the nearest texts and pictures scored again."""
    i2t = rank_captions(*rows, pairs, share, few[0])
    t2i = rank_pictures(*rows, pairs, share, few[1])
    metrics, table = summarise(i2t, t2i, pairs, share)
    found = {f"rerank_{k}": v for k, v in metrics.items() if not k.startswith("chance_")}
    for row in table[::2]:  # between them: chance
        row["direction"] += ", reranked"
    return found, table


def _table(row: np.ndarray, value: np.ndarray, num_rows: int) -> np.ndarray:
    """Ragged rows as int32[num_rows, longest], padded with -1; rows [0, 0, 1] of [7, 8, 9]: [[7,
    8], [9, -1]]."""
    length = np.bincount(row, minlength=num_rows)
    place = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    out = np.full((num_rows, length.max(initial=1)), -1, np.int32)
    out[np.sort(row), place] = value[np.argsort(row, kind="stable")]
    return out


def chance_recall(positives: np.ndarray, total: int, k: int) -> float:
    """Recall at k of a random order: mean of 1 - C(total - p, k) / C(total, k) over queries."""
    miss = np.ones(len(positives))
    for step in range(min(k, total)):
        miss *= np.maximum(total - positives - step, 0) / (total - step)
    return float(np.mean(1 - miss))


def summarise(
    i2t: Ranked, t2i: Ranked, pairs: Pairs, share: bool
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Recall, median rank and chance of both directions as flat metrics and as a table."""
    own = np.unique(np.stack([pairs.owner, pairs.text_of]), axis=1)
    num_texts = np.bincount(pairs.owner, minlength=pairs.num_images)
    num_images = np.ones(len(pairs.owner), int)
    if share:
        num_texts = np.bincount(own[0], pairs.counts[own[1]], pairs.num_images)
        num_images = np.bincount(own[1], minlength=len(pairs.texts))[pairs.text_of]
    ways = (
        ("i2t", "image to text", i2t.rank, num_texts, len(pairs.owner)),
        ("t2i", "text to image", t2i.rank, num_images, pairs.num_images),
    )
    metrics, table, recalls = {}, [], []
    for short, title, ranks, positives, total in ways:
        row, luck = {"direction": title}, {"direction": "  chance"}
        for k in RECALL_AT:
            recall, chance = float(np.mean(ranks <= k)), chance_recall(positives, total, k)
            metrics |= {f"{short}_r{k}": recall, f"chance_{short}_r{k}": chance}
            row[f"R@{k}"], luck[f"R@{k}"] = recall, chance
            recalls.append(recall)
        metrics[f"{short}_median_rank"] = row["median rank"] = float(np.median(ranks))
        table += [row, luck | {"median rank": None}]
    metrics["r_mean"] = float(np.mean(recalls))
    return metrics, table


def strict_bounds(pairs: Pairs) -> dict[str, float]:
    """The largest strict recalls, i2t_r1 ... t2i_r10: equal texts are ties, which count against.

    A picture's caption ranks behind every stranger of its text; of the pictures that share a text
    only K can be among the first K. Worked example: pictures with captions [a], [a], [b]: 1/3 and
    2/3 at 1, all at 5.
    """
    fewest = np.full(pairs.num_images, np.iinfo(np.int64).max)
    np.minimum.at(fewest, pairs.owner, pairs.strangers)
    own = np.unique(np.stack([pairs.owner, pairs.text_of]), axis=1)
    pictures = np.bincount(own[1], minlength=len(pairs.texts))[pairs.text_of]
    bounds = {f"i2t_r{k}": float(np.mean(fewest < k)) for k in RECALL_AT}
    return bounds | {f"t2i_r{k}": float(np.mean(np.minimum(1, k / pictures))) for k in RECALL_AT}


def both_protocols(
    other: Mapping[str, float], pairs: Pairs, share: bool
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and rows of the protocol that was not asked for, and of the bounds of the strict one;
    share: whether the shared one was asked for.
    """
    name, title = ("strict", "own pairs only") if share else ("shared", "any equal caption")
    bounds = strict_bounds(pairs)
    ways, rows = {"i2t": "image to text", "t2i": "text to image"}, []
    for short, way in ways.items():
        for head, found in ((f"{way}, {title}", other), (f"{way}, own pairs at most", bounds)):
            recalls = {f"R@{k}": found[f"{short}_r{k}"] for k in RECALL_AT}
            rows.append(
                {"direction": head, **recalls, "median rank": found.get(f"{short}_median_rank")}
            )
    more = {f"{name}_{key}": v for key, v in other.items() if not key.startswith("chance_")}
    return more | {f"strict_max_{key}": value for key, value in bounds.items()}, rows


def maps(
    image: np.ndarray, text: np.ndarray, pairs: Pairs, pictures: Pictures
) -> dict[str, Figure]:
    """Some pictures against the first captions of them, and more of both in the shared space."""
    first = np.unique(pairs.owner, return_index=True)[1]  # first caption of each picture
    text_of = pairs.text_of[first]
    few, some = evenly(pairs.num_images, 10), evenly(pairs.num_images, 250)
    texts = list(dict.fromkeys(text_of[few].tolist()))
    return {
        "similarity": HeatMap(
            ": pictures against prompts",
            pictures.at(few),
            [pairs.texts[u] for u in texts],
            np.asarray(similarities(image[few], text[texts])),
            [texts.index(u) for u in text_of[few].tolist()],
        ),
        "space": Space(
            ": the shared space",
            np.asarray(facing(image[some], text[text_of[some]])),
            text[text_of[some]],
            [pairs.texts[u] for u in text_of[some]],
            pictures.at(some),
        ),
    }


def _extremes(ranked: Ranked, count: int, entry: Any) -> dict[str, list[dict[str, Any]]]:
    """The best and worst queries: by rank, and by margin where ranks are equal."""
    order = np.lexsort((-ranked.margin, ranked.rank))
    best, worst = order[:count], order[::-1][:count]
    return {"best": [entry(row) for row in best], "worst": [entry(row) for row in worst]}


def _caption_entry(ranked: Ranked, pairs: Pairs, row: int) -> dict[str, Any]:
    """A picture and the captions that were found for it."""
    right = sorted(set(pairs.text_of[pairs.owner == row].tolist()))
    return {
        "image": int(row),
        "rank": int(ranked.rank[row]),
        "of": len(pairs.owner),
        "right": [pairs.texts[u] for u in right],
        "found": [pairs.texts[u] for u in ranked.top[row]],
        "hits": [int(u) in right for u in ranked.top[row]],
        "scores": ranked.score[row].tolist(),
    }


def _picture_entry(ranked: Ranked, pairs: Pairs, row: int) -> dict[str, Any]:
    """A caption and the pictures that were found for it."""
    owners = pairs.owner[pairs.text_of == pairs.text_of[row]].tolist()
    return {
        "text": pairs.texts[pairs.text_of[row]],
        "rank": int(ranked.rank[row]),
        "of": pairs.num_images,
        "right": [int(pairs.owner[row])],
        "found": ranked.top[row].tolist(),
        "hits": [int(i) in owners for i in ranked.top[row]],
        "scores": ranked.score[row].tolist(),
    }
