"""JSON as RFC 8259 has it, from whatever numbers a run holds.

Python writes NaN and Infinity, which no other reader takes. The file exists as the one place that
turns results into JSON: what is not finite becomes null, arrays and their scalars become plain.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Dicts with text keys, lists, text, bools, numbers and None, recursively; numbers that are not
    finite become None, what JSON lacks becomes a number where it is one, else text.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and JAX: arrays and scalars
        return plain(value.tolist())
    if isinstance(value, int):
        return int(value)
    if hasattr(value, "__float__"):
        return float(value) if math.isfinite(value) else None
    return str(value)


def dumps(value: Any, **how: Any) -> str:
    """`json.dumps` of `plain(value)`; `how`: its options."""
    return json.dumps(plain(value), allow_nan=False, **how)
