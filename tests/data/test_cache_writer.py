"""R25: a cache that is killed at any call to the system goes on, twice nothing, and never opens
half."""

import json
import os
import stat

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.data import cache_writer
from vlp_jax.data.cache import ROW, described
from vlp_jax.data.cache_writer import CacheWriter

PLAN = {"path": "x", "rows": 6, "part_rows": 2, "weights": {"a": "1"}}
CALLS = ("mkdir", "makedirs", "rename", "replace", "fsync", "remove")


class Killed(BaseException):
    """Stands for SIGKILL: nothing that follows runs."""


def arrays(number):
    return {"sound": np.ones(2, bool), "f": np.full((2, 3), number, np.float32)}


def run(out, made):
    """The loop of api/cache.py with parts that cost nothing; appends what it computes."""
    writer = CacheWriter(str(out), PLAN)
    done = writer.begin()
    if done is None:
        return
    for number in range(3):
        if number not in done:
            made.append(number)
            found = arrays(number)
            writer.write(number, found, described({"f": found["f"]}, ROW))
    writer.finish(3)


def contents(out):
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file()
    }


def count_calls(monkeypatch, limit):
    """Kills before call number `limit` to the system, and truncates what is being written."""
    seen = [0]

    def counted(name, real):
        def call(*args, **how):
            seen[0] += 1
            if seen[0] == limit:
                if name == "fsync" and stat.S_ISREG(os.fstat(args[0]).st_mode):
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)  # it may be cut anywhere
                raise Killed
            return real(*args, **how)

        return call

    for name in CALLS:
        monkeypatch.setattr(cache_writer.os, name, counted(name, getattr(os, name)))
    return seen


def test_another_plan_and_another_folder_are_refused(tmp_path):
    out = tmp_path / "c"
    CacheWriter(str(out), PLAN).begin()
    with pytest.raises(UserError, match="cache of other weights; remove it"):
        CacheWriter(str(out), PLAN | {"weights": {"a": "2"}}).begin()
    run(out, [])
    with pytest.raises(UserError, match="other rows"):
        CacheWriter(str(out), PLAN | {"rows": 7}).begin()
    assert json.loads((out / "cache.json").read_text())["arrays"]["f"]["shape"] == [3]


@pytest.mark.parametrize("name", ["a.txt", "thesis.new", "part-1.new", "plan.json"])
def test_what_we_did_not_write_is_neither_taken_nor_removed(tmp_path, name):
    (tmp_path / name).write_text('["mine"]')
    (tmp_path / "part-00001.new").mkdir()
    with pytest.raises(UserError, match="no cache"):
        CacheWriter(str(tmp_path), PLAN).begin()
    assert sorted(os.listdir(tmp_path)) == sorted([name, "part-00001.new"])


def test_names_that_are_no_parts(tmp_path):
    """Half of a part goes; what is only named alike is no part, and stays."""
    CacheWriter(str(tmp_path), PLAN).begin()
    for name in ("part-00000", "part-100001", "part-00002.new", "draft-00003", "my.new", "part-x"):
        (tmp_path / name).mkdir()
    assert sorted(CacheWriter(str(tmp_path), PLAN).begin()) == [0, 100001]
    assert (tmp_path / "my.new").exists() and not (tmp_path / "part-00002.new").exists()
