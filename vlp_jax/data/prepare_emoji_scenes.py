"""Builds composed scenes of the embedded emoji as WebDataset tars: captions, questions, dialogues,
boxes and maps, all known because the scenes are made.

The file exists so that methods which need more than picture and caption train on real files,
offline.
"""

import functools
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.export import write_tar
from vlp_jax.data.index import open_index
from vlp_jax.data.prepare_emoji import copy_licences
from vlp_jax.data.scenes.layout import kinds_of, words_of
from vlp_jax.data.scenes.options import Options
from vlp_jax.data.scenes.readme import EMOJI, readme
from vlp_jax.data.scenes.samples import SPLITS, sample, size_of
from vlp_jax.data.scenes.words import vocabulary

NAME = "emoji_scenes"


def _tally(split: str, meta: dict) -> Counter:
    """What the table at the end counts of one sample."""
    found = Counter({(split, "samples"): 1})
    if "objects" in meta:
        found[split, f"of {len(meta['objects'])}"] += 1
    found[split, "wrong"] += not meta.get("clean", True)
    if "question" in meta:
        found[split, "answer", meta["question_type"], meta["answer_type"], meta["answer"]] += 1
    return found


def write_shard(out: str, options: Options, split: str, shard: int) -> tuple[str, Counter]:
    """Writes one tar with its index; returns its name and what was counted."""
    start, counts = shard * options.per_shard, Counter()
    name = f"{NAME}-{split}-{shard:04d}.tar"
    path = os.path.join(out, name)

    def samples():
        for number in range(start, min(start + options.per_shard, size_of(options, split))):
            made = sample(options, split, number)
            counts.update(_tally(split, made["meta"]))
            yield made

    write_tar(f"{path}.part", samples())
    os.replace(f"{path}.part", path)
    open_index(path, rebuild=True)
    return name, counts


def _write(
    out: str, options: Options, work: list[tuple[str, int]]
) -> Iterator[tuple[str, Counter]]:
    job = functools.partial(write_shard, out, options)
    count = min(options.processes, len(work))
    if count < 2:
        yield from map(job, *zip(*work, strict=True))
        return
    context = multiprocessing.get_context("spawn")  # a fork of JAX's threads may hang
    with ProcessPoolExecutor(count, context) as pool:
        yield from pool.map(job, *zip(*work, strict=True))


def _lines(path: str, lines: list[str]) -> None:
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.write("".join(f"{line}\n" for line in lines))


def main(out: str, options: Options, told: Callable[[int], None] = lambda samples: None) -> dict:
    """Writes emoji_scenes-SPLIT-NNNN.tar with indices, vocab.txt (BERT's form), classes.txt (line n
    is class n of the maps), README.md, and licences and README of the emoji to `out`.

    The same bytes for the same options, whatever `processes` is (and the same zlib). told: called
    with the samples of every tar that is there.

    Returns:
      {"shards": {name: samples}, "counts": {...}, "questions": [...], "words"}, see `_report`.

    Raises:
      UserError: `out` has tars of such a set, which would mix, or nothing is asked for.
      RunError: it cannot be written.
    """
    work = [
        (split, shard)
        for split in SPLITS
        for shard in range(-(-size_of(options, split) // options.per_shard))
    ]
    if not work:
        raise UserError("data prepare emoji_scenes: every split is of size 0")
    try:
        os.makedirs(out, exist_ok=True)
        if any(name.startswith(f"{NAME}-") for name in os.listdir(out)):
            raise UserError(f"{out!r} has tars of {NAME} already; name an empty or new folder")
        done = []
        for (name, found), (split, _) in zip(_write(out, options, work), work, strict=True):
            done.append((name, found))
            told(found[split, "samples"])
        kinds = kinds_of(options)
        words = vocabulary(kinds, words_of(options))
        _lines(os.path.join(out, "vocab.txt"), words)
        _lines(os.path.join(out, "classes.txt"), [kind.name for kind in kinds])
        _lines(os.path.join(out, "README.md"), readme(options).splitlines())
        copy_licences(out, EMOJI)
    except OSError as error:
        raise RunError(f"cannot write {out!r}: {error}") from error
    counts = sum((found for _, found in done), Counter())
    shards = {name: found[at[0], "samples"] for (name, found), at in zip(done, work, strict=True)}
    return {"shards": shards, **_report(counts), "words": len(words)}


def _report(counts: Counter) -> dict:
    """counts: {split: {what: number}}; questions: per split and type their number, the commonest
    answer and its share."""
    table: dict[str, dict] = {}
    kinds: dict[tuple, Counter] = {}
    for (split, what, *rest), number in sorted(counts.items()):
        if what == "answer":
            begins, kind, answer = rest
            kinds.setdefault((split, begins, kind), Counter())[answer] += number
        else:
            table.setdefault(split, {})[what] = number
    rows = []
    for (split, begins, kind), answers in kinds.items():
        (best, number), total = answers.most_common(1)[0], answers.total()
        row = {"split": split, "begins": begins, "type": kind, "questions": total}
        rows.append({**row, "commonest": best, "share": round(number / total, 3)})
    return {"counts": table, "questions": rows}
