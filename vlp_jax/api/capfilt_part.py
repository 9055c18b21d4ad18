"""Some pictures of a data set with their texts, old and new, and which of them a filter keeps.

The file exists so that what CapFilt decides of a picture depends on that picture alone: not on its
batch, its part, its place in the data or the number of processes.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.embed import ahead, chunks
from vlp_jax.api.writing import Matcher, Writer, number_of
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.export import suffix_of, write_tar
from vlp_jax.data.index import open_index
from vlp_jax.data.source import Example, Source
from vlp_jax.data.staging import file_facts
from vlp_jax.data.whole import write_whole

WEB, HUMAN, SYNTHETIC = "web", "human", "synthetic"  # where a text comes from
TEXTS, NOTES = "texts", "capfilt"  # folder of all decisions; key of those of a sample in its JSON
_SAID = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_TOLD = {True: "right", False: "wrong", None: "unclear"}
_DIGITS = 4  # of a score: what the order of a sum can change lies far behind them


class Seen(NamedTuple):
    """A picture as the models take it, uint8[S, S, 3] each, and what the data says of it."""

    row: int
    example: Example
    views: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Part:
    """Decisions in the order of the source, without the pictures that cannot be read.

    Attributes:
      examples: those with a text that was kept, as they are written.
      notes: of all: row, key, truth where it was asked for (None: unclear), texts [{text, from,
        score, kept}].
      skipped: {reason: count} of the others.
    """

    examples: list[Example]
    notes: list[dict[str, Any]]
    skipped: Counter

    def counts(self) -> Counter:
        """{"ORIGIN kept", "ORIGIN dropped", with a truth "right ...", "wrong ..." and "unclear ..."
        of the data's own texts, "pictures kept", "pictures dropped": count}."""
        found: Counter = Counter()
        for note in self.notes:
            for said in note["texts"]:
                word = "kept" if said["kept"] else "dropped"
                found[f"{said['from']} {word}"] += 1
                if "truth" in note and said["from"] != SYNTHETIC:
                    found[f"{_TOLD[note['truth']]} {word}"] += 1
        kept = len(self.examples)
        return found + Counter({"pictures kept": kept, "pictures dropped": len(self.notes) - kept})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How is decided.

    Attributes:
      prompt, seed: of what is written.
      threshold: a text is kept above this probability that it matches.
      keep_human: the data's own texts are people's, kept unseen.
      most: of them at most so many a picture; 0: all.
      truth: a key of the data that says whether its texts are right; '' asks for none.
      threads: decoders of pictures.
    """

    prompt: str = ""
    seed: int = 0
    threshold: float = 0.5
    keep_human: bool = False
    most: int = 0
    truth: str = ""
    threads: int = os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class CapFilt:
    """Decides on pictures.

    Attributes:
      source: the data set.
      writer, matcher: captioner and filter; None does without.
      views: {'writer', 'matcher': f(bytes of a file) -> uint8[S, S, 3]}, each by its own model's
        preprocessing.
      rules: how.
      size: pictures at once.
      blank: whether nothing is left of a text once it is cleaned: it is dropped unseen.
      told: called with the number of pictures that a batch has finished.
    """

    source: Source
    writer: Writer | None
    matcher: Matcher | None
    views: Mapping[str, Callable[[bytes], np.ndarray]]
    rules: Rules
    size: int = 32
    blank: Callable[[str], bool] = lambda text: not text.strip()
    told: Callable[[int], None] = lambda count: None

    def part(self, rows: range) -> Part:
        """Decides on some rows of the source."""
        found = Part([], [], Counter())
        with ThreadPoolExecutor(self.rules.threads) as pool:
            for some, read in ahead(pool, self._read, chunks(rows, self.size)):
                found.skipped.update(one for one in read if isinstance(one, str))
                seen = [one for one in read if isinstance(one, Seen)]
                for one, texts in zip(seen, self._judged(seen), strict=True):
                    self._note(found, one, texts)
                self.told(len(some))
        return found

    def _read(self, row: int) -> Seen | str:
        """A picture, or the reason why there is none."""
        try:
            example = self.source[row]
            data = example.get("image", b"")
            suffix_of(data)
            example = {**example, "members": dict(example.get("members", {}))}
            return Seen(row, example, {name: view(data) for name, view in self.views.items()})
        except DamagedSample as damage:
            return damage.reason

    def _judged(self, seen: Sequence[Seen]) -> list[list[dict[str, Any]]]:
        """[{text, from, score, kept}] of every picture, the data's own texts first."""
        own, most = HUMAN if self.rules.keep_human else WEB, self.rules.most or None
        found = [
            [{"text": text, "from": own} for text in one.example["text"][:most]] for one in seen
        ]
        if self.writer and seen:
            for texts, text in zip(found, self._written(seen), strict=True):
                texts.append({"text": text, "from": SYNTHETIC})
        for texts in found:
            for said in texts:
                said |= {"score": None, "kept": not self.blank(said["text"])}
        if self.matcher:
            self._match(seen, found)
        return found

    def _written(self, seen: Sequence[Seen]) -> list[str]:
        """A text for every picture; it draws by what the picture holds."""
        image = np.stack([one.views["writer"] for one in seen])
        numbers = [number_of(one.example["image"], self.rules.seed) for one in seen]
        prompts = [self.rules.prompt] * len(seen)
        return [made[0].text for made in self.writer(image, prompts, numbers)]

    def _match(self, seen: Sequence[Seen], found: Sequence[list[dict[str, Any]]]) -> None:
        """Fills in score and decision of every text with words that is no person's; a picture is
        seen once for all of its texts."""
        asked = [
            (at, said)
            for at, texts in enumerate(found)
            for said in texts
            if said["from"] != HUMAN and said["kept"]
        ]
        if not asked:
            return
        rows, of = np.unique([at for at, _ in asked], return_inverse=True)
        states = self.matcher.see(np.stack([seen[at].views["matcher"] for at in rows]))
        for some in chunks(range(len(asked)), self.size):
            mine = [asked[i][1] for i in some]
            scores = self.matcher(states[of[some]], [said["text"] for said in mine])
            for said, score in zip(mine, scores, strict=True):
                kept = bool(score > self.rules.threshold)
                said |= {"score": round(float(score), _DIGITS), "kept": kept}

    def _note(self, found: Part, one: Seen, texts: list[dict[str, Any]]) -> None:
        example = one.example
        note = {"row": one.row, "key": example["key"]}
        if self.rules.truth and self.rules.truth in example["meta"]:
            note["truth"] = _truth(example["meta"][self.rules.truth])
        found.notes.append(note | {"texts": texts})
        kept = list(dict.fromkeys(said["text"] for said in texts if said["kept"]))
        if kept:
            own = {k: v for k, v in example["meta"].items() if k not in ("caption", "captions")}
            meta = {**own, "key": example["key"], NOTES: texts}
            new = {"key": f"{one.row:09d}", "text": kept, "meta": meta}
            found.examples.append({**example, **new})


def _truth(value: Any) -> bool | None:
    """What true, false, 1, 0, yes and no say, as words too; None of anything else."""
    value = value.item() if isinstance(value, np.generic) else value
    whole = isinstance(value, float) and value.is_integer()
    return _SAID.get(str(int(value) if whole else value).strip().lower())


def write_part(part: Part, folder: str, name: str) -> dict[str, Any]:
    """Writes NAME.tar with its index, where anything was kept, and texts/NAME.jsonl, each whole;
    returns the part's record: counts, skipped, files {path: facts}. Raises OSError."""
    files = {f"{TEXTS}/{name}.jsonl": lambda path: _lines(path, part.notes)}
    if part.examples:
        files[f"{name}.tar"] = lambda path: write_tar(path, part.examples)
    for file, write in files.items():
        write_whole(os.path.join(folder, file), write)
    if part.examples:
        open_index(os.path.join(folder, f"{name}.tar"), rebuild=True)
    facts = {file: file_facts(os.path.join(folder, file)) for file in files}
    return {"counts": dict(part.counts()), "skipped": dict(part.skipped), "files": facts}


def _lines(path: str, notes: Sequence[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(note) + "\n" for note in notes)
