"""What a workdir remembers: where the data stands after another batch size, and who may go on."""

import json
import logging
import math

import pytest
from ml_collections import ConfigDict

from vlp_jax.api.start import tell_changes
from vlp_jax.core.errors import UserError
from vlp_jax.optim.schedules import duration
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.workdir import (
    Stretch,
    read_config,
    read_run,
    run_files,
    stretches,
    write_files,
    write_json,
)


def write(folder, batch_size, parts):
    write_files(folder, run_files(ConfigDict({"batch_size": batch_size}), "digest", parts))


def test_the_data_goes_on_where_another_batch_size_left_it(tmp_path):
    assert stretches(tmp_path, 0, 16) == [Stretch(0, 16, 0)], "a new run"
    write(tmp_path, 16, stretches(tmp_path, 0, 16))
    assert stretches(tmp_path, 3, 16) == [Stretch(0, 16, 0)]
    changed = stretches(tmp_path, 3, 8)
    assert changed == [Stretch(0, 16, 0), Stretch(3, 8, 24)] and changed[-1].seen(3) == 48
    write(tmp_path, 8, changed)
    assert read_run(tmp_path)["stretches"] == [[0, 16, 0], [3, 8, 24]]
    assert stretches(tmp_path, 5, 8) == changed and changed[-1].seen(5) == 64
    again = stretches(tmp_path, 5, 32)
    assert again == [*changed, Stretch(5, 32, -96)] and again[-1].seen(6) == 96
    assert stretches(tmp_path, 2, 16) == [Stretch(0, 16, 0)], "back to before the change"
    assert stretches(tmp_path, 2, 8) == [Stretch(0, 16, 0), Stretch(2, 8, 16)]
    assert stretches(tmp_path, 3, 4) == [Stretch(0, 16, 0), Stretch(3, 4, 36)], "48 seen either way"
    assert stretches(tmp_path, 0, 8) == [Stretch(0, 8, 0)], "from the start"


def test_a_run_of_before_the_record_had_one_batch_size(tmp_path):
    write_json(tmp_path / "config.json", {"batch_size": 16})
    write_json(tmp_path / "run.json", {"data_digest": "x"})
    assert stretches(tmp_path, 3, 16) == [Stretch(0, 16)]
    assert stretches(tmp_path, 3, 8) == [Stretch(0, 16), Stretch(3, 8, 24)]


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_a_torn_record_is_named(tmp_path, name):
    write(tmp_path, 16, [Stretch(0, 16)])
    (tmp_path / name).write_text('{"batch')
    with pytest.raises(UserError, match=rf"/{name}: no JSON"):
        read_config(tmp_path)
        stretches(tmp_path, 3, 16)


def test_no_example_comes_twice_or_never_after_another_batch_size(make_trainer, tmp_path):
    one = make_trainer()
    write(tmp_path, 16, [Stretch(0, 16)])
    parts = stretches(tmp_path, 3, 8)
    two = make_trainer(batch_size=8).pipeline
    other = type(two)(
        {**one.config.data, "buckets": ()},
        one.fields,
        batch_size=8,
        seed=0,
        tokenizers=one.tokenizers,
        offset=parts[-1].offset,
    )
    seen = [key for step in range(3) for key in one.pipeline.keys(step)]
    seen += [key for step in range(3, 7) for key in other.keys(step)]
    assert len(seen) == 80 and {len(set(seen[:40])), len(set(seen[40:]))} == {40}
    whole = [key for step in range(5) for key in one.pipeline.keys(step)]
    assert seen == whole, "the very order of the run that never changed"
    rows, wanted = next(other.batches(4)), one.pipeline.keys(3)[8:]
    texts = [one.pipeline.source.metadata(int(key))["text"][0] for key in order(one, wanted)]
    assert (rows["text"] == one.tokenizers["text"](texts)).all()
    assert two.keys(4) != other.keys(4)


def order(trainer, keys):
    source = trainer.pipeline.source
    place = {source.metadata(i)["key"]: i for i in range(len(source))}
    return [place[key] for key in keys]


def test_lengths_in_examples_and_epochs_count_what_was_seen():
    for config in ({"examples": 80}, {"epochs": 2.0}):
        assert duration(config, "", 16, 40) == 5
        assert duration(config, "", 8, 40, offset=24) == 7, "48 seen at step 3, 32 to come"
    assert duration({"steps": 9}, "", 8, 40, offset=24) == 9


def told(caplog, make_trainer, tmp_path, step, old, **new):
    """What is said when a run of config `old` goes on with `new`."""
    caplog.clear()
    before = make_trainer(**old)
    write_files(tmp_path, run_files(before.config, "x", [Stretch(0, before.config.batch_size)]))
    parts = stretches(tmp_path, step, new.get("batch_size", 16))
    trainer = make_trainer(**new)
    object.__setattr__(trainer, "offset", parts[-1].offset)
    trainer.pipeline.offset = parts[-1].offset
    with caplog.at_level(logging.WARNING, "vlp_jax"):
        tell_changes(trainer, tmp_path, Checkpoints(tmp_path / "checkpoints"), step)
    return [record.getMessage() for record in caplog.records]


def test_a_learning_rate_that_jumps_is_told_from_what_to_what(caplog, make_trainer, tmp_path):
    ask = lambda *words, **new: told(caplog, make_trainer, tmp_path, *words, **new)  # noqa: E731
    (line,) = ask(20, {}, steps=40)
    assert line == "the learning rate jumps at step 20: 0 -> 0.0005"
    half = 1e-3 * 0.5 * (1 + math.cos(math.pi * 0.5))
    (line,) = ask(10, {}, **{"optim.lr": 4e-3})
    assert line == f"the learning rate jumps at step 10: {half:.3g} -> {4 * half:.3g}"
    assert ask(20, {"optim.schedule": "constant"}, steps=40, **{"optim.schedule": "constant"}) == []
    assert ask(0, {}, steps=40) == [], "nothing was trained yet"
    assert ask(10, {}) == []
    line = ask(30, {"steps": 40}, steps=20)[0]
    wanted = "the checkpoint of step 30 lies past the end, steps=20: nothing is left to train"
    assert line == wanted
    lines = ask(3, {}, batch_size=8)
    assert lines == ["batch_size 16 -> 8 at step 3: the data goes on after the 48 examples seen"]
    config = json.loads((tmp_path / "config.json").read_text())
    del config["optim"]["lr_final"], config["optim"]["schedule"]
    write_json(tmp_path / "config.json", {**config, "optim": {"new": 1}})
    tell_changes(make_trainer(), tmp_path, Checkpoints(tmp_path / "c"), 10)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_of_a_workdir_is_strict(tmp_path, value):
    write_json(tmp_path / "x.json", {"a": value, "b": (1, tmp_path)})
    text = (tmp_path / "x.json").read_text()
    found = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert found == {"a": None, "b": [1, str(tmp_path)]}
