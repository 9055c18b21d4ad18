"""BLEU, ROUGE-L and CIDEr-D of captions, to the numbers of the COCO caption evaluation.

Papineni et al. 2002; Lin 2004; Vedantam et al. 2015 (arXiv:1411.5726), with the constants and
choices of pycocoevalcap 1.2, which every captioning paper reports: they are told where they matter.
All take captions as `ptb.tokenize` gives them. METEOR and SPICE are not here: they need WordNet,
paraphrase tables and parsers that come with Java programs alone. The file exists so that captions
are scored without Java.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MAX_N = 4  # n-grams of 1 to 4 words
_FEW, _NONE = 1e-15, 1e-9  # added to matches and to n-grams: no n-grams score 0, not 0 / 0
_BETA = 1.2  # ROUGE-L weighs recall that many times as much as precision
_SIGMA = 6.0  # words of difference in length that CIDEr-D bears

Grams = Counter[tuple[str, ...]]


class Scores(NamedTuple):
    """A score of a data set, float64[] or [4], and of each picture, float64[N] or [N, 4]."""

    corpus: np.ndarray
    each: np.ndarray


def check_captions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError where there is no picture, or one without references."""
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} captions for the references of {len(references)}")
    bare = [i for i, refs in enumerate(references) if not refs]
    if bare:
        raise ValueError(f"picture {bare[0]} has no reference caption")


def _grams(text: str) -> Grams:
    """How often each n-gram is in a text."""
    words = text.split()
    spans = ((i, n) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))
    return Counter(tuple(words[i : i + n]) for i, n in spans)


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """BLEU-1 to BLEU-4 in [0, 1]: float64[4] over all n-grams of the set, float64[N, 4] of each
    picture. The reference of the nearest length counts for brevity, the shorter of two as near.

    Raises:
      ValueError: see `check_captions`.
    """
    check_captions(hypotheses, references)
    pairs = zip(hypotheses, references, strict=True)
    counts = np.asarray([_matches(text, refs) for text, refs in pairs], np.float64)  # [N, 10]
    return Scores(_bleu_of(counts.sum(0, keepdims=True))[0], _bleu_of(counts))


def _matches(text: str, refs: Sequence[str]) -> list[int]:
    """Matching 1- to 4-grams, each at most as often as in one reference, all 1- to 4-grams, words,
    words of the nearest reference."""
    most: Grams = Counter()
    for ref in refs:
        most |= _grams(ref)
    right = [0] * MAX_N
    for gram, count in _grams(text).items():
        right[len(gram) - 1] += min(count, most[gram])
    length = len(text.split())
    nearest = min((abs(n - length), n) for n in (len(ref.split()) for ref in refs))[1]
    return [*right, *(max(0, length - n) for n in range(MAX_N)), length, nearest]


def _bleu_of(counts: np.ndarray) -> np.ndarray:
    """float64[N, 10] counts of `_matches` -> float64[N, 4]."""
    right, total = counts[:, :MAX_N], counts[:, MAX_N:-2]
    product = np.cumprod((right + _FEW) / (total + _NONE), axis=1)
    ratio = (counts[:, -2:-1] + _FEW) / (counts[:, -1:] + _NONE)
    brevity = np.exp(np.minimum(0, 1 - 1 / ratio))
    return product ** (1 / np.arange(1, MAX_N + 1)) * brevity


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """ROUGE-L in [0, 1]: the F of the best precision and the best recall of a longest common
    subsequence, which may be of two references; the set's is the mean.

    Raises:
      ValueError: see `check_captions`.
    """
    check_captions(hypotheses, references)
    pairs = zip(hypotheses, references, strict=True)
    each = np.asarray([_rouge_of(text, refs) for text, refs in pairs])
    return Scores(each.mean(), each)


def _rouge_of(text: str, refs: Sequence[str]) -> float:
    words = text.split(" ")  # an empty caption is one empty word
    others = [ref.split(" ") for ref in refs]
    common = [_common(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(n / len(other) for n, other in zip(common, others, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(row[j], before[j + 1]))
    return row[-1]


def cider_d(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """CIDEr-D in [0, 10], which papers give as a percentage; the set's is the mean.

    How rare an n-gram is follows from the pictures of this set that have it in a reference, so a
    part of a set has another score, and one picture alone 0. The Gaussian of the length takes the
    difference of words for all n.

    Raises:
      ValueError: see `check_captions`.
    """
    check_captions(hypotheses, references)
    refs = [[_grams(ref) for ref in some] for some in references]
    pictures = Counter(gram for some in refs for gram in set().union(*some))
    log_total = math.log(len(refs))
    weight = {gram: log_total - math.log(count) for gram, count in pictures.items()}
    each = np.zeros(len(refs))
    for i, (text, some) in enumerate(zip(hypotheses, refs, strict=True)):
        mine = _Weighed(_grams(text), weight, log_total)
        others = [_Weighed(ref, weight, log_total) for ref in some]
        each[i] = 10 * np.mean([mine.likeness(other) for other in others])
    return Scores(each.mean(), each)


class _Weighed:
    """n-grams by count times rarity, the norm of those of every n, and how many words they have
    (one less: the pairs of words)."""

    def __init__(self, grams: Grams, weight: Mapping[tuple[str, ...], float], unseen: float):
        self.grams = {gram: count * weight.get(gram, unseen) for gram, count in grams.items()}
        square = np.zeros(MAX_N)
        for gram, value in self.grams.items():
            square[len(gram) - 1] += value * value
        self.norm = np.sqrt(square)
        self.length = sum(count for gram, count in grams.items() if len(gram) == 2)

    def likeness(self, other: "_Weighed") -> float:
        """Mean over n of the cosine, with no n-gram counted more often than `other` has it."""
        dot = np.zeros(MAX_N)
        for gram, value in self.grams.items():
            theirs = other.grams.get(gram, 0.0)
            dot[len(gram) - 1] += min(value, theirs) * theirs
        norm = self.norm * other.norm
        cosine = np.divide(dot, norm, out=np.zeros(MAX_N), where=norm != 0)
        return float(cosine.mean() * math.exp(-((self.length - other.length) ** 2) / 2 / _SIGMA**2))
