"""Whether sentences are true of two pictures (NLVR2, arXiv:1811.00491; reference: lil-lab/nlvr,
nlvr2/eval/metrics.py).

A sentence is written for several pairs, of which it is true and false; consistency is the share of
sentences that are judged right about all of theirs. The file exists so that any method with a
function `pair_logits` is measured by both numbers.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.source import Source, captioned, check_key, check_member
from vlp_jax.evals.base import EvalFn, Evaluator, Result
from vlp_jax.evals.kits.samples import embed_pictures, open_samples, read_metadata, read_values
from vlp_jax.evals.kits.wording import prompted, tokenizer_of

_IDENTIFIER = re.compile(r"(.+)-\d+-(\d+)")  # split-set-PAIR-sentence
_SAID = {"true": 1, "false": 0, "1": 1, "0": 0}


@dataclasses.dataclass(frozen=True)
class Nlvr(Evaluator):
    """Calls `pair_logits`: {image, second_image, text[, text_mask]} -> float32[B, 2], logits of
    false and true.

    Config keys: path: data set. first, second: the files of a sample (data.fields.NAME.member) that
    are its pictures, '' of the first its own. sentence: JSON key, '' = the caption. label: JSON key
    of true or false, words or 1 and 0. identifier: JSON key of NLVR2's names, by which pairs have a
    sentence in common; where a sample has none, by its words. limit: so many samples (0 = all).
    """

    first: str = ""
    second: str = "second_image"
    sentence: str = ""
    label: str = "label"
    identifier: str = "identifier"
    limit: int = 0

    requires = ("pair_logits",)

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The set has labels, sentences and second pictures, the run a tokenizer."""
        tokenizer_of(self.context)
        for source in sources.values():
            check_key(source, self.label, f"{where}.label")
            check_member(source, self.second, f"{where}.second")
            if self.sentence:
                check_key(source, self.sentence, f"{where}.sentence")
            elif not captioned(source):
                raise UserError(f"{where}: no sentences in {self.path!r}; set {where}.sentence")

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics accuracy, consistency and chance_accuracy (one answer to all), in [0, 1].

        Raises:
          UserError: a label that is neither true nor false.
        """
        source = open_samples(self.path, self.limit)
        truth = [_truth(value) for value in read_values(source, self.label)]
        metas = list(read_metadata(source))
        texts = [_sentence(sample, self.sentence) for sample in metas]
        members = {"second_image": self.second} | ({"image": self.first} if self.first else {})
        reads = self.reads.get("pair_logits", {})
        judge = prompted(fns["pair_logits"], texts, self.context, reads)
        logits, kept = embed_pictures(judge, source, self.context, members)
        told = np.asarray([truth[i] is not None and bool(texts[i]) for i in kept], bool)
        if not told.any():
            raise UserError(f"none of {len(source)} samples has a sentence and a label")
        said, kept = logits.argmax(1)[told], kept[told]
        truth = np.asarray([truth[i] for i in kept])
        right = said == truth
        names = [self._common(metas[i], texts[i]) for i in kept]
        whole = consistent(right, names)
        metrics = {
            "accuracy": float(right.mean()),
            "consistency": float(np.mean(list(whole.values()))),
            "chance_accuracy": float(max(truth.mean(), 1 - truth.mean())),
        }
        table = [
            {"label": name, "pairs": int(own.sum()), "accuracy": float(right[own].mean())}
            for name, own in (("false", truth == 0), ("true", truth == 1))
            if own.any()
        ]
        lost = len(source) - len(kept)
        protocol = {"pairs": len(kept), "sentences": len(whole), "damaged": lost}
        details = {"protocol": protocol, "logits": logits[told], "kept": kept}
        return Result(metrics, {"labels": table}, {}, details)

    def _common(self, sample: Mapping[str, Any], text: str) -> str:
        """What the pairs of one sentence have in common."""
        found = _IDENTIFIER.fullmatch(str(sample["meta"].get(self.identifier, "")))
        return f"{found[1]}-{found[2]}" if found else text


def consistent(right: np.ndarray, names: Sequence[str]) -> dict[str, bool]:
    """{name: whether all of its rows are right}.

    >>> consistent([True, False, True], ["a", "a", "b"])
    {'a': False, 'b': True}
    """
    found: dict[str, bool] = {}
    for one, name in zip(right, names, strict=True):
        found[name] = found.get(name, True) and bool(one)
    return found


def _truth(value: Any) -> int | None:
    """1, 0, or None of a damaged sample."""
    if value is None:
        return None
    found = _SAID.get(str(value).strip().lower())
    if found is None:
        raise UserError(f"label={value!r}: must be true or false, or 1 or 0")
    return found


def _sentence(sample: Mapping[str, Any] | None, key: str) -> str:
    """The sentence of a sample; '' where it has none."""
    if sample is None:
        return ""
    found = sample["meta"].get(key) if key else next(iter(sample["text"]), "")
    return found if isinstance(found, str) else ""
