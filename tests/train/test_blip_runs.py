"""BLIP's queue, its pointer and its teacher in a run: R2, every bit of them after a stop; R13, none
moved by a batch with a NaN pixel. (The LM loss has no state, and costs a third of the compiling.)
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_runs import digests

from vlp_jax.api.config import load_config
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.data.device import to_device
from vlp_jax.methods.kits.grounded import Grounded
from vlp_jax.parallel import mesh
from vlp_jax.parallel.mesh import batch_sharding
from vlp_jax.train import trainer as trainers
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.loop import Loop

RECIPE = pathlib.Path(__file__).parents[2] / "configs" / "blip" / "tiny.py"
B, QUEUE, STEPS, CUT = 4, 12, 20, 7
SIZES = {
    "image_size": 16, "method.image.patch_size": 8, "method.image.width": 16,
    "method.image.num_layers": 1, "method.image.head_width": 8, "method.text.vocab_size": 12,
    "method.text.width": 16, "method.text.num_layers": 1, "method.text.num_heads": 2,
    "method.text.dropout": 0.1, "method.queue": QUEUE, "method.embed_dim": 4,
    "data.context_length": 6, "batch_size": B, "steps": STEPS, "checkpoint_every": CUT,
    "log_every": 1, "method.text.roles": "encoder",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures with captions, and a vocabulary of seven."""
    data, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(1, 256, (16, 16, 3), np.uint8)).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text(f"{'ab'[i % 2]} {'ab'[i // 5]}")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (data / "vocab.txt").write_text("\n".join(words) + "\n")
    return data


def small(data, **changes):
    """The small recipe at a size of nothing, on the first of the simulated devices."""
    where = {"data.path": data, "data.tokenizer": data / "vocab.txt"}
    flags = {key: str(value) for key, value in {**SIZES, **where, **changes}.items()}
    config = load_config(f"{RECIPE}:{data}", flags)
    with config.unlocked():
        config.evals, config.method.losses = {}, ("itc", "itm")
    with pytest.MonkeyPatch.context() as patch:
        one = mesh.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
        patch.setattr(trainers, "make_mesh", lambda shape: one)
        return trainers.Trainer(config)


@pytest.fixture(scope="module")
def trainer(data):
    """Its program makes NaN of the first pixel of a black picture."""
    prepare = Grounded.prepare

    def poisoned(self, images, rng, **how):
        black = (images == 0).all((1, 2, 3))
        pixels = prepare(self, images, rng, **how)
        return pixels.at[:, 0, 0, 0].add(jnp.where(black, jnp.nan, 0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grounded, "prepare", poisoned)
        yield small(data)


def run(trainer, steps, workdir):
    """Trains from the newest checkpoint of the workdir; the same program every time."""
    object.__setattr__(trainer, "steps", steps)
    workdir.mkdir(exist_ok=True)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=10)
    there = bool(checkpoints.steps())
    start = (checkpoints.restore(trainer.abstract.state), {}) if there else trainer.first()
    loop = Loop(trainer, workdir, start, checkpoints)
    loop.run()
    return loop


def test_a_stop_repeats_every_bit_of_queue_and_teacher(trainer, tmp_path):
    whole = run(trainer, STEPS, tmp_path / "whole")
    run(trainer, CUT, tmp_path / "parts")
    parts = run(trainer, STEPS, tmp_path / "parts")
    assert (parts.start, parts.step) == (CUT, STEPS)
    found, wanted = digests(parts.state), digests(whole.state)
    assert {path for path in wanted if found[path] != wanted[path]} == set()
    extra = flatten(parts.state["extra"])
    assert int(extra["queue/at"]) == STEPS * B % QUEUE != CUT * B % QUEUE
    assert {path.split("/")[0] for path in extra} == {"queue", "teacher"}
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in
             ("whole", "parts")]  # fmt: skip
    losses = [[json.loads(line)["loss"] for line in some] for some in lines]
    assert losses[0] == losses[1] and len(set(losses[0])) == STEPS


def test_a_nan_pixel_moves_neither_queue_nor_teacher(trainer):
    batches = trainer.pipeline.batches(0)
    state, frozen = trainer.first()
    counters, kept = ("step", "skipped", "skipped_in_row"), []
    with jax.set_mesh(trainer.mesh):
        for step in range(3):
            rows = next(batches)
            batch = {name: np.array(rows[name]) for name in trainer.batch_spec(1)}
            batch["image"][2] *= step != 1
            batch = to_device(batch, batch_sharding(trainer.mesh))
            state, _ = trainer.step(state, frozen, batch)
            kept.append(digests({k: v for k, v in state.items() if k not in counters}))
    assert kept[1] == kept[0] and int(state["skipped"]) == 1
    moved = {path for path in kept[2] if kept[2][path] != kept[1][path]}
    assert {"extra/queue/at", "extra/queue/image", "extra/queue/text"} <= moved
    assert any(path.startswith("extra/teacher/text/") for path in moved)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method.queue": 10}, "method.queue=10: must be a positive multiple of batch_size=4"),
        ({"method.queue": 0}, "method.queue=0: must be a positive multiple of batch_size=4"),
        ({"method.text.vocab_size": 8}, "of which 2 are the method's own; it takes 9"),
        ({"method.text.vocab_size": 1}, "two ids below method.text.vocab_size=1"),
    ],
)
def test_what_a_run_is_refused_for(data, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        small(data, **changes)
    assert "\n" not in str(caught.value)
