"""Tiny training runs on pictures made here: a config, a Trainer, a child process.

The file exists so that the fault tests share one small program and its compilation.
"""

import hashlib
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
from tiny import SIZE

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
import sys
sys.path[:0] = [{tests!r}]
from ml_collections import ConfigDict
from configs import common
from tiny import LENGTH, SIZE, tiny_config

def get_config(_):
    c = common.base()
    tower = dict(dropout=0.1, num_layers=1)
    method = ConfigDict(tiny_config(image=tower, text=tower))
    c.method = method
    c.image_size = SIZE
    c.data.path = {data!r}
    c.data.tokenizer = "bytes"
    c.data.context_length = LENGTH
    c.data.threads = 2
    c.batch_size = 16
    c.steps = 20
    c.ema_decay = 0.9
    c.log_every = 1
    c.checkpoint_every = 7
    c.optim.lr = 1e-3
    return c
"""

OWN = """
    from vlp_jax import methods
    methods.__path__.append({toys!r})
    c.method = ConfigDict(dict(name="pairs"))
    return c
"""
TOY = CONFIG.replace("    return c\n", OWN)


def make_pictures(folder: pathlib.Path, count: int = 40) -> pathlib.Path:
    """`count` random pictures with captions."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"n {i} {'ab'[i % 2]}")
    return folder


def write_config(folder: pathlib.Path, data: pathlib.Path, toy: bool = False) -> pathlib.Path:
    """A config file for the pictures; toy: of toy_methods/pairs.py, which is quickly traced."""
    tests = ROOT / "tests"
    paths = dict(tests=str(tests), data=str(data), toys=str(tests / "train" / "toy_methods"))
    file = folder / ("toy_config.py" if toy else "tiny_config.py")
    file.write_text((TOY if toy else CONFIG).format(**paths))
    return file


def digests(state) -> dict[str, str]:
    """{path: digest of the leaf's bytes}; equal exactly when every bit is."""
    from vlp_jax.core.pytree import flatten

    return {
        path: hashlib.sha256(np.asarray(jax.device_get(leaf)).tobytes()).hexdigest()
        for path, leaf in flatten(state).items()
    }


def environment(devices: int = 1) -> dict[str, str]:
    """A child's environment: our package on the path, `devices` simulated CPU devices."""
    count = f"--xla_force_host_platform_device_count={devices}"
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", count)
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start(*arguments: object, preexec=None, **extra: str) -> subprocess.Popen:
    """`python -m vlp_jax ARGUMENTS` as a child; extra: environment variables."""
    command = [sys.executable, "-m", "vlp_jax", *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    return subprocess.Popen(command, env={**environment(), **extra}, preexec_fn=preexec, **pipes)


def finish(child: subprocess.Popen, timeout: float = 120) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a child."""
    out, error = child.communicate(timeout=timeout)
    return child.returncode, out, error
