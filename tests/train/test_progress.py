"""The progress line and the meter behind it; what a workdir counts as the same run."""

import re

import numpy as np
import pytest

from vlp_jax.train import progress
from vlp_jax.train.progress import (
    Evaluating,
    Meter,
    duration_text,
    evaluation_line,
    peak_flops,
    progress_line,
)
from vlp_jax.train.workdir import OPERATIONAL, differing_keys, flat_config


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (65.9, "1:05"), (3725, "1:02:05"), (90_000, "25:00:00")]
)
def test_durations_read_like_a_clock(seconds, text):
    assert duration_text(seconds) == text


def test_peaks_are_found_by_the_longest_name():
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("NVIDIA H200 141GB") == 989e12
    assert peak_flops("cpu") == 0.0


def test_meter_counts_training_time_only(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(progress, "peak_flops", lambda kind: 1e6)
    monkeypatch.setattr(progress.jax, "device_count", lambda: 2)
    meter = Meter(batch_size=32, flops=lambda length: 100.0)
    for _ in range(4):
        clock[0] += 1.0
        meter.wait(0.25)
        meter.step()
    paused = meter.pause()
    clock[0] += 1000.0  # an evaluation
    meter.resume(paused)
    found = meter.report()
    assert found["examples_per_s"] == pytest.approx(32.0)
    assert found["step_seconds"] == pytest.approx(1.0) and found["data_wait"] == pytest.approx(0.25)
    assert found["mfu"] == pytest.approx(32 * 300 / 2e6), "forward and backward, both devices"
    clock[0] += 2.0
    meter.step()
    assert meter.report()["examples_per_s"] == pytest.approx(16.0), "a report starts anew"


@pytest.mark.parametrize("terminal", [True, False])
def test_an_evaluation_says_that_it_runs_and_how_far_it_is(monkeypatch, capsys, terminal):
    clock = [5.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(progress.jax, "process_count", lambda: 2)
    told = Evaluating(["retrieval", "captions"])
    assert "evaluate retrieval, captions ..." in capsys.readouterr().err, "before anything is run"
    slow = told.telling("retrieval", "rematch", lambda batch, how=None: (clock[0], how))
    for seconds in (0.5, 0.6, 0.7, 9.0):
        clock[0] += seconds
        assert slow({"index": np.array([0, 1, 2, -1])}, how="so") == (clock[0], "so")
    told.end()
    lines = [line.lstrip("\r\x1b[K") for line in re.split("\r|\n", capsys.readouterr().err)]
    shown = [line for line in lines if line]
    first = ["evaluate retrieval: rematch 12 rows  0:01"] * terminal
    last = "evaluate retrieval: rematch 24 rows  0:10"
    assert shown == [*first, last, "evaluated retrieval, captions in 0:10"]


def test_a_slow_batch_counts_in_the_report_that_saw_it(monkeypatch):
    """The loop's order: wait for a batch, dispatch, report the step before, count this one."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    feed = iter([9.0, 0.1, 0.1])

    def next_batch():
        seconds = next(feed)
        clock[0] += seconds
        meter.wait(seconds)

    meter = Meter(32, lambda length: 0.0)
    shares = []
    for step in range(3):
        next_batch()
        clock[0] += 0.9
        if step:
            shares.append(meter.report()["data_wait"])
        meter.step()
    assert shares == pytest.approx([9.1 / 10.9, 0.1])


def test_mfu_is_hidden_where_the_device_is_unknown():
    assert "mfu" not in Meter(32, lambda length: 100.0).report()


def test_progress_line_says_what_a_person_wants_to_know():
    scalars = dict(loss=3.2141, lr=1e-3, examples_per_s=1234.4, data_wait=0.021, step_seconds=0.5)
    line = progress_line(120, 2000, scalars)
    assert line == "step 120/2000  loss 3.2141  lr 1.00e-03  1234 ex/s  wait 2%  ETA 15:40"
    more = progress_line(120, 2000, {**scalars, "mfu": 0.512, "skipped": 3.0})
    assert "MFU 51.2%  skipped 3  ETA" in more


def test_an_evaluation_is_a_line_of_words():
    metrics = {"top1_k1": 0.123456, "chance_top1": 0.1, "median_rank": 12.0}
    assert evaluation_line("knn", metrics) == "knn  top1_k1 0.1235  median_rank 12"


def test_configs_are_compared_by_what_they_compute():
    old = flat_config({"a": {"b": (1, 2)}, "mesh": {"data": 1}, "evals": {}, "config_file": "x"})
    assert old == {"a.b": [1, 2], "mesh.data": 1, "evals": {}, "config_file": "x"}
    new = flat_config({"a": {"b": (1, 3)}, "mesh": {"data": 8}, "evals": {"r": {"k": 1}}})
    assert differing_keys(old, new) == ["a.b: [1, 2] -> [1, 3]"]
    assert differing_keys(old, {**old, "seed": 1}) == ["seed: absent -> 1"]
    later = {"fresh": [], "allow_random_frozen": False, "text": ""}
    assert differing_keys(old, {**old, **later}) == [], "what a version adds is off"
    keys = ("seed", "steps", "batch_size", "accumulate", "optim", "method", "data.path", "freeze")
    assert not set(keys) & set(OPERATIONAL), "these decide the numbers"
