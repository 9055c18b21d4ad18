"""A step's sizes and collectives without its machine code.

A compiler lays out the program and its memory in seconds to minutes, then writes machine code:
libtpu for 1 to 4 processor seconds a fusion, hours for a U-Net's convolutions. What it has decided
by then it dumps. The file exists to read that and stop it there.
"""

import multiprocessing
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax

from vlp_jax.core.errors import RunError
from vlp_jax.plan.program import Compiled, PlannedTrainer, memory_limit, parse_refusal
from vlp_jax.plan.topology import open_topology

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*)$", re.MULTILINE)
_ELSEWHERE = re.compile(r"\bcolor [1-9]")  # memory that is not the device's main one
_LAST = "*jit_step*after_optimizations-memory-usage-report.txt"  # dumped after all that is read
_WAIT = 0.5  # seconds between two looks


def sizes(text: str) -> dict[str, int]:
    """Bytes of args, outputs and temp of a dumped buffer assignment; what is updated in place is an
    argument. Worked example: `allocation 3: size 512, output shape is |f32[]|, maybe-live-out:` is
    512 of outputs, with `parameter 0` in its line 512 of args."""
    found = dict(args=0, outputs=0, temp=0)
    for size, what in _ALLOCATION.findall(text):
        kinds = {"args": "parameter ", "outputs": "maybe-live-out", "temp": "preallocated-temp"}
        kind = next((name for name, word in kinds.items() if word in what), None)
        if kind and not _ELSEWHERE.search(what):
            found[kind] += int(size)
    return found


def lay_out(trainer: PlannedTrainer, topology: str) -> Compiled:
    """What `compile_step` says of the step, but its code is 0 bytes.

    Args:
      trainer: for the devices of `topology`.
      topology: see plan/topology.py; a process of its own opens it again.

    Raises:
      RunError: the compiler failed for another reason than memory.
    """
    limit, start = memory_limit(trainer.mesh.devices.flat[0]), time.perf_counter()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        told, tells = processes.Pipe(duplex=False)
        config = trainer.config.copy_and_resolve_references()
        how = config, topology, trainer.num_examples, trainer.cached, folder, tells
        child = processes.Process(target=_compile, args=how, daemon=True)
        child.start()
        try:
            tells.close()
            message = _wait(Path(folder), told)
            if message:
                refusal = parse_refusal(message)
                if refusal is None:
                    raise RunError(f"the compiler failed: {message.splitlines()[0]}")
                return Compiled(False, *refusal, time.perf_counter() - start)
            found, text = _read(Path(folder))
        finally:
            child.kill()
            child.join()
    hbm = sum(found.values())
    return Compiled(hbm <= limit, hbm, limit, time.perf_counter() - start, **found, text=text)


def _compile(
    config: Any, topology: str, num_examples: int, cached: bool, folder: str, tells: Connection
) -> None:
    """Compiles the step, dumping into `folder`; tells a failure."""
    jax.config.update("jax_enable_compilation_cache", False)  # what it knows is not dumped
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
        trainer = PlannedTrainer(config, open_topology(topology), num_examples, cached)
        batch = trainer.batch_spec(config.batch_size)
        with jax.set_mesh(trainer.mesh):
            trainer.jit_step.lower(*trainer.abstract, batch).compile(compiler_options=options)
    except Exception as error:
        tells.send(str(error) or type(error).__name__)


def _wait(folder: Path, told: Connection) -> str:
    """Until the dump is whole: "", or the other process fails: its message."""
    while not any(folder.glob(_LAST)):
        try:
            if told.poll(_WAIT):
                return told.recv()
        except EOFError:  # it has ended, as it may behind a small step's dump
            break
    return "" if any(folder.glob(_LAST)) else "its process ended; was it short of memory?"


def _read(folder: Path) -> tuple[dict[str, int], str]:
    """(Sizes, text) of the dumped step."""
    stem = str(next(folder.glob(_LAST))).removesuffix("-memory-usage-report.txt")
    return sizes(Path(f"{stem}-buffer-assignment.txt").read_text()), Path(f"{stem}.txt").read_text()
