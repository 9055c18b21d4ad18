"""The section `commands`, and the files that it and others begin with.

What commands print, write and refuse. The file exists as the part of a record that goes through
`python -m vlp_jax` alone.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import adapter
import files
import numpy as np
import small
from safetensors.numpy import load_file
from sections import ROOT, Cases, Place, Record, digests, under

UNTOLD = ("seconds", "hbm_limit_bytes", "spare", "versions", "git")  # of the machine or the clock
SOURCES = r", metadata=\{[^}]*\}|^\d+ .*$|^[A-Z]\w+$"  # of a compiled program: files and lines
HIDDEN = ("checkpoints", "tensorboard")  # folders of a run whose names are drawn or are times
LOGGED = ("step", "loss", "lr", "grad_norm")  # of the metrics: others are times


def told(value: Any) -> Any:
    """Plain values without what the clock or the machine decides."""
    if isinstance(value, dict):
        return {k: told(v) for k, v in value.items() if k not in UNTOLD and "_seconds" not in k}
    return [told(item) for item in value] if isinstance(value, list) else value


def line(place: Place, words: str) -> list[str]:
    """The arguments of a command in this tree's names."""
    return [adapter.argument(place.fill(word)) for word in shlex.split(words)]


def run(place: Place, words: str) -> dict[str, Any]:
    """Runs a command in this process: its exit code, the last line of stderr, and of stdout where
    that is JSON.
    """
    argv = line(place, words)
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = adapter.main(argv)
        except SystemExit as leaving:  # argparse
            code = leaving.code
    lines = error.getvalue().splitlines() or [""]
    found = {"code": code, "error": lines[-1] if code else ""}
    if "--json" in argv and not code:
        found["report"] = told(json.loads(out.getvalue().splitlines()[-1]))
    return found


def written(folder: Path) -> dict[str, Any]:
    """What a command wrote: digests of tensors, JSON as it is, names of all else."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if name.startswith(HIDDEN):
            continue
        if file.suffix == ".safetensors":
            found[name] = digests(load_file(file))
        elif file.suffix == ".json":
            found[name] = told(json.loads(file.read_text()))
        else:
            found[name] = "a file"
    return found


def inputs(place: Place) -> Cases:
    """The files to begin with, and models made of them by this tree."""
    shutil.rmtree(place.runs, ignore_errors=True)

    def made() -> Record:
        files.make(place.made, place.start and place.start / "made")
        if not (place.made / "mae").exists():
            adapter.train(place.open(small.RECIPES["mae_tiny"]), place.runs / "mae")
            run(place, "convert {runs}/mae {made}/mae --to=hf")
        return Record({"files": written(place.made)})

    def simclr() -> Record:
        adapter.train(place.open(small.RECIPES["simclr_tiny"]), place.runs / "simclr")
        return Record({"files": sorted(os.listdir(place.runs / "simclr"))})

    def ours() -> Record:
        return Record(run(place, "convert {made}/clip {runs}/ours --tokenizer=bytes --json"))

    yield from (("made", made), ("simclr", simclr), ("ours", ours))


def convert(place: Place, name: str) -> Record:
    """A released checkpoint to ours, and ours to every library's."""
    values: dict[str, Any] = {}
    for to in ("vlp_jax", "open_clip", "hf", "mae"):
        out = place.runs / "converted" / name / to
        source = f"{{made}}/{name}" if to == "vlp_jax" else f"{{runs}}/converted/{name}/vlp_jax"
        values[to] = run(place, f"convert {source} {out} --to={to} --json")
        values[f"{to} files"] = written(out)
    return Record(values)


def embed(place: Place) -> Record:
    """Pictures and texts of a converted model."""
    out = place.runs / "embedded.npz"
    values = run(place, small.EMBED + f" --out={out}")
    arrays = dict(np.load(out))
    rows = {name: rows for name, rows in arrays.items() if rows.dtype.kind == "f"}
    words = {name: rows.tolist() for name, rows in arrays.items() if rows.dtype.kind != "f"}
    return Record(values | words, under("rows", rows))


def report(place: Place, name: str) -> Record:
    """A command that writes {runs}/NAME beside what it prints."""
    out = place.runs / name
    values = run(place, small.REPORTS[name]) | {"files": written(out)}
    if (out / "metrics.jsonl").is_file():
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        values["metrics"] = [{key: line.get(key) for key in LOGGED} for line in lines]
    return Record(values)


def plan(place: Place, words: str) -> Record:
    """The figures of a plan, and the compiled program without its metadata."""
    text = place.runs / "plan.hlo"
    argv = line(place, f"plan {words} --topology=cpu:8 --json --hlo={text}")
    front = [sys.executable, "-m", "vlp_jax"]  # a child: it simulates devices of its own
    child = subprocess.run([*front, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
    figures = told(json.loads(child.stdout.splitlines()[-1]))
    program = re.sub(SOURCES, "", text.read_text(), flags=re.M)
    return Record({"figures": figures, "program": hashlib.sha256(program.encode()).hexdigest()})


def refused(place: Place) -> Record:
    """Exit code and one line of every mistake."""
    bad = small.BAD.items()
    lines = {key: f"{small.BAD_RUN} {small.flags({key: value})}" for key, value in bad}
    lines |= {words: words for words in small.MISTAKES}
    return Record({name: run(place, words) for name, words in lines.items()})


def commands(place: Place) -> Cases:
    """Every command that gives an answer, and mistakes."""
    for name in (*files.CHECKPOINTS, "mae"):
        yield f"convert_{name}", partial(convert, place, name)
    yield "embed", partial(embed, place)
    for name in small.REPORTS:
        yield name, partial(report, place, name)
    for name, words in small.PLANS.items():
        yield f"plan_{name}", partial(plan, place, words)
    yield "refused", partial(refused, place)
