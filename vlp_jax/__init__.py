"""vlp_jax: vision-language pre-training in pure JAX, from a laptop to a TPU pod.

`load` and `Model` (api/model.py) are found when they are first asked for, so that
`import vlp_jax` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
_LAZY = {"load": "load_model", "Model": "Model"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'vlp_jax' has no attribute {name!r}")
    return getattr(importlib.import_module("vlp_jax.api.model"), _LAZY[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
