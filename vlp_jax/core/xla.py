"""Flags of XLA's CPU backend, set before JAX starts.

- Reductions are not handed to YNNPACK: jaxlib 0.10.2 returns wrong numbers for a product that is
  reduced over many rows (jax-ml/jax issue 39103), and 0.12.0 not-a-numbers for the mean over a
  bfloat16 convolution's output.
- Simulated devices share one thread pool, which two collectives at a time can exhaust.

The file exists so that commands, tests and benchmarks run the same compiler.
"""

import importlib.util
import os

ACCELERATORS = ("libtpu", "jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin")
REDUCTIONS = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
COLLECTIVES = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def set_cpu_flags() -> None:
    """Adds to XLA_FLAGS what a process on the CPU needs; a flag that is there already stays, and a
    process that may find an accelerator is left alone (its plugin need not know the flags).
    """
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = [COLLECTIVES] if "xla_force_host_platform_device_count" in flags else []
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(_there, ACCELERATORS)):
        wanted.append(REDUCTIONS)
    missing = [flag for flag in wanted if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [flags, *missing]))


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
