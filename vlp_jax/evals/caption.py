"""Captions that a model writes against those of people (COCO, NoCaps, Flickr30k).

BLEU, ROUGE-L and CIDEr-D over the words of the Penn Treebank, to the numbers of pycocoevalcap; see
kits/caption_scores.py, also for what is not here (METEOR, SPICE). The file exists so that any
method with a function `generate_text` can be measured as captioning papers do.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.caption import candidates
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.scenes.things import Thing
from vlp_jax.data.source import Source, captioned, check_key
from vlp_jax.evals.base import EvalFn, Evaluator, Result
from vlp_jax.evals.kits.caption_scores import bleu, cider_d, rouge_l
from vlp_jax.evals.kits.figures import Pictures, Told, extremes
from vlp_jax.evals.kits.ptb import tokenize
from vlp_jax.evals.kits.samples import embed_pictures, open_samples, read_metadata
from vlp_jax.evals.kits.wording import check_prompt, prompted, read_ids

MOST_GROUPS = 10  # whose scores are metrics; a table has all


@dataclasses.dataclass(frozen=True)
class Caption(Evaluator):
    """Calls `generate_text`: {image[, prompt, prompt_mask]} -> what decoding/steps.py
    Written holds.

    Config keys: path: data set. caption: JSON key of the references ('' = all captions). prompt:
    text to go on from, if the method reads one ("a picture of "); it is no part of the caption.
    group: JSON key by whose values the scores are given too, each over its own pictures alone
    (NoCaps: domain). names: JSON key of what a picture shows, texts or entries with a "name"
    (composed scenes: objects). limit: so many samples (0 = all). shown: best and worst captions
    kept for the pictures of the report.
    """

    caption: str = ""
    prompt: str = ""
    group: str = ""
    names: str = ""
    limit: int = 0
    shown: int = 6

    requires = ("generate_text",)

    def __post_init__(self) -> None:
        if self.shown < 1:
            raise UserError(f"caption needs shown >= 1, got {self.shown}")

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The set has references and groups, the run a tokenizer, which holds the prompt."""
        check_prompt(self.prompt, f"{where}.prompt", self.context)
        for source in sources.values():
            for key in ("caption", "group", "names"):
                if getattr(self, key):
                    check_key(source, getattr(self, key), f"{where}.{key}")
            if not self.caption and not captioned(source):
                raise UserError(f"{where}: no captions in {self.path!r} to compare with")

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics bleu1 to bleu4 and rouge_l in [0, 1], cider_d in [0, 10], cider_d_VALUE
        of each group, words (mean length), distinct (different captions a picture), named (share
        of captions with the name of all that is there, singular or plural), and as chance each
        score where every picture has the caption of the one before.
        """
        source = open_samples(self.path, self.limit)
        people = [_references(sample, self.caption) for sample in read_metadata(source)]
        reads = self.reads.get("generate_text", {})
        write = prompted(fns["generate_text"], self.prompt, self.context, reads)
        rows, kept = embed_pictures(write, source, self.context)
        told = np.asarray([bool(people[i]) for i in kept], bool)
        if not told.any():
            raise UserError(f"none of {len(people)} samples has a caption to compare with")
        texts, kept = (
            read_ids({k: rows[k][told] for k in ("ids", "length")}, self.context),
            kept[told],
        )
        people = [people[i] for i in kept]
        words, references = list(map(tokenize, texts)), [list(map(tokenize, p)) for p in people]
        metrics, each = scores(words, references)
        rolled = words[-1:] + words[:-1]
        chance, _ = scores(rolled, references)
        if self.names:
            there = [_names(source.metadata(int(i))["meta"].get(self.names)) for i in kept]
            metrics["named"], chance["named"] = named(words, there), named(rolled, there)
        metrics |= {f"chance_{name}": value for name, value in chance.items()}
        metrics["words"] = float(np.mean([len(text.split()) for text in words]))
        metrics["distinct"] = len(set(words)) / len(words)
        figure = self._figure(each, texts, people, Pictures(source, kept))
        tables = {"captions": _table(figure)}
        if self.group:
            values = [str(source.metadata(int(i))["meta"].get(self.group)) for i in kept]
            groups = by_group(words, references, values)
            metrics |= {f"cider_d_{row['group']}": row["cider_d"] for row in groups[:MOST_GROUPS]}
            tables = {"groups": groups, **tables}
        protocol = {
            "prompt": self.prompt,
            "references": self.caption or "all captions",
            "words": "Penn Treebank, lower-case",
            "images": len(texts),
            "damaged": len(source) - len(texts),
        }
        details = {"protocol": protocol, "captions": texts, "kept": kept, "cider_d": each}
        return Result(metrics, tables, {"captions": figure}, details)

    def _figure(
        self,
        each: np.ndarray,
        texts: Sequence[str],
        people: Sequence[Sequence[str]],
        pictures: Pictures,
    ) -> Told:
        """The captions of the highest and the lowest score."""
        groups = {
            name: [dict(image=i, score=each[i], said=texts[i], right=people[i]) for i in rows]
            for name, rows in zip(("best", "worst"), extremes(each, self.shown), strict=True)
        }
        return Told(": captions, best and worst by CIDEr-D", groups, pictures)


def scores(
    words: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], np.ndarray]:
    """All scores of tokenised captions by name, and CIDEr-D of each picture float64[N]."""
    found = {f"bleu{n}": value for n, value in enumerate(bleu(words, references).corpus, 1)}
    cider = cider_d(words, references)
    found |= {"rouge_l": rouge_l(words, references).corpus, "cider_d": cider.corpus}
    return {name: float(value) for name, value in found.items()}, cider.each


def named(words: Sequence[str], there: Sequence[Sequence[str]]) -> float:
    """Share of tokenised captions that have every name, as it is or in its regular plural.

    >>> named(["two foxes and a dog", "a dog"], [["fox", "dog"], ["dog", "fox"]])
    0.5
    """
    has = lambda text, name: any(  # noqa: E731
        f" {form} " in f" {text} " for form in (name, Thing(name, "").plural)
    )
    full = [all(has(text, n) for n in names) for text, names in zip(words, there, strict=True)]
    return float(np.mean(full))


def _names(found: Any) -> list[str]:
    """What stands under the key `names`, as tokenised words."""
    names = [one.get("name") if isinstance(one, Mapping) else one for one in found or []]
    return [tokenize(str(name)) for name in names]


def by_group(
    words: Sequence[str], references: Sequence[Sequence[str]], values: Sequence[str]
) -> list[dict[str, Any]]:
    """A row of scores for each distinct value, over its pictures alone."""
    table = []
    for value in sorted(set(values)):
        rows = [i for i, other in enumerate(values) if other == value]
        found, _ = scores([words[i] for i in rows], [references[i] for i in rows])
        table.append({"group": value, "images": len(rows), **found})
    return table


def _references(sample: dict[str, Any] | None, key: str) -> list[str]:
    """The captions of a sample, equal ones as often as they are there (one that stands beside the
    list too, once); [] of a damaged one."""
    if sample is None:
        return []
    try:
        if key or not isinstance(sample["meta"].get("captions"), list):
            return candidates(sample, key or "random")
        listed = candidates(sample, "captions")
        return [text for text in sample["text"] if text not in listed] + listed
    except DamagedSample:
        return []


def _table(figure: Told) -> list[dict[str, Any]]:
    """What a figure shows, in words."""
    source, samples = figure.pictures.source, figure.pictures.samples
    return [
        {
            "picture": source.metadata(int(samples[entry["image"]]))["key"],
            "CIDEr-D": float(entry["score"]),
            "caption": entry["said"],
            "one reference": entry["right"][0],
        }
        for entries in figure.groups.values()
        for entry in entries
    ]
