"""R2, R3 with two processes: a stop on one rank stops both, and the pair goes on bit for bit."""

import json
import socket

import jax
from faulty import start_faulty
from runs import digests, finish, start

from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.preemption import EXIT_PREEMPTED


def pair(words, fault=""):
    """(exit codes, stderrs) of two processes of one job on this host; gloo carries collectives."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    job["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    children = []
    for rank in ("0", "1"):
        extra = {**job, "JAX_PROCESS_ID": rank}
        children.append(start_faulty(fault, *words, **extra) if fault else start(*words, **extra))
    try:
        ends = [finish(child, timeout=60) for child in children]
    finally:
        for child in children:
            child.kill()
    return [end[0] for end in ends], [end[2] for end in ends]


def lines(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def model(workdir):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, state = Checkpoints(workdir / "checkpoints").restore_model(device)
    return step, digests(state)


def test_a_pair_stopped_by_one_of_them_repeats_every_bit(config_file, tmp_path):
    words = ["train", f"--config={config_file}", "--config.keep_checkpoints=1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    codes, errors = pair([*words, f"--workdir={whole}"])
    assert codes == [0, 0], errors
    assert Checkpoints(whole / "checkpoints").steps() == [20], "old steps go with two processes too"
    codes, errors = pair([*words, f"--workdir={parts}"], "sigterm:8:1")
    assert codes == [EXIT_PREEMPTED] * 2, errors
    (stopped,) = Checkpoints(parts / "checkpoints").steps()
    assert 8 <= stopped < 20
    assert all(f"stopped at step {stopped} of 20" in error for error in errors)
    codes, errors = pair([*words, f"--workdir={parts}"])
    assert codes == [0, 0], errors
    assert lines(parts) == lines(whole)
    assert model(parts) == model(whole)
