"""`plan` on eight simulated devices: keys, refusals, the golden program, bad input."""

import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from tiny import tiny_config

from configs import common
from vlp_jax import __main__ as program
from vlp_jax.cli import plan as command
from vlp_jax.core.errors import UserError
from vlp_jax.plan import layout
from vlp_jax.plan import program as plan_program
from vlp_jax.plan.program import Compiled, PlannedTrainer, compile_step, parse_refusal
from vlp_jax.plan.report import report
from vlp_jax.plan.search import candidates, search
from vlp_jax.plan.topology import chip

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/plans.json"
KEYS = (
    *("fits", "hbm_bytes", "hbm_limit_bytes", "args_bytes", "temp_bytes", "model_flops"),
    *("collectives", "compile_seconds", "topology", "devices", "global_batch"),
)


def recipe(**changes):
    c = common.base()
    c.method = common.clip_method("clip", tiny_config())
    c.image_size, c.batch_size, c.steps = 32, 64, 10
    c.update(changes)
    return c.lock()


def planned(config, topology="cpu:8"):
    trainer = PlannedTrainer(config, jax.devices())
    return report(trainer, compile_step(trainer), topology, chip(topology))


def test_a_step_on_a_cache_lacks_what_the_cache_holds():
    """Its batch is the cache's, and the frozen tower is in no program."""
    from configs.clip import frozen_emoji

    config = frozen_emoji.get_config("runs/quickstart")
    whole, kept = (PlannedTrainer(config, jax.devices(), 100, how) for how in (False, True))
    names = set(whole.fields) - set(kept.fields)
    assert "image" in names and set(kept.fields) - set(whole.fields)
    with pytest.raises(UserError, match="--cached: clip takes nothing from a cache"):
        _ = PlannedTrainer(recipe(), jax.devices(), 100, True).fields


def test_frozen_parts_are_split_as_what_learns():
    """`fsdp` splits them too: an eighth on each of eight devices, but for what does not divide."""
    from configs.clip import frozen_emoji

    sizes = {}
    for preset in ("replicated", "fsdp"):
        config = frozen_emoji.get_config("runs/quickstart")
        config.sharding, config.mesh = preset, {"data": 1, "fsdp": 8, "tensor": 1}
        trainer, nothing = PlannedTrainer(config, jax.devices()), Compiled(True, 0, 1, 0.0)
        sizes[preset] = report(trainer, nothing, "cpu:8", chip("cpu:8"))["frozen_bytes"]
    assert sizes["fsdp"] == pytest.approx(sizes["replicated"] / 8, rel=0.05)


@pytest.fixture(scope="module")
def found():
    return planned(recipe())


def test_figures_of_a_small_program(found):
    assert set(KEYS) <= set(found)
    assert found["fits"] and found["devices"] == 8 and found["global_batch"] == 64
    state = 4 * found["parameters"]  # float32: parameters, and two moments of AdamW
    assert found["parameter_bytes"] == found["gradient_bytes"] == state
    assert found["optimiser_bytes"] == pytest.approx(2 * state, rel=1e-3)
    rows = {c["kind"]: c["bytes"] for c in found["collectives"]}
    assert rows["all-reduce"] == pytest.approx(state, rel=0.05)  # the gradient
    assert rows["reduce-scatter"] == 64 * 32 * 4  # of the loss
    assert found["model_flops"] == 3 * 64 * PlannedTrainer(recipe(), jax.devices()).method.flops()


def test_sharded_parameters_take_an_eighth(found):
    split = planned(recipe(sharding="fsdp", mesh={"data": 1, "fsdp": 8, "tensor": 1}))
    assert split["parameter_bytes"] < found["parameter_bytes"] / 6
    assert {c["kind"] for c in split["collectives"]} >= {"all-gather"}


def test_sizes_of_a_buffer_assignment():
    """What is updated in place is an argument; vector memory and constants are neither."""
    text = """BufferAssignment:
allocation 0: size 64, parameter 0, shape |f32[16]| at ShapeIndex {}, maybe-live-out:
 value: <2 x @0> (size=64,offset=0): f32[16]
allocation 1: size 8, parameter 3, shape |f32[2]| at ShapeIndex {}:
allocation 2: size 4, output shape is |f32[]|, maybe-live-out:
allocation 3: size 512, constant:
allocation 4: size 512, thread-local:
allocation 5: size 1000, preallocated-temp:
allocation 6: size 2000, color 1, preallocated-temp:
"""
    assert layout.sizes(text) == {"args": 72, "outputs": 4, "temp": 1000}


def test_a_layout_without_code_has_the_compiled_steps_figures(found):
    trainer = PlannedTrainer(recipe(), jax.devices())
    laid = report(trainer, layout.lay_out(trainer, "cpu:8"), "cpu:8", chip("cpu:8"))
    for name in ("args_bytes", "output_bytes", "collectives"):
        assert laid[name] == found[name], name
    assert laid["temp_bytes"] == pytest.approx(found["temp_bytes"], rel=0.01)


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 27.70G of 15.75G hbm.",
            (27.7, 15.75),
        ),
        (
            "the total memory required for HLO temporaries (1.00T) exceeds available HBM (15.75G)",
            (1024, 15.75),
        ),
        ("Used 512.00M of 1.00G hbm. Total hbm usage >= 2.50G:", (2.5, 1)),
        ("INTERNAL: something else", None),
    ],
)
def test_the_compilers_refusals(message, sizes):
    found = parse_refusal(message)
    assert found == (sizes and tuple(int(size * 2**30) for size in sizes))


def refuse(monkeypatch):
    """A compiler that has 15.75 GiB and would need 27.7."""

    def lower(*_):
        raise jax.errors.JaxRuntimeError("Ran out of memory. Used 27.70G of 15.75G hbm.")

    monkeypatch.setattr(plan_program, "memory_limit", lambda device: int(15.75 * 2**30))
    step = type("Step", (), {"lower": staticmethod(lower)})()
    monkeypatch.setattr(PlannedTrainer, "jit_step", step)


def test_a_program_that_does_not_fit_is_an_answer(monkeypatch, capsys):
    refuse(monkeypatch)
    words = ["--config=configs/clip/folder.py", "--topology=cpu:8", "--json"]
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert "does NOT fit: 27.70 of 15.75 GiB" in out
    last = json.loads(out.splitlines()[-1])
    assert last["fits"] is False and last["hbm_bytes"] == int(27.7 * 2**30)


def test_search_tries_the_fastest_first_and_stops_at_the_first_that_fits():
    seen = []

    def plan(config):
        seen.append((config.method.remat, config.mesh.fsdp, config.accumulate))
        fits = config.method.remat == "full"
        settings = {"remat": config.method.remat}
        figures = {"hbm_bytes": 10 - len(seen), "hbm_limit_bytes": 5, "spare": 0.5}
        return {"settings": settings, "mesh": {}, "fits": fits, "compile_seconds": 1, **figures}

    best, tried = search(recipe(), jax.devices(), plan, lambda line: None)
    assert best["fits"] and len(tried) == len(seen)
    assert seen[0] == ("none", 1, 1) and seen[-1][0] == "full"
    assert all(remat != "full" for remat, *_ in seen[:-1])
    assert all(64 % (8 * c.accumulate) == 0 for c in candidates(recipe(), jax.devices()))


def test_search_passes_over_what_cannot_accumulate():
    def plan(config, most=1):
        if config.accumulate > most:
            raise UserError("BatchNorm does not accumulate")
        figures = {"hbm_bytes": 9, "hbm_limit_bytes": 5, "spare": 0.0, "compile_seconds": 1}
        settings = {"accumulate": config.accumulate}
        return {"settings": settings, "mesh": {}, "fits": False, **figures}

    _, tried = search(recipe(), jax.devices(), plan, lambda line: None)
    assert len(tried) == 9 and {t["settings"]["accumulate"] for t in tried} == {1}
    with pytest.raises(UserError, match="does not accumulate"):
        search(recipe(), jax.devices(), functools.partial(plan, most=0), lambda line: None)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--topology=v5:16x16"], "did you mean 'v5e:16x16'"),
        (["--topology=v5e:16by16"], "known: v4:2x2x1"),
        (["--topology=mesh"], "--topology=mesh: unknown; known: v4:2x2x1"),
        (["--topology=cpu:8", "--config.batch_size=30"], "batch_size=30"),
        (["--topology=cpu:8", "--config.mesh.fsdp=3"], "mesh"),
        (["--topology=cpu:8", "--config.metod.remat=full"], "method.remat"),
    ],
)
def test_bad_input_is_one_line(words, text, capsys):
    assert program.main(["plan", "--config=configs/clip/folder.py", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and text in error[0]


def test_little_host_memory_is_said_before_the_compile(monkeypatch):
    monkeypatch.setattr(plan_program, "HOST_MEMORY", 1 << 60)
    with pytest.raises(UserError, match="of host memory are free"):
        plan_program.check_host_memory()


def compare(key, found):
    """Refuses a rise of temporaries or collective bytes above 2 %. To renew: PLAN_GOLDEN=1."""
    golden = json.loads(GOLDEN.read_text())
    figures = {name: found[name] for name in ("temp_bytes", "collective_bytes")}
    if os.environ.get("PLAN_GOLDEN"):
        golden[key] = figures
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    if key not in golden:
        pytest.skip(f"no golden plan of {key}; PLAN_GOLDEN=1 writes one")
    for name, size in golden[key].items():
        assert found[name] <= 1.02 * size, f"{name} rose"


def test_golden_plan_on_simulated_devices(found):
    compare(f"cpu:8 jaxlib {importlib.metadata.version('jaxlib')}", found)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_golden_plan_of_a_slice():
    """In a process of its own: libtpu and simulated devices do not share one."""
    config = "configs/clip/quickstart.py"
    sizes = ("method.image.num_layers=2", "method.text.num_layers=2", "method.unroll=False")
    words = ["plan", f"--config={config}", "--topology=v5e:2x2", "--json"]
    words += [f"--config.{size}" for size in sizes]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "vlp_jax", *words]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(out.stdout.splitlines()[-1])
    assert found["fits"] and found["devices"] == 4
    assert found["hbm_limit_bytes"] == int(15.75 * 2**30)
    compare(f"v5e:2x2 libtpu {importlib.metadata.version('libtpu')}", found)
