"""R4, R5, R6: full disks, damaged digests and other models, through the commands people use."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import orbax.checkpoint.experimental.v1 as ocp
import pytest

from vlp_jax.__main__ import main
from vlp_jax.core.errors import RunError
from vlp_jax.train.checkpoint import Checkpoints

STATE = {
    "params": {"w": jnp.arange(4096.0).reshape(64, 64)},
    **{name: {} for name in ("ema", "extra")},
}
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (1, 2):
        checkpoints.save(step, STATE)
    checkpoints.wait()
    return checkpoints


def damages(whole):
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 1
    return {"flipped": bytes(middle), "cut": whole[:-1], "half": whole[: len(whole) // 2]}


def test_a_damaged_table_of_digests_is_named(saved):
    file = saved.folder / "digests" / "2.json"
    whole = file.read_bytes()
    for kind, data in {**damages(whole), "empty": b"", "other": b"[]"}.items():
        file.write_bytes(data)
        with pytest.raises(RunError, match=str(file)):
            saved.restore(jax.eval_shape(lambda: STATE))
            pytest.fail(kind)
    file.write_bytes(whole)


def test_damage_is_found_by_eval_and_embed_too(saved):
    """They read the shapes from the checkpoint itself, so its metadata are read before its data."""
    for path in sorted(p for p in (saved.folder / "2").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for data in damages(whole).values() if whole else ():
            path.write_bytes(data)
            with pytest.raises(RunError, match=str(path)):
                saved.restore_model(DEVICE)
        path.unlink()
        with pytest.raises(RunError, match=str(path)):
            saved.restore_model(DEVICE)
        path.write_bytes(whole)
    step, state = saved.restore_model(DEVICE)
    assert step == 2 and bool((state["params"]["w"] == STATE["params"]["w"]).all())


def test_a_failed_save_is_reported_by_the_next_one(saved, monkeypatch):
    class Failed:
        def result(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp, "save_async", lambda *_, **__: Failed())
    saved.save(3, STATE)
    with pytest.raises(RunError, match=r"c/3: checkpoint could not be saved: .*No space left"):
        saved.save(4, STATE)
    assert saved.steps() == [1, 2]


def test_a_step_that_is_saved_again_does_not_count_until_it_is_whole(saved, monkeypatch):
    """After `--step=1` the old step 2 is overwritten; its old digests must not vouch for it."""
    seen = []

    def refuse(*_, **__):
        seen.append(saved.steps())
        raise OSError("stop")

    monkeypatch.setattr(ocp, "save_async", refuse)
    with pytest.raises(RunError, match="could not be saved"):
        saved.save(2, STATE)
    assert seen == [[1]]


@pytest.fixture(scope="module")
def trained(config_file, tmp_path_factory):
    """A finished run of two steps, checkpointed after each."""
    workdir = tmp_path_factory.mktemp("trained") / "w"
    assert main(words(config_file, workdir)) == 0
    return workdir


def words(config_file, workdir, *more):
    keys = ("--config.steps=2", "--config.checkpoint_every=1", "--config.optim.schedule=constant")
    return ["train", f"--config={config_file}", f"--workdir={workdir}", *keys, *more]


def content(workdir):
    files = (path for path in workdir.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if "tensorboard" not in path.parts}


def largest(workdir):
    files = (p for p in (workdir / "checkpoints" / "2").rglob("*") if p.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def test_a_run_does_not_go_on_from_damage(config_file, trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "w")
    file = largest(workdir)
    file.write_bytes(damages(file.read_bytes())["flipped"])
    kept = content(workdir)
    for command in (
        words(config_file, workdir),
        ["eval", f"--checkpoint={workdir}", "--config.evals.retrieval.path=builtin:emoji/noto-val"],
    ):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(file) in line and "--step=OLDER" in line
        assert content(workdir) == kept
    assert main(words(config_file, workdir, "--step=1")) == 0  # only when told to
    steps = [json.loads(x)["step"] for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2] and Checkpoints(workdir / "checkpoints").steps() == [1, 2]
    assert Checkpoints(workdir / "checkpoints").restore_model(DEVICE)[0] == 2


def test_another_model_in_a_workdir_is_refused_whole(config_file, trained, capsys):
    before = content(trained)
    other = ("--config.method.image.width=32", "--config.method.embed_dim=16", "--force")
    assert main(words(config_file, trained, *other)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for part in (
        "params/image/patch_embed/kernel is float32[8, 8, 3, 64], needs float32[8, 8, 3, 32]",
        "params/text/head/kernel is float32[64, 32], needs float32[64, 16]",
        "ema/image/cls_token is float32[64], needs float32[32]",
        "opt/",
    ):
        assert part in line
    assert content(trained) == before, "config.json is still that of the run in the folder"


def test_other_weights_to_start_from_are_refused_whole(config_file, trained, tmp_path, capsys):
    other = ("--config.method.image.patch_size=16", "--config.method.text.num_layers=2")
    start = f"--config.init_from={trained}"
    assert main(words(config_file, tmp_path / "new", *other, start)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    flags = ("--config.method.image.patch_size=8", "--config.method.text.num_layers=1")
    for part in ("image/patch_embed/kernel is [", *flags):
        assert part in line
    assert not (tmp_path / "new").exists()
