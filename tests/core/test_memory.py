"""Huge pages: the command starts again once, with its own arguments and process id."""

import os
import subprocess
import sys

import pytest

from vlp_jax.core import memory

CODE = """
import os, sys
from pathlib import Path
from vlp_jax.core import memory
memory._KERNEL = Path(sys.argv[1])
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[2:])
memory.use_huge_pages()
"""


def run(kernel, tunables, tmp_path):
    file = tmp_path / "enabled"
    file.write_text(kernel)
    env = {**os.environ, "GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-c", CODE, str(file), "a b", "--c"]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [line.split(maxsplit=1) for line in out.stdout.splitlines()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's switch")
def test_starts_again_once(tmp_path):
    (pid, before), (again, after) = run("always [madvise] never", "glibc.rtld.nns=4", tmp_path)
    assert pid == again
    assert before == "glibc.rtld.nns=4 ['a b', '--c']"
    assert after == f"glibc.rtld.nns=4:{memory._SWITCH}=1 ['a b', '--c']"


@pytest.mark.parametrize(
    ("kernel", "tunables"),
    [("always madvise [never]", ""), ("always [madvise] never", "glibc.malloc.hugetlb=0")],
)
def test_leaves_others_alone(kernel, tunables, tmp_path):
    assert len(run(kernel, tunables, tmp_path)) == 1
