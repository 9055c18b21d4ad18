"""Huge pages for large buffers on Linux.

XLA's CPU backend takes fresh memory for the temporaries of every step, and a restore fills
gigabytes; touching them 4 KiB at a time costs up to a tenth of a training step and most of a
restore (experiments/benchmarks/README.md, P4 and P13). glibc reads the switch when a process
starts. The file exists because that makes it a matter of the first line of a command.
"""

import os
import sys
from pathlib import Path

_SWITCH = "glibc.malloc.hugetlb"
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Starts this very command line again, same process id, with glibc's huge pages switched on.

    Does nothing where the kernel offers none on request, or where GLIBC_TUNABLES has its own say.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    try:
        offered = "[madvise]" in _KERNEL.read_text()
    except OSError:
        offered = False
    if not offered or _SWITCH in tunables or not sys.executable:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{_SWITCH}=1"]))
    sys.stdout.flush(), sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
