"""Two worker processes timed in turn, A B A B ..., so that a drifting machine cannot favour one.

A worker is a script called as `PYTHON SCRIPT --worker=NAME ...`; it reads one word a line from
stdin and answers one JSON object a line on stdout: `step` -> {"seconds": ...}, anything else as the
script likes. Only one works at a time. The file exists so that every benchmark row pairs, takes
medians and reports in the same way.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Worker:
    """A child process that answers commands."""

    def __init__(self, python: str, script: str, arguments: list[str]):
        command = [python, script, *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, word: str) -> dict[str, Any]:
        """Sends a word, waits for the answer; lines that are no JSON are passed on to stderr."""
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            sys.stderr.write(line)
        raise RuntimeError(f"a worker ended with code {self._process.wait()}")

    def close(self) -> None:
        """Ends the child."""
        self._process.stdin.close()
        self._process.wait(timeout=30)


def flags(
    doc: str, peer: str, modes: Sequence[str], workers: Sequence[str] = ("ours", "peer")
) -> argparse.ArgumentParser:
    """The flags of a row that has two sides. doc: its docstring; peer: what the interpreter of the
    other side holds; modes: ways of that side, the first the usual one; workers: of the script."""
    p = argparse.ArgumentParser(description=doc)
    p.add_argument("--pairs", type=int, default=10)
    p.add_argument("--python", default=sys.executable, help="interpreter of our side")
    p.add_argument("--peer-python", default=sys.executable, help=f"interpreter with {peer}")
    p.add_argument("--peer-mode", default=modes[0], choices=modes)
    p.add_argument("--worker", choices=workers, help=argparse.SUPPRESS)
    p.add_argument("--folder", help=argparse.SUPPRESS)
    p.add_argument("--json", action="store_true")
    return p


def handed(args: argparse.Namespace, *names: str) -> list[str]:
    """Flags for a worker, as they were given."""
    return [f"--{name}={getattr(args, name.replace('-', '_'))}" for name in names]


def weights_of(python: str, script: str, start: Sequence[str]) -> None:
    """Runs the worker that writes what both sides start with, to its end."""
    subprocess.run([python, script, "--worker=weights", *start], check=True, stdout=sys.stderr)


def sides(args: argparse.Namespace, script: str, start: Sequence[str]) -> tuple[Worker, Worker]:
    """(ours, the peer)."""
    pythons = {"ours": args.python, "peer": args.peer_python}
    ours, peer = (Worker(py, script, [f"--worker={n}", *start]) for n, py in pythons.items())
    return ours, peer


def serve(answers: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """The worker's side: answers words from stdin until it closes."""
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


def timed(run: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    """Wraps a blocking function as the answer to `step`."""

    def step() -> dict[str, Any]:
        start = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - start}

    return step


def alternate(ours: Worker, peer: Worker, pairs: int, warmup: int = 2) -> dict[str, Any]:
    """Runs the pairs. Returns seconds of both sides and the ratio peer / ours (above 1: ours is
    faster).

    In every turn the second step counts: a virtual machine hands freed memory back to its host
    while a side waits for the other, and the first step pays for getting it again (up to 2.5 times
    its time), which no training does. The ratio's median is over the pairs, with its 10 % and 90 %
    quantiles.
    """

    def turn(side: Worker) -> float:
        side.ask("step")
        return side.ask("step")["seconds"]

    for _ in range(warmup):
        ours.ask("step"), peer.ask("step")
    rows = [(turn(ours), turn(peer)) for _ in range(pairs)]
    ratios = sorted(theirs / mine for mine, theirs in rows)
    low, high = ratios[round(0.1 * (pairs - 1))], ratios[round(0.9 * (pairs - 1))]
    return {
        "pairs": pairs,
        "seconds_ours": statistics.median(mine for mine, _ in rows),
        "seconds_peer": statistics.median(theirs for _, theirs in rows),
        "ratio_p10": low,
        "ratio_p90": high,
        "ratio": statistics.median(ratios),
    }


def convert(python: str, folder: str, count: int, marks: dict[int, str]) -> None:
    """FOLDER/peer as ours in FOLDER/ours, with a vocabulary of so many made-up words; marks: {id:
    word} in place of some."""
    words = [marks.get(place, f"word{place}") for place in range(count)]
    Path(folder, "vocab.txt").write_text("\n".join(words) + "\n")
    call = [python, "-m", "vlp_jax", "convert", f"{folder}/peer", f"{folder}/ours"]
    call.append(f"--tokenizer={folder}/vocab.txt")
    subprocess.run(call, check=True, stdout=sys.stderr, cwd=Path(__file__).resolve().parents[2])


def transformers_modules() -> tuple[Any, Any, Any]:
    """torch, transformers and what must stay alive for them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "peers"))
    from conftest import declare_torchvision_operators

    library = declare_torchvision_operators()
    import torch
    import transformers

    return torch, transformers, library


def show(report: dict[str, Any], as_json: bool) -> None:
    """A row as a table, and as one line of JSON."""
    for key, value in report.items():
        print(f"{key:>20}  {value}")
    if as_json:
        print(json.dumps(report))
