"""R2, R3, R8 with 1, 2 and 4 processes: stopped together, resumed bit for bit, or on others."""

import json
import shutil

import jax
import numpy as np
import pytest
from forks import ends, job
from small_runs import digests

from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.lock import locked
from vlp_jax.train.preemption import EXIT_PREEMPTED

PAIR = 8  # steps of the run of two


def run(count, words, folder, **more):
    codes, texts = ends(job(count, words, folder, **more), timeout=240)
    return codes, texts


def lines(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def model(workdir):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, state = Checkpoints(workdir / "checkpoints").restore_model(device)
    return step, digests(state)


@pytest.fixture(scope="module")
def words(toy_file):
    """One program for all runs: with a constant rate it does not know how long they are."""
    keys = ("optim.schedule=constant", "keep_checkpoints=1", "freeze=('mix',)")
    more = ("allow_random_frozen=true", "checkpoint_every=4")
    return ["train", f"--config={toy_file}", *(f"--config.{key}" for key in (*keys, *more))]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """A folder with the run `w` of two processes."""
    folder = tmp_path_factory.mktemp("whole")
    codes, errors = run(2, [*words, f"--workdir={folder / 'w'}", f"--config.steps={PAIR}"], folder)
    assert codes == [0, 0], errors
    return folder


def test_a_pair_stopped_by_one_of_them_repeats_every_bit(words, whole, tmp_path):
    assert Checkpoints(whole / "w" / "checkpoints").steps() == [PAIR], "old steps go with two too"
    parts = tmp_path / "parts"
    command = [*words, f"--workdir={parts}", f"--config.steps={PAIR}"]
    codes, errors = run(2, command, tmp_path, faults={1: "sigterm:2"})
    assert codes == [EXIT_PREEMPTED] * 2, errors
    (stopped,) = Checkpoints(parts / "checkpoints").steps()
    assert 2 <= stopped < PAIR
    assert all(f"stopped at step {stopped} of {PAIR}" in error for error in errors)
    codes, errors = run(2, command, tmp_path)
    assert codes == [0, 0], errors
    assert lines(parts) == lines(whole / "w")
    assert model(parts) == model(whole / "w")


def test_a_second_job_in_a_workdir_is_refused_as_one(toy_file, tmp_path):
    workdir = tmp_path / "w"
    with locked(workdir):
        codes, errors = run(2, ["train", f"--config={toy_file}", f"--workdir={workdir}"], tmp_path)
        assert codes == [2, 2], errors
        assert all(f"--workdir={workdir}: a training holds it" in error for error in errors)
        assert [path.name for path in workdir.iterdir()] == ["lock"]


def test_two_four_one_and_two_processes_train_like_one(words, whole, tmp_path):
    """The run of two goes on; what four began with is that of two, and so on."""
    words, many = [*words, "--force"], tmp_path / "many"
    shutil.copytree(whole / "w", many)
    for part, count in enumerate((4, 1, 2), start=1):
        more = [f"--workdir={many}", f"--config.steps={PAIR + 2 * part}"]
        codes, errors = run(count, [*words, *more], tmp_path)
        assert codes == [0] * count, errors
    one, steps = tmp_path / "one", PAIR + 6
    codes, errors = run(1, [*words, f"--workdir={one}", f"--config.steps={steps}"], tmp_path)
    assert codes == [0], errors
    many, single = np.array(lines(many)), np.array(lines(one))
    assert many[:, 0].tolist() == list(range(1, steps + 1)), "every step is logged once"
    np.testing.assert_allclose(many[:, 1], single[:, 1], rtol=1e-6)


@pytest.mark.parametrize("counts", [(2, 1, 4), (4, 2, 1)])
def test_every_sample_comes_once_per_epoch_on_changing_processes(make_trainer, counts):
    """5 steps of 16 are two epochs of 40 pictures; a picture is known by its caption."""
    trainer = make_trainer(**{"data.image.crop": "squash"})
    seen, steps = [], {counts[0]: range(2), counts[1]: range(2, 3), counts[2]: range(3, 5)}
    for count, part in steps.items():
        for step in part:
            rows = [next(pipeline(trainer, rank, count).batches(step)) for rank in range(count)]
            texts = np.concatenate([row["text"] for row in rows])
            expected = [trainer.pipeline.source.metadata(i) for i in indices(trainer, step)]
            wanted = trainer.tokenizers["text"]([example["text"][0] for example in expected])
            np.testing.assert_array_equal(texts, wanted[:, : texts.shape[1]])
            seen += [example["key"] for example in expected]
    for epoch in (seen[:40], seen[40:]):
        assert len(set(epoch)) == 40, "each sample exactly once"
    assert seen[:40] != seen[40:]


def indices(trainer, step):
    return [int(i) for i in trainer.pipeline.order.index(step * 16 + np.arange(16))]


def pipeline(trainer, rank, count):
    """The training data as that rank of so many processes reads it."""
    from vlp_jax.data.pipeline import TrainPipeline

    return TrainPipeline(
        trainer.config.data,
        trainer.fields,
        batch_size=16,
        seed=0,
        process_index=rank,
        process_count=count,
    )
