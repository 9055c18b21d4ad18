"""Versions, devices, disk speed and whether the data can be seen.

The file exists so that "it does not work on the pod" starts from facts.
"""

import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from typing import Any


def doctor(workdir: str = ".", data: str = "") -> dict[str, Any]:
    """{what: value} of this machine.

    Args:
      workdir: where runs will be written.
      data: a data set that must be readable from here.

    Raises:
      UserError: `data` cannot be read, or `workdir` cannot be written.
    """
    from vlp_jax.parallel.startup import start_jax

    start_jax()
    found = {**_software(), **_devices(), **_disk(workdir)}
    return {**found, **_data(data)} if data else found


def _software() -> dict[str, Any]:
    from vlp_jax.train.workdir import versions

    unwanted = [name for name in ("torch", "tensorflow") if name in sys.modules]
    return {"python": platform.python_version(), **versions(), "imported_at_run_time": unwanted}


def _devices() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from vlp_jax.parallel.hosts import gather

    device = jax.local_devices()[0]
    x = jax.random.normal(jax.random.key(0), (2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a).lower(x).compile()
    product(x).block_until_ready()
    start = time.perf_counter()
    for _ in range(3):
        x_out = product(x)
    x_out.block_until_ready()
    stats = device.memory_stats() or {}
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "hosts": " ".join(gather(socket.gethostname())),
        "cpu_cores": os.cpu_count(),
        "device_memory_bytes": stats.get("bytes_limit", 0),
        "matmul_gflops_f32": round(3 * 2 * 2048**3 / (time.perf_counter() - start) / 1e9, 1),
        "compilation_cache": jax.config.jax_compilation_cache_dir,
    }


def _disk(folder: str) -> dict[str, Any]:
    from vlp_jax.core.errors import UserError

    block = os.urandom(1 << 24)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            for _ in range(4):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = 4 * len(block) / (time.perf_counter() - start) / 1e6
    except OSError as error:
        raise UserError(f"--workdir={folder}: cannot be written: {error.strerror}") from error
    return {
        "disk_write_mb_per_s": round(speed),
        "disk_free_gb": round(shutil.disk_usage(folder).free / 1e9, 1),
    }


def _data(path: str) -> dict[str, Any]:
    from vlp_jax.data.mixture import open_pool

    source = open_pool(path)
    start = time.perf_counter()
    for i in range(min(64, len(source))):
        source[i]
    rate = min(64, len(source)) / (time.perf_counter() - start)
    return {"data": path, "data_examples": len(source), "data_reads_per_s": round(rate)}
