"""`data index | check | stats | bench | convert | prepare`: looks after data sets.

The file exists so that a set is indexed, proven sound, measured and converted without writing code.
Every sub-command takes --json: one JSON object on the last line of stdout.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vlp_jax.cli.output import add_json, print_json
from vlp_jax.parallel.hosts import process_id

PATH_HELP = (
    "tar pattern (x-{0000..0012}.tar), folder (captions:DIR, classes:DIR or pictures:DIR says what "
    "it is), .csv/.tsv/.jsonl, *.array_record, tfds:NAME[:SPLIT] or builtin:emoji/noto-train"
)


def parser() -> argparse.ArgumentParser:
    """The command line with its sub-commands."""
    cli = argparse.ArgumentParser(prog="python -m vlp_jax data", description=__doc__.split("\n")[0])
    commands = cli.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, path: str | None = "PATH") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if path:
            sub.add_argument("path", metavar=path, help=PATH_HELP)
        add_json(sub)
        return sub

    sub = add("index", "write SHARD.index beside each tar")
    sub.add_argument("--rebuild", action="store_true", help="walk the tars even where indices fit")
    sub = add("check", "read and decode everything; names shard, key and reason of all damage")
    sub.add_argument("--budget", type=float, default=1e-3, help="share allowed (default 1e-3)")
    sub.add_argument("--limit", type=int, help="decode only the first N samples")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    sub = add("stats", "captions and their tokens, lengths, picture sizes, metadata keys")
    sub.add_argument("--limit", type=int, default=1000, help="samples to look at (default 1000)")
    sub.add_argument("--tokenizer", default="clip", help="as data.tokenizer (default clip)")
    sub = add("bench", "images per second of the training pipeline")
    sub.add_argument("--batch-size", type=int, default=64)
    sub.add_argument("--image-size", type=int, default=224)
    sub.add_argument("--tokenizer", default="bytes", help="as data.tokenizer (default bytes)")
    sub.add_argument("--workers", type=int, default=0, help="processes; 0 reads in threads")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    sub.add_argument("--seconds", type=float, default=10.0)
    sub = add("convert", "any source to tar shards with indices, or to ArrayRecord", "IN")
    sub.add_argument("out", metavar="OUT", help="an empty or new folder")
    sub.add_argument("--to", choices=("tar", "array_record"), default="tar")
    sub.add_argument("--per-shard", type=int, default=10_000, help="samples (default 10000)")
    sub = add("prepare", "build a known data set", None)
    sub.add_argument("name", choices=("emoji", "fashion_mnist"))
    sub.add_argument("--out", metavar="DIR", help="default for emoji: the package's own folder")
    text = (
        "fashion_mnist: folder of its four *-ubyte.gz files (default: Debian's package "
        "dataset-fashion-mnist, downloaded by apt-get and only unpacked)"
    )
    sub.add_argument("--source", metavar="DIR", default="", help=text)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns its exit code. Raises UserError and RunError.

    It uses no device, so in a job of several processes the first one does it alone.
    """
    args = parser().parse_args(argv)
    if process_id(os.environ):
        return 0
    _check_numbers(args)
    run = {
        "index": run_index,
        "check": run_check,
        "stats": run_stats,
        "bench": run_bench,
        "convert": run_convert,
        "prepare": run_prepare,
    }
    code, report = run[args.command](args)
    if args.json:
        print_json({"command": f"data {args.command}", **report})
    return code


def _check_numbers(args: argparse.Namespace) -> None:
    from vlp_jax.core.errors import UserError

    for name, least in {"limit": 1, "threads": 1, "workers": 0, "budget": 0}.items():
        value = getattr(args, name, None)
        if value is not None and not value >= least:
            raise UserError(f"--{name}={value} must be at least {least}")


def _notes(args: argparse.Namespace, source: Any) -> list[str]:
    """What a source says of itself, printed for people; for the report."""
    notes = list(getattr(source, "notes", ()))
    for note in [] if args.json else notes:
        print(note)
    return notes


def show(args: argparse.Namespace, title: str, columns: Sequence[str], rows: Sequence) -> None:
    """Prints a table for people, unless --json was given."""
    if args.json:
        return
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(markup=False, highlight=False)
    table = Table(*(Column(name, overflow="fold") for name in columns))
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(title)
    if rows:
        console.print(table)


def _cell(value: Any) -> str:
    """{'truncated': 2} -> `truncated 2`; nothing for what is empty."""
    if isinstance(value, Mapping):
        return "  ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reasons(damage: Sequence) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(found.reason for found in damage).most_common())


def run_index(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Builds missing and stale indices (all with --rebuild)."""
    from vlp_jax.core.errors import UserError
    from vlp_jax.data.open import open_source
    from vlp_jax.data.tar import TarSource

    start = time.perf_counter()
    source = open_source(args.path)
    if not isinstance(source, TarSource):
        raise UserError(f"{args.path!r} is no tar source; only tars have an index")
    if args.rebuild:
        source = open_source(args.path, rebuild=True)
    rows = [
        {
            "shard": path,
            "index": stored,
            "samples": len(index),
            "tokens": int(index.tokens.sum()),
            "bytes": index.size,
            "digest": index.digest,
            "damaged": _reasons(index.damage),
            "left_out": index.left_out,
        }
        for path, stored, index in source.stored
    ]
    cells = [[r["shard"], r["samples"], r["tokens"], r["bytes"], r["damaged"]] for r in rows]
    show(args, "index", ("shard", "samples", "caption tokens", "bytes", "damaged"), cells)
    report = {"path": args.path, "samples": len(source), "damaged": _reasons(source.damage)}
    seconds = round(time.perf_counter() - start, 3)
    return 0, {**report, "fingerprint": source.fingerprint, "seconds": seconds, "shards": rows}


def run_check(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Reads everything; exit code 1 when more is damaged than the budget allows."""
    from vlp_jax.core.errors import printable
    from vlp_jax.data.check import check
    from vlp_jax.data.damage import NOTED, DamageLog
    from vlp_jax.data.open import open_source

    source = open_source(args.path)
    notes = _notes(args, source)
    log = DamageLog(len(source), args.budget)
    found, noted = [], []
    for damage in check(source, args.threads, args.limit):
        if damage.reason in NOTED:
            noted.append(damage)
        else:
            log.add(damage)
            found.append(damage)
    passed = log.total <= log.limit
    title = f"{len(source)} samples, {log.total} damaged: {'passed' if passed else 'FAILED'}"
    for damage in [] if args.json else found + noted:
        print(f"{damage.reason}\t{printable(damage.where)}")
    kept = [(f"{reason} (kept)", count) for reason, count in _reasons(noted).items()]
    show(args, title, ("reason", "places"), [*log.counts.most_common(), *kept])
    return int(not passed), {
        "path": args.path,
        "samples": len(source),
        "notes": notes,
        "damaged": log.total,
        "allowed": log.limit,
        "passed": passed,
        "reasons": dict(log.counts),
        "damage": [{"where": d.where, "reason": d.reason} for d in found[:1000]],
        "noted": [{"where": d.where, "reason": d.reason} for d in noted[:1000]],
    }


def run_stats(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Counts and quantiles, and ten captions as the tokenizer reads them."""
    from vlp_jax.data.open import open_source
    from vlp_jax.data.stats import captions, stats
    from vlp_jax.data.text import load_tokenizer

    tokenizer, source = load_tokenizer(args.tokenizer), open_source(args.path)
    notes = _notes(args, source)
    report, shown = stats(source, args.limit), captions(source, tokenizer)

    def short(text: str) -> str:
        return text if len(text) <= 200 else text[:199] + "…"

    show(args, args.path, ("what", "value"), list(report.items()))
    cells = [
        [
            short(c["caption"]),
            f"{c['tokens']}{', cut' if c['cut'] else ''}",
            short("|".join(c["pieces"])),
        ]
        for c in shown
    ]
    if cells:
        title = f"captions as tokenizer {args.tokenizer!r} reads them"
        show(args, title, ("caption", "tokens", "pieces"), cells)
    return 0, {"path": args.path, "notes": notes, **report, "captions": shown}


def run_bench(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Times training batches for `--seconds`, after one batch of warm-up."""
    from vlp_jax.core.fields import Picture, Text
    from vlp_jax.data.pipeline import TrainPipeline
    from vlp_jax.data.text import load_tokenizer

    config = {"path": args.path, "workers": args.workers, "threads": args.threads}
    tokenizer = load_tokenizer(args.tokenizer)
    text = Text(tokenizer.context_length, tokenizer.vocab_size)
    pipeline = TrainPipeline(
        config,
        {"image": Picture(args.image_size), "text": text},
        batch_size=args.batch_size,
        seed=0,
        tokenizers={"text": tokenizer},
    )
    batches = pipeline.batches(0)
    next(batches)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < args.seconds:
        next(batches)
        steps += 1
    seconds = time.perf_counter() - start
    rate = steps * args.batch_size / seconds
    cores = min(args.workers or args.threads, os.cpu_count() or 1)
    report = {
        "path": args.path,
        "images": steps * args.batch_size,
        "seconds": round(seconds, 3),
        "dropped": dict(pipeline.dropped),
        "images_per_second_per_core": round(rate / cores, 1),
        "images_per_second": round(rate, 1),
    }
    show(args, "bench", ("what", "value"), list(report.items()))
    return 0, report


def run_convert(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Rewrites a source as shards."""
    from vlp_jax.core.errors import UserError
    from vlp_jax.data.export import export
    from vlp_jax.data.open import open_source

    if args.per_shard < 1:
        raise UserError(f"--per-shard={args.per_shard} must be at least 1")
    source = open_source(args.path)
    notes = _notes(args, source)
    report = export(source, args.out, args.to, args.per_shard)
    cells = [[path] for path in report["shards"]]
    title = (
        f"{report['samples']} samples written, damaged and left out: {report['damaged'] or 'none'}"
    )
    show(args, title, ("shard",), cells)
    return 0, {"path": args.path, "out": args.out, "notes": notes, **report}


def run_prepare(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Builds the embedded emoji set from its npm packages, or Fashion-MNIST from Debian's."""
    from vlp_jax.core.errors import UserError
    from vlp_jax.data import prepare_emoji, prepare_fashion_mnist

    if args.name == "fashion_mnist":
        if not args.out:
            raise UserError("data prepare fashion_mnist: --out=DIR says where to write")
        report = prepare_fashion_mnist.main(args.out, args.source)
    else:
        report = prepare_emoji.main(args.out or prepare_emoji.FOLDER)
    show(args, f"prepare {args.name}", ("what", "value"), list(report.items()))
    return 0, {"name": args.name, **report}
