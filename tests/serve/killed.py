"""A build that is killed at every operation on the disk in turn, with a model made of numbers.

Run by test_build.py as a process of its own, before JAX has threads: every attempt is a fork that
kills itself.
"""

import gc
import glob
import json
import os
import shutil
import signal
import sys

import numpy as np
import pyarrow.parquet  # noqa: F401  (what forks share)

from vlp_jax.api import files  # noqa: F401  (this too)
from vlp_jax.data import whole
from vlp_jax.serve import build

ROWS, PART = 6, 4
LAST = 6  # operations on the disk before the end, from which an older index is at stake


class Numbers:
    """Embeds a picture as sums of its pixels."""

    def embedders(self):
        return {"image": self.run("image")}

    def run(self, side, flag=""):
        weights = np.random.default_rng(0).normal(size=(8, 48)).astype(np.float32)
        return lambda batch: batch["image"].reshape(-1, 48).astype(np.float32) @ weights.T

    def row(self, side):
        return (8,)

    def width(self, side):
        return 8

    def decode(self, data):
        from vlp_jax.data.decode import decode_image

        return decode_image(data, 4)


def patch():
    build.load_model = lambda *_: Numbers()
    build.start_jax = lambda: None
    build.from_first = lambda text: text
    build.digests = lambda model: {"weights": "w", "preprocessing": "p"}


def run(request, fatal, make=build.build_index):
    """Builds in a fork that kills itself before operation number `fatal`; returns its report, None
    where it did not come to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as said:
            text = said.read()
        os.waitpid(child, 0)
        return json.loads(text) if text else None
    left = [fatal]

    def counted(operation):
        def call(*words, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*words, **options)

        return call

    for name in ("replace", "rename", "remove", "makedirs"):
        setattr(os, name, counted(getattr(os, name)))
    shutil.rmtree = counted(shutil.rmtree)
    report = make(request)
    os.write(writer, json.dumps(report).encode())
    os._exit(0)


def content(folder):
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def main(data, folder):
    patch()
    gc.freeze()  # forks share it
    assert whole.os is os
    request = lambda out, data=data: build.Request("", data, os.path.join(folder, out), part=PART)  # noqa: E731
    assert run(request("whole"), 0)["embedded"] == ROWS
    wanted, fatal, kills = content(os.path.join(folder, "whole")), 0, 0
    while True:
        fatal, out = fatal + 1, f"at{fatal + 1}"
        report = run(request(out), fatal)
        if report is None:  # killed: nothing opens, or all of it
            kills += 1
            there = os.path.exists(os.path.join(folder, out, "manifest.json"))
            sealed = len(glob.glob(os.path.join(folder, f".{out}.building", "done", "*.json")))
            rows = ROWS if there or complete(folder, out) else min(ROWS, PART * sealed)
            report = run(request(out), 0)
            assert report["embedded"] == ROWS - rows, (fatal, report, rows)
            assert content(os.path.join(folder, out)) == wanted, fatal
            assert not [name for name in os.listdir(folder) if name.startswith(".")]
        else:
            break
    older = os.path.join(folder, "older")  # is replaced: at every moment there is one of the two
    assert run(request("older", os.path.join(data, "a")), 0)["rows"] == ROWS // 2
    for last in range(fatal - LAST, fatal + 9):
        shutil.copytree(older, os.path.join(folder, "again"))
        if run(request("again"), last) is None:
            kills += 1
            opened = os.path.exists(os.path.join(folder, "again", "manifest.json"))
            assert opened or complete(folder, "again"), last
            assert run(request("again"), 0)["rows"] == ROWS
        assert content(os.path.join(folder, "again")) == wanted, last
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
        shutil.rmtree(os.path.join(folder, "again"))
    print(json.dumps({"kills": kills}))


def complete(folder, out):
    return os.path.exists(os.path.join(folder, f".{out}.building", "manifest.json"))


if __name__ == "__main__":
    main(*sys.argv[1:])
