"""Which weights file of a diffusers folder is read, where it holds several of one network: whole or
half precision (`fp16`), averaged or raw (`non_ema`), safetensors or pickled, one or shards.

The file exists so that a pipeline's sub-folders and a network's own are read by one preference.
"""

import os
import re
from typing import NamedTuple

_NAME = re.compile(
    r"(?:diffusion_pytorch_model|model|pytorch_model)(?:\.(?P<variant>[A-Za-z]\w*))?"
    r"\.(?P<kind>safetensors|bin)(?P<index>\.index(?:\.(?P<of>\w+))?\.json)?"
)
RAW = "non_ema"
_ORDER = ("", "ema", "bf16", "fp16")  # raw weights are read where they are asked for, or alone


class Found(NamedTuple):
    """name: of the file, or of the index of its shards. variant: "" is the usual one. raw: raw
    weights lie beside averaged ones."""

    name: str
    variant: str
    raw: bool


def choose(names: list[str], weights: str = "") -> Found | None:
    """The file to read, None without any.

    Args:
      names: what is in the folder.
      weights: `raw` prefers the raw weights.

    >>> choose(["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"]).name
    'diffusion_pytorch_model.bin'
    """
    found = []
    for name in names:
        if parts := _NAME.fullmatch(name):
            variant = parts["variant"] or parts["of"] or ""
            found.append((variant, parts["kind"] == "bin", bool(parts["index"]), name))
    if not found:
        return None
    order = (RAW, *_ORDER) if weights == "raw" else (*_ORDER, RAW)
    rank = lambda one: order.index(one[0]) if one[0] in order else len(order)  # noqa: E731
    best = min(found, key=lambda one: (rank(one), *one))
    several = {one[0] for one in found}
    return Found(best[-1], best[0], RAW in several and best[0] != RAW)


def note(found: Found, where: str) -> list[str]:
    """What the user should know of a choice."""
    if found.raw:
        return [f"{where}: averaged weights are read; --weights=raw reads the raw ones"]
    if found.variant:
        return [f"{where}: {os.path.basename(found.name)} is read"]
    return []
