"""Files that are there whole or not at all, and safe on the disk.

The file exists so that a kill at any moment leaves the old file or the new one.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from vlp_jax.core.strict_json import dumps

PARTIAL = ".part"  # what is still being written


def write_whole(path: str, write: Callable[[str], Any]) -> None:
    """Calls write(a temporary path), then gives that file its name. Raises OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = path + PARTIAL
    write(partial)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: str, value: Mapping[str, Any]) -> None:
    """Writes a JSON file. Raises OSError."""
    text = dumps(value, indent=1) + "\n"

    def put(partial: str) -> None:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)

    write_whole(path, put)
