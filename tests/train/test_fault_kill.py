"""R1: a run killed 20 times in and around its saves goes on bit for bit; nothing torn is listed."""

import json
import random
import signal

import jax
from forks import Child
from small_runs import digests

from vlp_jax.train.checkpoint import Checkpoints

# Fault -> complete steps that must be left, with checkpoints after every step and two kept.
FAULTS = {
    "flight:3": ([1, 2], [2, 3]),  # the copy of step 3 may or may not have come through
    "committed:4": ([2, 3],),
    "digest:5": ([3, 4],),
    "logged:6": ([5, 6],),
    "prune:6": ([7, 8],),
}
SEEDED = 15  # kills at offsets drawn from a seed, beside the five planted ones
STEPS = 60  # more than the kills can come to


def model(workdir):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, state = Checkpoints(workdir / "checkpoints").restore_model(device)
    assert step == STEPS
    return digests(state)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_killed_at_twenty_moments(toy_file, tmp_path):
    keys = ("checkpoint_every=1", "keep_checkpoints=2", f"steps={STEPS}", "optim.schedule=constant")
    words = ["train", f"--config={toy_file}", *(f"--config.{key}" for key in keys)]
    whole, workdir, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    own = ["--config.checkpoint_every=100", f"--workdir={whole}"]
    assert Child([*words, *own], log).end()[0] == 0
    words.append(f"--workdir={workdir}")
    for fault, left in FAULTS.items():
        code, error = Child(words, log, fault).end()
        assert code == -signal.SIGKILL, f"{fault}: {error}"
        steps = Checkpoints(workdir / "checkpoints").steps()
        assert steps in left, fault
        logged = [line["step"] for line in lines(workdir)]
        assert logged == list(range(1, len(logged) + 1)) and len(logged) >= steps[-1], fault
    rng, seen = random.Random(0), steps[-1]
    for _ in range(SEEDED):
        code, error = Child(words, log, f"later:{seen + 1}:{rng.random() * 0.05}").end()
        assert code == -signal.SIGKILL, error
        steps = Checkpoints(workdir / "checkpoints").steps()
        assert steps[-1] > seen, "a complete checkpoint was lost"
        seen = steps[-1]
    assert seen < STEPS
    assert Child(words, log).end()[0] == 0
    assert model(workdir) == model(whole)
    found = [[(x["step"], x["loss"]) for x in lines(folder)] for folder in (workdir, whole)]
    assert found[0] == found[1]
    names = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert names == [str(STEPS - 1), str(STEPS), "digests"], "what the torn saves left is gone"
    assert len(list((workdir / "checkpoints" / "digests").iterdir())) == 2
