"""Questions about pictures, by the rule of VQA (arXiv:1505.00468; kits/answers.py).

An answer is generated (`generate_answer`), or it is the likeliest of a list (`answer_loglik`), as
BLIP (arXiv:2201.12086) answers. The file exists so that both kinds of model share questions, rule
and tables.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Field, Text
from vlp_jax.core.types import HostBatch
from vlp_jax.data.encoding import read_text
from vlp_jax.data.source import Source, check_key
from vlp_jax.data.text.rows import text_rows
from vlp_jax.evals.base import EvalContext, EvalFn, Evaluator, Result
from vlp_jax.evals.kits.answers import accuracy, normalise, tidy
from vlp_jax.evals.kits.figures import Pictures, Told, extremes
from vlp_jax.evals.kits.samples import embed_pictures, open_samples, read_metadata
from vlp_jax.evals.kits.wording import check_prompt, prompted, read_ids, tell_cut, tokenizer_of

TYPES = ("answer_type", "question_type")  # JSON keys
MODES = {"generate": "generate_answer", "rank": "answer_loglik"}


@dataclasses.dataclass(frozen=True)
class Vqa(Evaluator):
    """Calls `generate_answer`: {image, prompt, prompt_mask} -> what decoding/steps.py
    Written holds, or `answer_loglik`: those and {answers: int32[B, K, L], answers_mask: bool[B, K,
    L]} -> float32[B, K], the log-likelihood of each candidate. Where a function reads no prompt,
    the question is its `text`.

    Config keys: path: data set. mode: generate or rank. question, answers: JSON keys; one answer
    alone is compared with after normalising, ten by the rule. prompt: how a question is put
    ("Question: {question} Short answer:"). candidates: for rank, a file of one answer a line (''
    = the answers of the set itself, the `most` frequent). together: so many candidates a call (0 =
    all: a method sees them at once that takes those of the likeliest first tokens). limit: so many
    samples (0 = all). shown: right and wrong answers kept for the report.
    """

    mode: str = "generate"
    question: str = "question"
    answers: str = "answers"
    prompt: str = "{question}"
    candidates: str = ""
    most: int = 3129
    together: int = 0
    limit: int = 0
    shown: int = 6

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"vqa.mode={self.mode!r} is unknown{nearest(self.mode, MODES)}")
        if "{question}" not in self.prompt:
            raise UserError(f"vqa.prompt={self.prompt!r} has no {{question}}")
        for key, least in (("most", 1), ("together", 0), ("shown", 1)):
            if getattr(self, key) < least:
                raise UserError(f"vqa.{key} is {getattr(self, key)}, it must be >= {least}")

    @property
    def requires(self) -> tuple[str, ...]:
        """The function of its mode."""
        return (MODES[self.mode],)

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The set has questions and answers, the run a tokenizer, which holds the prompt around a
        question, the candidates a file."""
        check_prompt(self.prompt.replace("{question}", ""), f"{where}.prompt", self.context)
        for source in sources.values():
            for key in ("question", "answers"):
                check_key(source, getattr(self, key), f"{where}.{key}")
        if self.candidates:
            read_candidates(self.candidates)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics accuracy and accuracy_TYPE of each answer type, both also as chance_X
        (one answer to all of these questions, that which most people give), and constants (one
        such answer to the questions of each question type), in [0, 1]; tables by both types.
        """
        source = open_samples(self.path, self.limit)
        asked = [self._asked(sample) for sample in read_metadata(source)]
        candidates = self._candidates(asked)
        texts, kept = self._answer(fns[self.requires[0]], asked, candidates, source)
        asked = [asked[i] for i in kept]
        each = np.asarray([agreement(t, a.answers) for t, a in zip(texts, asked, strict=True)])
        metrics, tables = summarise(each, [a.types for a in asked], [a.answers for a in asked])
        entries = [
            dict(image=i, score=each[i], said=texts[i], asked=a.question, right=counted(a.answers))
            for i, a in enumerate(asked)
        ]
        best, worst = extremes(each, self.shown)
        groups = {"best": [entries[i] for i in best], "worst": [entries[i] for i in worst]}
        figure = Told(": answers, right and wrong", groups, Pictures(source, kept))
        one = max(len(a.answers) for a in asked) == 1
        protocol = {
            "mode": self.mode,
            "prompt": self.prompt,
            "candidates": len(candidates) or "none",
            "options": dict(self.how) or "the function's own",
            "rule": "one answer, normalised" if one else "VQA's, of several people",
            "questions": len(texts),
            "damaged": len(source) - len(texts),
        }
        details = {"protocol": protocol, "answers": texts, "kept": kept, "accuracy": each}
        return Result(metrics, tables, {"answers": figure}, details)

    def _answer(
        self, fn: EvalFn, asked: Sequence["Asked"], candidates: Sequence[str], source: Source
    ) -> tuple[list[str], np.ndarray]:
        """What the model says, and int[N], the samples it was asked about that have an answer."""
        reads = self.reads.get(self.requires[0], {})
        if candidates:
            fn = likeliest(fn, candidates, self.context, self.together, reads)
        prompts = [self.prompt.replace("{question}", one.question) for one in asked]
        ask = prompted(fn, prompts, self.context, reads)
        rows, kept = embed_pictures(ask, source, self.context)
        told = np.asarray([bool(asked[i].answers and asked[i].question) for i in kept], bool)
        if not told.any():
            keys = f"{self.question!r} and {self.answers!r}"
            raise UserError(f"no sample has question and answer under the JSON keys {keys}")
        if candidates:
            return [candidates[i] for i in rows[told]], kept[told]
        return read_ids({k: rows[k][told] for k in ("ids", "length")}, self.context), kept[told]

    def _asked(self, sample: Mapping[str, Any] | None) -> "Asked":
        """The question of a sample, "" where it is damaged or has none, and its answers."""
        meta = {} if sample is None else sample["meta"]
        said = meta.get(self.answers)
        said = said if isinstance(said, list) else [said]
        if any(isinstance(one, bool) for one in said):
            key = f"{self.answers!r} of {sample['key']!r}"
            raise UserError(f"vqa.path={self.path!r}: {key} is true or false; write yes or no")
        texts = tuple(str(one) for one in said if isinstance(one, str | int))
        types = {key: str(meta[key]) for key in TYPES if meta.get(key)}
        question = meta.get(self.question)
        return Asked(question.strip() if isinstance(question, str) else "", texts, types)

    def _candidates(self, asked: Sequence["Asked"]) -> list[str]:
        """The answers to choose from; [] where none are asked for."""
        if self.mode == "generate":
            return []
        if self.candidates:
            return read_candidates(self.candidates)
        found = Counter(answer for one in asked for answer in one.answers)
        return [answer for answer, _ in found.most_common(self.most)]


class Asked(NamedTuple):
    """A question, the answers of people, and its types by TYPES."""

    question: str
    answers: tuple[str, ...]
    types: Mapping[str, str]


def read_candidates(path: str) -> list[str]:
    """The distinct lines of a file. Raises UserError where there is none."""
    found = list(dict.fromkeys(line.strip() for line in read_text(path).split("\n")))
    found = [line for line in found if line]
    if not found:
        raise UserError(f"{path!r} holds no answers, one a line")
    return found


def likeliest(
    fn: EvalFn,
    candidates: Sequence[str],
    context: EvalContext,
    together: int = 0,
    reads: Mapping[str, Field] = {},
) -> EvalFn:
    """`answer_loglik` as a function that gives int32[B], the first likeliest candidate of each row;
    so many candidates a call (0: all), of the last ones the first again; reads: its fields.
    """
    tokenizer, field = tokenizer_of(context), reads.get("answers")
    if field is None:
        field = Text(tokenizer.context_length, tokenizer.vocab_size, mask=True)
    tokenizer = context.tokenizers.get(field.tokenizer, tokenizer)  # that they were learned by
    tell_cut(tokenizer, candidates, "answers")
    found = text_rows(tokenizer, field, "answers", candidates)
    ids, mask = found["answers"], found["answers_mask"]
    ids, mask = ids[:, : mask.sum(1).max()], mask[:, : mask.sum(1).max()]
    together = min(together or len(candidates), len(candidates))
    blocks = [
        np.arange(start, start + together) % len(candidates)
        for start in range(0, len(candidates), together)
    ]

    def run(batch: HostBatch) -> tuple[np.ndarray, np.ndarray]:
        found, local = [], len(batch["index"])
        for block in blocks:
            wide = (local, together, ids.shape[1])
            more = {
                "answers": np.broadcast_to(ids[block], wide),
                "answers_mask": np.broadcast_to(mask[block], wide),
            }
            rows, index = fn({**batch, **more})
            found.append(np.asarray(rows, np.float32))
        scores = np.concatenate(found, axis=1)[:, : len(candidates)]  # [B, K]
        return scores.argmax(axis=1).astype(np.int32), index

    return run


def agreement(text: str, answers: Sequence[str]) -> float:
    """VQA's accuracy of an answer; with one person's alone whether both are equal, normalised."""
    if len(answers) == 1:
        return float(normalise(tidy(text)) == normalise(tidy(answers[0])))
    return accuracy(text, answers)


def constant(said: Sequence[Sequence[str]]) -> float:
    """Accuracy of the one answer that most people give, as the answer to every question."""
    ((usual, _),) = Counter(_clean(a) for some in said for a in some).most_common(1)
    return float(np.mean([agreement(usual, some) for some in said]))


@functools.lru_cache(1 << 16)
def _clean(answer: str) -> str:
    """An answer as answers are compared."""
    return normalise(tidy(answer))


def counted(answers: Sequence[str]) -> list[str]:
    """Distinct answers, the most frequent first, with how many people gave them.

    >>> counted(["red", "blue", "red"])
    ['red (2)', 'blue']
    """
    found = Counter(answers).most_common()
    return [f"{answer} ({count})" if count > 1 else answer for answer, count in found]


def summarise(
    each: np.ndarray, types: Sequence[Mapping[str, str]], said: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    """Metrics and tables of Vqa.measure; each float[N], accuracies; types by TYPES and answers of
    people, of the same N questions; the most frequent types first."""
    metrics, tables = {"accuracy": float(each.mean()), "chance_accuracy": constant(said)}, {}
    for key in TYPES:
        rows = []
        for kind, count in Counter(kinds[key] for kinds in types if key in kinds).most_common():
            mine = [i for i, kinds in enumerate(types) if kinds.get(key) == kind]
            chance = constant([said[i] for i in mine])
            found = {"accuracy": float(each[mine].mean()), "chance": chance}
            rows.append({key.replace("_", " "): kind, "questions": count, **found})
            if key == "answer_type":
                name = f"accuracy_{re.sub(r'[^0-9a-z]+', '_', kind.lower())}"
                metrics |= {name: found["accuracy"], f"chance_{name}": found["chance"]}
        if rows:
            tables[key] = rows
        if rows and key == "question_type":
            questions = [row["questions"] for row in rows]
            mean = np.average([row["chance"] for row in rows], weights=questions)
            metrics["constants"] = float(mean)
    return metrics, tables
