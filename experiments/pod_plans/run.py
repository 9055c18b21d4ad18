"""Plans of the pod recipes: compiles each for its slice and writes one JSON and the table.

python experiments/pod_plans/run.py [--only=TEXT] [--renew]

Needs libtpu (`pip install -e '.[tpu]'`), no TPU; a recipe takes one to ten minutes. The file
exists so that the committed plans can be made again.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = HERE / "README.md"
HEAD = """# Pod plans

CLIP at pod scale, BLIP's and Stable Diffusion's training as published, compiled by the pods' own
compiler on a host without accelerators. Bytes are the compiler's, per device; seconds and MFU are a
roofline's upper bound, not a measurement.
`python experiments/pod_plans/run.py --renew` makes all again (libtpu {versions}, as in its JSON).

| recipe | slice | batch | settings | GiB | temp GiB | collectives MB | step s | MFU |
|---|---|---|---|---|---|---|---|---|
"""
TAIL = """
A row's run: `python -m vlp_jax train --config=configs/clip/openai.py:RECIPE SETTINGS
--config.data.path=... --workdir=...`, config and SETTINGS as in its JSON under `command`. Where
that says `--cached`, `data.path` is a folder of `data cache`: the frozen encoders are not in the
step, though FLOPs, and so seconds and MFU, count them.

In ViT-B-32's program for v5p:4x4x4 with the state in 64 (`plan --hlo`), weights are gathered layer
by layer, in bfloat16, forward and again backward; no product has a split contraction. The compiler
writes a gather as an all-reduce of pieces in zeros (`dynamic-update-slice`, then `all-reduce`) and
a gradient's scatter as an all-reduce that is sliced after. Hence no all-gather in its plan's
`collectives`, and `wire_bytes` twice what gathers and scatters would send. SDXL's program was not
read, but its 16.5 GB agree: three times two bytes of a U-Net's 2.57 billion parameters are 15.4.
SD 1 on v5e has both forms.

BLIP-2's slices divide its batches: 16 devices are the most that do, but for 1,920. Its frozen parts
are bfloat16 and split as what learns is; by shapes and shardings (`frozen_bytes`), GiB per device:

| frozen | whole | of 16 | of 64 |
|---|---|---|---|
| ViT-L | 0.54 | 0.03 | |
| ViT-g | 1.84 | 0.11 | |
| ViT-g, OPT-6.7B | 14.24 | 0.89 | 0.22 |
| ViT-g, Flan-T5-XXL | 22.58 | 1.41 | |

What learns takes, with its moments, 131 to 134 MiB of 16 in the first stage, 77 in the second (19
of 64). FLOPs, and so seconds and MFU, count gradients of frozen weights, which are not taken.

A `*` at the GiB: laid out by the compiler, not written as machine code (`plan --no-code`), whose
bytes, 0.03 to 0.3 GiB in the other rows, are not in them. libtpu's time goes there and not to the
program or its memory: of the 33 processor seconds of one residual block (320 channels, 32 x 32,
forward; 72 with its gradient) 0.4 go to passes and memory, 27 to scheduling and registers of its 27
fusions. Stable Diffusion's step has about 6,000: laid out in two processor minutes, its code would
take hours at that rate. Options for less effort (`exec_time_optimization_effort`, other schedulers
and packers, deduplication) changed little on one convolution.
"""


class Recipe(NamedTuple):
    """One row: architecture, slice, global batch and what it takes to fit and be fast; config: the
    file that has it; cached: on what `data cache` keeps of the frozen parts' outputs; code: see
    api/plan.py."""

    arch: str
    topology: str
    batch: int
    settings: dict[str, object]
    config: str = "configs/clip/openai.py"
    cached: bool = False
    code: bool = True

    @property
    def label(self) -> str:
        """What the table calls it."""
        return PREFIX.get(self.config, "") + self.arch.replace(",", "-")

    @property
    def name(self) -> str:
        """Stem of the plan's file."""
        return f"{self.label}_{self.topology.replace(':', '-')}_{self.batch}"

    def flags(self) -> list[str]:
        """The config keys as command-line words, the same for `plan` and `train`."""
        values = {"batch_size": self.batch, **self.settings}
        return [f"--config.{key}={value}" for key, value in values.items()]


BLIP = "configs/blip/pretrain.py"
DIFFUSION = "configs/latent_diffusion/stable_diffusion.py"
STAGE_1, STAGE_2 = (f"configs/blip2/{name}.py" for name in ("pretrain", "stage2"))
PREFIX = {BLIP: "BLIP-", STAGE_1: "BLIP-2-1-", STAGE_2: "BLIP-2-2-"}
NONE, DOTS, FULL = ({"method.remat": remat} for remat in ("none", "dots", "full"))
POD = {"v5e:16x16": 256, "v4:4x4x8": 128, "v5p:4x4x4": 64, "v6e:8x8": 64}
SMALL = {"v5e:4x4": 16, "v5p:2x2x4": 16}  # no more divide 1,680, 2,320 and 1,520
WAYS = {**POD, **SMALL, "v5e:8x8": 64}


def split(topology: str, settings: dict) -> dict:
    """Parameters and optimiser state over all devices."""
    return {**settings, "mesh.fsdp": WAYS[topology], "sharding": "fsdp"}


def blip2(config: str, arch: str, topology: str, batch: int) -> Recipe:
    """A stage of BLIP-2, frozen parts split as what learns."""
    return Recipe(arch, topology, batch, split(topology, FULL), config, code=False)


ARCHS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14")


def settings(arch: str, topology: str) -> dict:
    """What the smaller sizes do without: recomputing blocks, splitting the state."""
    if arch == "ViT-B-32":
        return DOTS if topology == "v6e:8x8" else NONE
    if (arch, topology) == ("ViT-H-14", "v6e:8x8"):  # 512 pairs a chip: two pieces
        return split(topology, {**FULL, "accumulate": 2})
    return FULL if arch == "ViT-B-16" else split(topology, FULL)


RECIPES = (
    *(Recipe(arch, name, 32_768, settings(arch, name)) for name in POD for arch in ARCHS),
    Recipe("ViT-L-14", "v5e:16x16", 65_536, split("v5e:16x16", FULL)),
    *(Recipe("base", name, 2_880, FULL, BLIP) for name in ("v5e:4x8", "v5p:2x2x4")),
    *(blip2(STAGE_1, "g", name, 1_680) for name in SMALL),
    *(blip2(STAGE_1, "L", name, 2_320) for name in SMALL),
    *(blip2(STAGE_2, "g,opt-6.7b", name, 1_920) for name in ("v5e:8x8", "v5p:2x2x4")),
    *(blip2(STAGE_2, "g,flan-t5-xxl", name, 1_520) for name in SMALL),
    Recipe("sd1,512", "v5e:16x16", 2_048, split("v5e:16x16", FULL), DIFFUSION, True, False),
    Recipe("sdxl,1024", "v5p:4x4x4", 2_048, split("v5p:4x4x4", FULL), DIFFUSION, True, False),
)


def plan(recipe: Recipe) -> dict:
    """Runs `plan` in a process of its own."""
    config = f"--config={recipe.config}:{recipe.arch}"
    command = ["plan", config, f"--topology={recipe.topology}", *recipe.flags()]
    chosen = {"--cached": recipe.cached, "--no-code": not recipe.code, "--json": True}
    command += [flag for flag, is_on in chosen.items() if is_on]
    words = [sys.executable, "-m", "vlp_jax", *command]
    out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"{recipe.name}: {out.stderr.strip().splitlines()[-1]}")
    found = json.loads(out.stdout.splitlines()[-1])
    return {**found, "command": " ".join(command), "libtpu": version("libtpu")}


def row(recipe: Recipe, found: dict) -> str:
    """A line of the table."""
    gib, settings = 2**30, found["settings"]
    ways = found["mesh"]["fsdp"]
    how = f"remat {settings['remat']}, state {f'in {ways}' if ways > 1 else 'whole'}"
    how += f", accumulate {settings['accumulate']}" if settings["accumulate"] > 1 else ""
    frozen = found.get("frozen_bytes", 0) / gib
    how += f", frozen {frozen:.2f} GiB" if frozen > 0.1 else ""
    sizes = f"{found['hbm_bytes'] / gib:.2f} of {found['hbm_limit_bytes'] / gib:.2f}"
    sizes += "" if found.get("machine_code", True) else " *"
    sizes += "" if found["fits"] else " **does not fit**"
    times = found["estimate"] or {"step_seconds": 0, "mfu_bound": 0}
    return (
        f"| {recipe.label} | {recipe.topology} | {recipe.batch:,} | {how} | {sizes} "
        f"| {found['temp_bytes'] / gib:.2f} | {found['collective_bytes'] / 1e6:,.0f} "
        f"| {times['step_seconds']:.2f} | {times['mfu_bound']:.0%} |\n"
    )


def main() -> int:
    """Plans what is missing, then writes the table of all."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--only", default="", help="recipes whose name contains this")
    p.add_argument("--renew", action="store_true", help="compile again what has a plan")
    args = p.parse_args()
    for recipe in RECIPES:
        file = HERE / f"{recipe.name}.json"
        if args.only in recipe.name and (args.renew or not file.is_file()):
            found = plan(recipe)
            file.write_text(json.dumps(found, indent=1) + "\n")
            print(row(recipe, found), end="", flush=True)
    files = [(recipe, HERE / f"{recipe.name}.json") for recipe in RECIPES]
    plans = [(recipe, json.loads(file.read_text())) for recipe, file in files if file.is_file()]
    versions = ", ".join(sorted({found["libtpu"] for _, found in plans}))
    rows = "".join(row(*each) for each in plans)
    missing = ", ".join(recipe.name for recipe, file in files if not file.is_file())
    missing = f"\nYet to be planned: {missing}.\n" if missing else ""
    README.write_text(HEAD.format(versions=versions) + rows + missing + TAIL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
