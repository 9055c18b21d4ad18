"""What every command prints: one JSON object on the last line of stdout with --json, and start-up
of JAX.

The file exists so that scripts can rely on one rule.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on the last line of stdout"
    )


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object on one line, flushed last."""
    sys.stdout.flush()
    print(json.dumps(value, default=float), flush=True)


def start_jax() -> None:
    """Turns on the persistent compilation cache (unless JAX_COMPILATION_CACHE_DIR chooses another)
    and the log.
    """
    _separate_collectives()
    import jax

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vlp_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs tracebacks that we report
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "vlp_jax", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        jax.distributed.initialize(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )


def _separate_collectives() -> None:
    """Simulated CPU devices share one thread pool, which two collectives at a time can exhaust."""
    flags, switch = (
        os.environ.get("XLA_FLAGS", ""),
        "xla_cpu_enable_concurrency_optimized_scheduler",
    )
    if "xla_force_host_platform_device_count" in flags and switch not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{switch}=false"
