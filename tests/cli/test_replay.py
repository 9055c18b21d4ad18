"""R12: a logged step, run again from its checkpoint, is the same to the last bit, or it is told."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from vlp_jax.__main__ import main
from vlp_jax.api.model import load_model
from vlp_jax.core.errors import UserError
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.lock import locked
from vlp_jax.train.workdir import check_workdir, run_files, write_files


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    from small_runs import make_pictures, write_config

    folder = tmp_path_factory.mktemp("replay")
    config = write_config(folder, make_pictures(folder / "pictures"))
    keys = ("steps=8", "checkpoint_every=3", "mesh.data=-1")
    words = [f"--config.{key}" for key in keys]
    assert main(["train", f"--config={config}", f"--workdir={folder / 'w'}", *words]) == 0
    return folder / "w"


def times(folder):
    """When each file was written; the lock of a run in progress always just now."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "lock"}


def replay(workdir, capsys, *words):
    before = times(workdir)
    code = main(["replay", f"--workdir={workdir}", *words, "--json"])
    assert times(workdir) == before
    out, error = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if code < 2 else error


def test_steps_are_the_same_bit_for_bit(workdir, capsys):
    with locked(workdir):  # as while it trains
        code, found = replay(workdir, capsys, "--step=4", "--steps=3")
    assert code == 0 and found["same"] and found["start"] == 3
    assert found["compared"] == [4, 5, 6] and found["checkpoints"] == [6]
    code, found = replay(workdir, capsys, "--step=2")
    assert code == 0 and found["start"] == 0 and found["compared"] == [1, 2], "from fresh weights"


def test_a_step_that_never_was_is_refused(workdir, capsys):
    code, error = replay(workdir, capsys, "--step=9")
    assert code == 2 and "--step=9: the run has logged steps up to 8" in error


def test_a_run_of_other_random_streams_is_refused(workdir, capsys, caplog):
    """As older versions left it, without the number; --force goes on."""
    file = workdir / "run.json"
    run = json.loads(file.read_text())
    config = json.loads((workdir / "config.json").read_text())
    try:
        assert run.pop("stream") == 3
        file.write_text(json.dumps(run))
        code, error = replay(workdir, capsys, "--step=4")
        (line,) = error.strip().splitlines()
        assert code == 2 and "drew random stream 1, this version draws 3 and cannot" in line
        check = functools.partial(check_workdir, workdir, config, run["data_digest"])
        with pytest.raises(UserError, match="random stream 1"):
            check(force=False)
        check(force=True)
        load_model(f"fresh:{workdir}")
        assert "its run drew random stream 1, this version draws 3: other fresh" in caplog.text
    finally:
        write_files(workdir, run_files(config, run["data_digest"]))
    check(force=False)


def test_one_other_bit_is_found_and_named(workdir, capsys):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=9)
    where, saved = jax.sharding.SingleDeviceSharding(jax.devices()[0]), checkpoints._saved(6)
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    state = saved.load(jax.tree.map(shape, saved.shapes()))
    state["params"]["text"]["pos_embed"] = state["params"]["text"]["pos_embed"].at[0, 0].add(1e-6)
    checkpoints.save(6, state)
    checkpoints.wait()
    log = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[4]["loss"] = jnp.nextafter(jnp.float32(lines[4]["loss"]), 9).item()
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, found = replay(workdir, capsys, "--step=5", "--steps=2")
    assert code == 1 and not found["same"]
    assert found["different"][0].startswith("step 5: loss was")
    assert found["different"][1:] == [
        "step 6: 1 leaves of the checkpoint differ, first params/text/pos_embed"
    ]
