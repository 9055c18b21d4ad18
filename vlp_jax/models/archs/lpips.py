"""LPIPS' one size (models/lpips.py), at the side of the patches that its weights were learned on.

The file exists so that converters and reports know it by name.
"""

from typing import Any

ARCHS: dict[str, dict[str, Any]] = {"LPIPS": {"image": {"name": "lpips", "image_size": 64}}}
