"""An index as data/staging.py makes it: what its folder may hold, and what is replaced.

The file exists so that a folder of something else, or a file of the user's, is never replaced.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from vlp_jax.data import staging as parts
from vlp_jax.serve.index import ANN, read_manifest


def check_free(out: str) -> None:
    """Raises UserError where a folder holds something else than an index that `index` wrote."""
    parts.check_free(out, read_manifest, "index")


def check_ours(out: str) -> None:
    """Raises UserError where the folder of an index, which is about to be replaced, holds a file
    that `index` did not write (a `safety.npz`, notes), which would go with it."""
    parts.check_ours(out, read_manifest, ANN.values(), "index")


def read_plan(folder: str) -> Any:
    """The plan of a complete index; None where there is none or a file of it is another one."""
    return parts.read_plan(folder, read_manifest)


def staging(
    out: str, plan: Mapping[str, Any], command: str = ""
) -> contextlib.AbstractContextManager[parts.Staging]:
    """The folder for a plan, held while it is used; see data/staging.py."""
    return parts.staging(out, plan, read_manifest, command)
