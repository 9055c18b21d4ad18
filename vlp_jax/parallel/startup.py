"""Start-up of JAX in a process: compilation cache, logging, the job's other processes.

The file exists so that commands, benchmarks and notebooks start alike.
"""

import logging
import os
import sys


def first_process() -> bool:
    """Whether this process is the one that prints and writes. Call it after `start_jax`."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def start_jax(heartbeat: float = 60.0) -> None:
    """Turns on the persistent compilation cache (unless JAX_COMPILATION_CACHE_DIR chooses another)
    and the log; keeps libtpu silent where there is no TPU; joins the job where this process is one
    of several (parallel/hosts.py).

    Args:
      heartbeat: seconds of silence after which another process counts as dead.
    """
    _separate_collectives()
    import jax

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vlp_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs tracebacks that we report
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "vlp_jax", "xla"))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    from vlp_jax.parallel.hosts import join, quiet_libtpu

    quiet_libtpu()
    join(heartbeat)


def _separate_collectives() -> None:
    """Simulated CPU devices share one thread pool, which two collectives at a time can exhaust."""
    flags, switch = (
        os.environ.get("XLA_FLAGS", ""),
        "xla_cpu_enable_concurrency_optimized_scheduler",
    )
    if "xla_force_host_platform_device_count" in flags and switch not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{switch}=false"
