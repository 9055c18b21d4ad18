"""Records what the package computes, so that a refactoring can prove that it moved nothing.

python experiments/recorder/record.py OUT [--start=OLD] [--only=NAME,...]

NAME is a section (steps, devices, batches, evals, commands) or SECTION/CASE with wildcards. With
--start every case begins with the weights, batches and files of that record. The file exists to run
the cases of small.py and write OUT/SECTION/CASE.json, .npz and .hlo.gz.
"""

import argparse
import fnmatch
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECTIONS = ("steps", "devices", "batches", "evals", "commands")
FLAGS = (  # mostly of tests/conftest.py: the programs are tiny, compiling is what takes the time
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)


def environment(devices: int) -> dict[str, str]:
    """Of a child that records: so many simulated devices, quick compiles, a cache on disk."""
    flags = " ".join((f"--xla_force_host_platform_device_count={devices}", *FLAGS))
    cache = Path(tempfile.gettempdir()) / f"vlp_jax_recorder_{os.getuid()}"
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    own |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2", "PYTHONPATH": str(ROOT)}
    return os.environ | own


def run_section(name: str, out: Path, start: Path | None, only: list[str]) -> None:
    """Runs the cases of a section that are asked for and writes their files; one that fails is
    recorded as such.
    """
    import commands
    import jax
    import sections

    place, folder = sections.Place(out, start), out / name
    section = getattr(sections, name, None) or getattr(commands, name)
    folder.mkdir(parents=True, exist_ok=True)
    for case, run in section(place):
        wanted = any(fnmatch.fnmatch(f"{name}/{case}", pattern) for pattern in only)
        if not wanted and name != "inputs":
            continue
        begun = time.monotonic()
        try:
            values, arrays, program = run()
        except Exception as error:
            traceback.print_exc()
            values, arrays, program = {"error": f"{type(error).__name__}: {error}"}, {}, ""
        text = json.dumps(place.told(values), indent=1, ensure_ascii=False)
        (folder / f"{case}.json").write_text(text + "\n")
        np.savez(folder / f"{case}.npz", **arrays)
        (folder / f"{case}.hlo.gz").write_bytes(gzip.compress(program.encode(), mtime=0))
        jax.clear_caches()
        print(f"{time.monotonic() - begun:6.1f} s  {name}/{case}", flush=True)


def main() -> int:
    """Runs each section in a process of its own, after the files that they need."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", type=Path, help="folder to write")
    p.add_argument("--start", type=Path, help="an earlier record to begin with")
    p.add_argument("--only", default="*", help="sections, or SECTION/CASE, with commas between")
    p.add_argument("--section", help=argparse.SUPPRESS)  # of a child
    args = p.parse_args()
    only = [name if "/" in name else f"{name}/*" for name in args.only.split(",")]
    if args.section:
        run_section(args.section, args.out.resolve(), args.start and args.start.resolve(), only)
        return 0
    begun, code, parts = time.monotonic(), 0, [name.split("/")[0] for name in only]
    wanted = [name for name in SECTIONS if any(fnmatch.fnmatch(name, part) for part in parts)]
    for section in ("inputs", *wanted):
        child = [sys.executable, __file__, *sys.argv[1:], f"--section={section}"]
        env = environment(8 if section == "devices" else 1)
        code |= subprocess.run(child, env=env, cwd=ROOT).returncode
    print(f"{time.monotonic() - begun:6.1f} s  {args.out}")
    return code


if __name__ == "__main__":
    sys.exit(main())
