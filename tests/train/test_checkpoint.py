"""R4, R5, R6: full disks, damage and other models; nothing torn is ever restored."""

import json
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import pytest
from small_runs import digests, finish, start

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.train.checkpoint import Checkpoints

STATE = {
    "step": jnp.int32(3),
    "params": {"w": jnp.arange(4096.0).reshape(64, 64), "b": jnp.ones(8)},
}
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def shapes(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=5)
    for step in (1, 2):
        checkpoints.save(step, {**STATE, "step": jnp.int32(step)})
    checkpoints.wait()
    return checkpoints


def test_round_trip_is_bitwise_and_old_steps_go(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2, keep_every=4)
    for step in range(1, 8):
        checkpoints.save(step, {**STATE, "step": jnp.int32(step)})
    checkpoints.wait()
    assert checkpoints.steps() == [4, 6, 7]
    back = checkpoints.restore(shapes(STATE))
    assert digests(back) == digests({**STATE, "step": jnp.int32(7)})
    assert int(checkpoints.restore(shapes(STATE), step=6)["step"]) == 6


def test_a_save_keeps_the_values_of_its_moment(tmp_path):
    """The step donates its state, so the arrays are overwritten while the save still runs."""
    checkpoints = Checkpoints(tmp_path / "c")
    add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = jax.tree.map(jnp.copy, STATE)
    checkpoints.save(1, state)
    for _ in range(5):
        state = add(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    assert digests(checkpoints.restore(shapes(STATE))) == digests(STATE)


def test_every_kind_of_damage_is_found_and_named(saved):
    folder = saved.folder / "2"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) >= 4
    for path in files:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for damage in (bytes(flipped), whole[:-1], None):
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
            with pytest.raises(RunError, match=str(path)):
                saved.restore(shapes(STATE))
            assert int(saved.restore(shapes(STATE), step=1)["step"]) == 1  # only when asked for
            path.write_bytes(whole)
    assert int(saved.restore(shapes(STATE))["step"]) == 2


def test_a_commit_without_digests_does_not_count(saved, caplog):
    (saved.folder / "digests" / "2.json").unlink()
    assert saved.steps() == [1]
    assert "2 is incomplete" in caplog.text
    saved.save(2, STATE)  # and its place can be taken again
    saved.wait()
    assert saved.steps() == [1, 2]
    (saved.folder / "digests" / "1.json").unlink()
    saved.save(3, STATE)
    saved.wait()
    assert not (saved.folder / "1").exists(), "what an interrupted save left is cleared away"


@pytest.mark.parametrize("at", ["digests away", "folder away", "folder half", "written", "old"])
def test_a_step_that_is_saved_again_is_never_lost(saved, at, monkeypatch):
    """Killed at every moment of its second save; what comes back is the old one or the new one."""
    folder, digests_of = saved.folder, saved.folder / "digests"
    if at in ("digests away", "folder away", "folder half"):
        (digests_of / "2.json").rename(digests_of / "2.before.json")
        if at != "digests away":
            (folder / "2").rename(folder / "2.before")
        if at == "folder half":
            (folder / "2").mkdir()
    else:
        if at == "written":  # complete, and killed before the old one was taken away
            monkeypatch.setattr(Checkpoints, "recover", lambda self: None)
        saved.save(2, {**STATE, "step": jnp.int32(7)})
        saved.wait()
        monkeypatch.undo()
        assert (folder / "2.before").is_dir() == (at == "written")
    again = Checkpoints(folder, keep=5)
    again.recover()
    assert again.steps() == [1, 2]
    found = int(again.restore(shapes(STATE))["step"])
    assert found == (7 if at in ("written", "old") else 2)
    assert not list(folder.rglob("*before*"))


def test_another_model_is_refused_with_every_difference(saved):
    other = {
        "params": {"w": jnp.ones((64, 32)), "b": jnp.ones(8, jnp.bfloat16), "new": jnp.ones(2)},
    }
    with pytest.raises(UserError) as caught:
        saved.restore(shapes(other))
    message = str(caught.value)
    assert "\n" not in message
    for part in ("params/w is float32[64, 64], needs float32[64, 32]", "missing params/new"):
        assert part in message
    assert "; unexpected step" in message
    assert "params/b is float32[8], needs bfloat16[8]" in message
    with pytest.raises(UserError, match="no complete checkpoint of step 9"):
        saved.restore(shapes(STATE), step=9)


def test_a_full_disk_ends_the_run_and_keeps_older_checkpoints(config_file, tmp_path):
    workdir = tmp_path / "run"
    first = start("train", f"--config={config_file}", f"--workdir={workdir}", "--config.steps=2")
    assert finish(first)[0] == 0
    limit = 1 << 16  # bytes any file may have: less than the data file of a checkpoint

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = ["train", f"--config={config_file}", f"--workdir={workdir}", "--force"]
    code, _, error = finish(start(*command, preexec=full))
    assert code == 1, error
    assert "could not be saved" in error.strip().splitlines()[-1] and "Traceback" not in error
    assert Checkpoints(workdir / "checkpoints").steps() == [2]


FROZEN = {"tower": {"w": jnp.arange(1 << 18, dtype=jnp.bfloat16)}}


def test_frozen_weights_are_written_once_and_named_by_steps(tmp_path):
    """Half a megabyte of them beside states of 16 KB; a run that goes on writes them no second
    time.
    """
    folder = tmp_path / "c"
    for steps in ((1, 2), (3,)):
        checkpoints = Checkpoints(folder)
        if steps == (3,):
            back = checkpoints.restore_frozen(shapes(FROZEN))
            assert digests(back) == digests(FROZEN)
        for step in steps:
            state = {**STATE, "step": jnp.int32(step), "ema": {}, "extra": {}}
            checkpoints.save(step, state, FROZEN)
        checkpoints.wait()
    sizes = {part: size(folder / part) for part in ("1", "2", "3", "frozen")}
    assert sizes.pop("frozen") > 1 << 19 and max(sizes.values()) < 1 << 16
    crc = json.loads((folder / "digests" / "frozen.json").read_text())["crc32"]
    named = {json.loads((folder / "digests" / f"{n}.json").read_text())["frozen"] for n in "123"}
    assert named == {crc}
    step, model = Checkpoints(folder).restore_model(DEVICE, 2)
    assert step == 2 and digests(model["frozen"]) == digests(FROZEN)
    with pytest.raises(
        UserError, match=r"frozen is of another model: tower/w is bfloat16\[262144\]"
    ):
        Checkpoints(folder).restore_frozen(shapes({"tower": {"w": jnp.ones(3)}}))


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("fault", ["flipped", "data gone", "table gone", "others"])
def test_frozen_weights_that_are_not_the_run_s_are_named(tmp_path, fault):
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, {**STATE, "extra": {}, "ema": {}}, FROZEN)
    checkpoints.wait()
    frozen = folder / "frozen"
    data = max((p for p in frozen.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    if fault == "flipped":
        whole = bytearray(data.read_bytes())
        whole[len(whole) // 2] ^= 1
        data.write_bytes(whole)
    elif fault == "data gone":
        data.unlink()
    elif fault == "table gone":
        (folder / "digests" / "frozen.json").unlink()
    else:
        other = Checkpoints(tmp_path / "d")
        other.save(1, STATE, {"tower": {"w": FROZEN["tower"]["w"] + 1}})
        other.wait()
        for part in ("frozen", "digests/frozen.json"):
            shutil.rmtree(folder / part, ignore_errors=True)
            (tmp_path / "d" / part).rename(folder / part)
    words = {"flipped": str(data), "data gone": str(data), "table gone": "are gone"}
    for load in (
        lambda found: found.restore_frozen(shapes(FROZEN)),
        lambda found: found.restore_model(DEVICE),
    ):
        with pytest.raises(RunError) as caught:
            load(Checkpoints(folder))
        message = str(caught.value)
        assert words.get(fault, ": other frozen weights (") in message and "\n" not in message
    assert int(Checkpoints(folder).restore(shapes({**STATE, "extra": {}, "ema": {}}))["step"]) == 3


def test_checkpoints_of_older_versions(tmp_path):
    """With frozen weights inside: read by eval, no run goes on from them; without: as ever."""
    old = {**STATE, "ema": {}, "extra": {}, "frozen": FROZEN}
    for step, state in ((1, old), (2, {**old, "frozen": {}})):
        checkpoints = Checkpoints(tmp_path / str(step))
        checkpoints.save(step, state)
        checkpoints.wait()
    wanted = shapes({name: old[name] for name in old if name != "frozen"})
    _, model = Checkpoints(tmp_path / "1").restore_model(DEVICE)
    assert digests(model["frozen"]) == digests(FROZEN)
    with pytest.raises(UserError, match="1/1: of an older version, with its frozen weights inside"):
        Checkpoints(tmp_path / "1").restore(wanted)
    assert digests(checkpoints.restore(wanted)["params"]) == digests(STATE["params"])


def test_files_are_digested_by_content(tmp_path):
    from vlp_jax.train.saved import file_digest

    file = tmp_path / "f"
    file.write_bytes(b"123456789")
    assert file_digest(file) == {"bytes": 9, "crc32": 0xCBF43926}  # the check value of CRC-32
