"""What the weights of a method must be, by path and shape, and what they must give.

The file exists so that converting, loading and exporting agree on both.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.core.types import Extra, Params
from vlp_jax.methods.base import Method
from vlp_jax.models.mae_decoder import MAEDecoder
from vlp_jax.models.vit import ViT
from vlp_jax.nn.positions import sincos_table


def tokenized(method: Method) -> dict[str, Text]:
    """{tokenizer: the text that it makes, the first of several}."""
    texts = [field for field in method.fields().values() if isinstance(field, Text)]
    return {field.tokenizer: field for field in reversed(texts)}


def expected_shapes(method: Method) -> dict[str, tuple[int, ...]]:
    """{path: shape} of everything a checkpoint holds: parameters, and batch statistics under
    `batch_stats/`."""
    params, extra = jax.eval_shape(method.init, jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten({**params, **extra}).items()}


def position_tables(method: Method) -> dict[str, np.ndarray]:
    """The fixed tables of a method by path, for files that hold them as tensors: float32[C + N,
    D]."""
    tables = {}
    for name, net in ((name, part.net) for name, part in method.parts().items()):
        if isinstance(net, ViT) and net.pos_embed == "sincos":
            tables[f"{name}/pos_embed"] = sincos_table(net.grid, net.width, int(net.has_cls))
        if isinstance(net, MAEDecoder):
            tables[f"{name}/pos_embed"] = sincos_table(net.grid, net.width, prefix=1)
    return tables


def check_shapes(method: Method, arrays: Mapping[str, Any], where: str) -> None:
    """Raises UserError listing every path that the method and the arrays do not share."""
    expected = expected_shapes(method)
    lines = [
        f"  missing      {path} {list(shape)}"
        for path, shape in expected.items()
        if path not in arrays
    ]
    lines += [
        f"  not known    {path} {list(arrays[path].shape)}"
        for path in arrays
        if path not in expected
    ]
    lines += [
        f"  wrong shape  {path} {list(arrays[path].shape)}, expected {list(shape)}"
        for path, shape in expected.items()
        if path in arrays and arrays[path].shape != tuple(shape)
    ]
    if lines:
        raise UserError(
            "\n".join([f"{where}: {len(lines)} weights do not fit; nothing was loaded", *lines])
        )


def split_extra(arrays: Mapping[str, Any]) -> tuple[Params, Extra]:
    """Flat arrays, or tensors -> (params, extra)."""
    tree = unflatten(arrays)
    extra = {"batch_stats": tree.pop("batch_stats")} if "batch_stats" in tree else {}
    return tree, extra


def scale_of(method: Method, params: Params) -> float:
    """The factor of a method's cosines in its softmax; 1 where it has none."""
    found = method.scale(params)
    return 1.0 if found is None else float(found)


def tokenizer_name(folder: str, name: str) -> str:
    """A tokenizer file lies in the folder; a built-in one is a bare name."""
    file = os.path.join(folder, os.path.basename(name.removeprefix("spm:")))
    if not name or not os.path.isfile(file):
        return name
    return f"spm:{file}" if name.startswith("spm:") else file
