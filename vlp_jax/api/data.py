"""What `data` does with data sets: index, check, stats, bench, convert, prepare.

Every function returns a report of plain values. The file exists so that a notebook and the command
line look after data sets alike.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import NOTED, Damage, DamageLog
from vlp_jax.data.open import open_source
from vlp_jax.data.source import Source

LISTED = 1000  # damaged places that a JSON report names
LEAST = {"limit": 1, "threads": 1, "workers": 0, "budget": 0, "per_shard": 1}


def index(path: str, rebuild: bool = False) -> dict[str, Any]:
    """Builds missing and stale indices of tars, all with `rebuild`.

    Returns:
      {path, samples, damaged: {reason: count}, fingerprint, seconds, shards}.

    Raises:
      UserError: no tars.
    """
    from vlp_jax.data.tar import TarSource

    start = time.perf_counter()
    source = open_source(path)
    if not isinstance(source, TarSource):
        raise UserError(f"{path!r} is no tar source; only tars have an index")
    if rebuild:
        source = open_source(path, rebuild=True)
    shards = [
        {
            "shard": shard,
            "index": stored,
            "samples": len(index),
            "tokens": int(index.tokens.sum()),
            "bytes": index.size,
            "digest": index.digest,
            "damaged": _reasons(index.damage),
            "left_out": index.left_out,
        }
        for shard, stored, index in source.stored
    ]
    report = {"path": path, "samples": len(source), "damaged": _reasons(source.damage)}
    seconds = round(time.perf_counter() - start, 3)
    return {**report, "fingerprint": source.fingerprint, "seconds": seconds, "shards": shards}


def check(
    path: str, budget: float = 1e-3, limit: int | None = None, threads: int = os.cpu_count() or 1
) -> dict[str, Any]:
    """Reads and decodes everything, or the first `limit` samples; `budget` is the share of damaged
    ones that passes.

    Returns:
      {path, samples, notes, damaged, allowed, passed, reasons: {reason: count}, damage and noted:
      [{where, reason}]}.
    """
    from vlp_jax.data.check import check

    _check_numbers(limit=limit, threads=threads, budget=budget)
    source = open_source(path)
    log = DamageLog(len(source), budget)
    found: list[Damage] = []
    noted: list[Damage] = []
    for damage in check(source, threads, limit):
        if damage.reason in NOTED:
            noted.append(damage)
        else:
            log.add(damage)
            found.append(damage)
    return {
        "path": path,
        "samples": len(source),
        "notes": _notes(source),
        "damaged": log.total,
        "allowed": log.limit,
        "passed": log.total <= log.limit,
        "reasons": dict(log.counts),
        "damage": [{"where": d.where, "reason": d.reason} for d in found],
        "noted": [{"where": d.where, "reason": d.reason} for d in noted],
    }


def stats(path: str, limit: int = 1000, tokenizer: str = "clip") -> dict[str, Any]:
    """Counts and quantiles of up to `limit` samples, and ten captions as the tokenizer reads
    them.
    """
    from vlp_jax.data.stats import captions, stats
    from vlp_jax.data.text import load_tokenizer

    _check_numbers(limit=limit)
    reader, source = load_tokenizer(tokenizer), open_source(path)
    found = {"path": path, "notes": _notes(source), **stats(source, limit)}
    return found | {"captions": captions(source, reader)}


def bench(
    path: str,
    tokenizer: str = "bytes",
    batch_size: int = 64,
    image_size: int = 224,
    seconds: float = 10.0,
    **readers: int,
) -> dict[str, Any]:
    """Times training batches for `seconds`, after one batch of warm-up; readers: `workers`
    (processes, 0 reads in threads) and `threads`.

    Returns:
      {path, images, seconds, dropped, images_per_second_per_core, images_per_second}.
    """
    from vlp_jax.core.fields import Picture, Text
    from vlp_jax.data.pipeline import TrainPipeline
    from vlp_jax.data.text import load_tokenizer

    reads = load_tokenizer(tokenizer)
    text = Text(reads.context_length, reads.vocab_size)
    readers = {"workers": 0, "threads": os.cpu_count() or 1, **readers}
    _check_numbers(**readers)
    pipeline = TrainPipeline(
        {"path": path, **readers},
        {"image": Picture(image_size), "text": text},
        batch_size=batch_size,
        seed=0,
        tokenizers={"text": reads},
    )
    batches = pipeline.batches(0)
    next(batches)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(batches)
        steps += 1
    seconds = time.perf_counter() - start
    rate = steps * batch_size / seconds
    cores = min(readers["workers"] or readers["threads"], os.cpu_count() or 1)
    return {
        "path": path,
        "images": steps * batch_size,
        "seconds": round(seconds, 3),
        "dropped": dict(pipeline.dropped),
        "images_per_second_per_core": round(rate / cores, 1),
        "images_per_second": round(rate, 1),
    }


def convert(path: str, out: str, to: str = "tar", per_shard: int = 10_000) -> dict[str, Any]:
    """Rewrites a source as shards of `to`, tar or array_record, in an empty or new folder.

    Returns:
      {path, out, notes, samples, damaged, shards, ...}.
    """
    from vlp_jax.data.export import export

    _check_numbers(per_shard=per_shard)
    source = open_source(path)
    return {"path": path, "out": out, "notes": _notes(source), **export(source, out, to, per_shard)}


def prepare(name: str, out: str | None = None, source: str = "", **scenes: Any) -> dict[str, Any]:
    """Builds the embedded emoji set from its npm packages, Fashion-MNIST from Debian's, or scenes
    of the embedded emoji.

    Args:
      scenes: of emoji_scenes, see data/scenes/options.py.

    Raises:
      UserError: no `out` where it has no default, or an option of another set.
    """
    from vlp_jax.data import prepare_emoji, prepare_fashion_mnist

    for key in scenes if name != "emoji_scenes" else ():
        raise UserError(f"data prepare {name}: {_flag(key)} is an option of emoji_scenes")
    if source and name != "fashion_mnist":
        raise UserError(f"data prepare {name}: --source is an option of fashion_mnist")
    if not out and name != "emoji":
        raise UserError(f"data prepare {name}: --out=DIR says where to write")
    if name == "emoji":
        return {"name": name, **prepare_emoji.main(out or prepare_emoji.FOLDER)}
    if name == "fashion_mnist":
        return {"name": name, **prepare_fashion_mnist.main(out, source)}
    return {"name": name, **_scenes(out, scenes)}


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _scenes(out: str, given: dict[str, Any]) -> dict[str, Any]:
    """Builds the scenes and draws what they look like."""
    from vlp_jax.api.embeddings import Progress
    from vlp_jax.core.schema import build
    from vlp_jax.data import prepare_emoji_scenes
    from vlp_jax.data.scenes.options import Options
    from vlp_jax.data.scenes.samples import SPLITS, size_of
    from vlp_jax.report.scene_sheet import scene_sheet

    try:
        options = build(Options, given, "scenes")
    except UserError as error:  # names scenes.KEY
        text = str(error)
        text = re.sub(r"scenes\.(\w+)", lambda found: _flag(found[1]), text)
        raise UserError(f"data prepare emoji_scenes: {text}") from error
    progress = Progress(sum(size_of(options, split) for split in SPLITS), prepare_emoji_scenes.NAME)
    report = prepare_emoji_scenes.main(out, options, progress.add)
    progress.end()
    return {**report, "sheet": scene_sheet(out, os.path.join(out, "sheet.png"))}


def wordpieces(path: str, out: str, size: int = 100_000) -> dict[str, Any]:
    """Learns a word-piece vocabulary of a source's captions and writes it as a tokenizer.json.

    Returns:
      {path, out, captions, pieces}.
    """
    from vlp_jax.data.text.wordpieces import write_wordpieces

    return {"path": path, "out": out, **write_wordpieces(open_source(path), out, size)}


COMMANDS = {
    "index": index,
    "check": check,
    "stats": stats,
    "bench": bench,
    "convert": convert,
    "prepare": prepare,
    "wordpieces": wordpieces,
}


def shortened(report: dict[str, Any]) -> dict[str, Any]:
    """The report with at most LISTED damaged places of a kind."""
    lists = {key: report[key] for key in ("damage", "noted") if isinstance(report.get(key), list)}
    return {**report, **{key: places[:LISTED] for key, places in lists.items()}}


def _check_numbers(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value >= LEAST[name]:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}={value} must be at least {LEAST[name]}")


def _notes(source: Source) -> list[str]:
    """What a source says of itself."""
    return list(getattr(source, "notes", ()))


def _reasons(damage: Iterable[Damage]) -> dict[str, int]:
    return dict(Counter(found.reason for found in damage).most_common())
