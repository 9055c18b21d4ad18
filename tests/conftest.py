"""Eight simulated CPU devices and a compilation cache that child processes share.

Set before jax is imported anywhere; children inherit the environment.
"""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",  # see vlp_jax/parallel/startup.py
    "--xla_backend_optimization_level=0",  # tiny programs: compiling is what takes the time
    "--xla_llvm_disable_expensive_passes=true",
)
JAXLIB = tuple(int(word) for word in importlib.metadata.version("jaxlib").split(".")[:2])
if JAXLIB < (0, 11):  # gone since then; without them compiling takes three times as long
    FLAGS += ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
present = os.environ.get("XLA_FLAGS", "")
added = [flag for flag in FLAGS if flag.split("=")[0] not in present]
os.environ["XLA_FLAGS"] = " ".join([present, *added]).strip()
cache = pathlib.Path(tempfile.gettempdir()) / f"vlp_jax_test_cache_{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # a tenth of lowering a program
gc.set_threshold(50_000, 20, 20)  # tracing makes many small objects, of which few are garbage

# Files that take minutes come first, so that no worker waits for one at the end; those that mostly
# wait for processes of their own stand between those that compute.
LONG = (
    *("test_fault_kill.py", "test_resume.py", "test_contract.py", "test_classify_runs.py"),
    *("test_fault_processes.py", "test_loop.py", "test_step.py", "test_many_hosts.py"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (*LONG, item.path.name).index(item.path.name))
