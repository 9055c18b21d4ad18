"""The sizes of T5 version 1.1 and Flan-T5 (arXiv:2210.11416, Table 2), as their config.json files
say them.

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any


def t5(width: int, num_layers: int, num_heads: int, hidden: int) -> dict[str, Any]:
    """Heads are 64 wide."""
    sizes = dict(width=width, num_layers=num_layers, num_heads=num_heads, hidden=hidden)
    return {"name": "t5", "vocab_size": 32128, "context_length": 512, "head_dim": 64, **sizes}


_NETS = {
    "flan-t5-small": t5(512, 8, 6, 1024),  # 76,961,152 parameters
    "flan-t5-base": t5(768, 12, 12, 2048),  # 247,577,856
    "flan-t5-large": t5(1024, 24, 16, 2816),  # 783,150,080
    "flan-t5-xl": t5(2048, 24, 32, 5120),  # 2,849,757,184
    "flan-t5-xxl": t5(4096, 24, 64, 10240),  # 11,135,332,352
}
ARCHS: dict[str, dict[str, Any]] = {name: {"lm": net} for name, net in _NETS.items()}
