"""Reads a released masked autoencoder into our tree: Hugging Face's, or the official files.

The file exists to hold what `convert` decides about these: which part is there, and whether the
positions are the fixed ones.
"""

import os
from typing import Any

import numpy as np

from vlp_jax.api.embed import embedders
from vlp_jax.api.weights import expected_shapes, golden_embeddings, position_tables, split_extra
from vlp_jax.augment.pictures import IMAGENET_MEAN, IMAGENET_STD
from vlp_jax.core.errors import UserError
from vlp_jax.interop import mae
from vlp_jax.interop.detect import Checkpoint
from vlp_jax.interop.position import same_table
from vlp_jax.interop.preprocess import SOURCE, for_model
from vlp_jax.interop.rules import check, prove_names, to_ours
from vlp_jax.methods.base import Method, make_method
from vlp_jax.models.archs.mae import NAMES, mae_arch, mae_tower
from vlp_jax.nn.positions import sincos_table

_FROM_FILE = ("activation", "norm_eps", "head_width", "num_heads")  # what shapes cannot tell


def read_mae(
    checkpoint: Checkpoint, arch_name: str
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str], dict[str, str]]:
    """Checks, converts and proves; see api/released.py read_released.

    Args:
      checkpoint: of kind `hf_mae` or `mae`.
      arch_name: a name of models/archs/mae.py; "" takes the sizes of config.json.

    Raises:
      UserError: everything that does not fit, in one message, before a weight is read.
    """
    how = SOURCE | dict(mean=IMAGENET_MEAN, std=IMAGENET_STD, resample="bicubic", crop="center")
    how |= dict(checkpoint.preprocessing)
    config, notes = _method_config(checkpoint, arch_name)
    config |= {"image_mean": how["mean"], "image_std": how["std"]}
    method = make_method(config)
    how = for_model(how, method.image_tower.image_size, checkpoint.path)
    arrays = _arrays(checkpoint, method)
    rows = golden_embeddings(method, embedders(method, *split_extra(arrays)))
    manifest = {
        "arch": arch_name or "MAE",
        "method": config,
        "preprocessing": how,
        "tokenizer": {"name": "", "context_length": 0, "options": {}},
        "source": {"file": os.path.basename(checkpoint.path), "kind": checkpoint.kind},
        "golden": {side: [float(value) for value in row] for side, row in rows.items()},
    }
    return arrays, manifest, notes, {}


def _method_config(checkpoint: Checkpoint, arch_name: str) -> tuple[dict[str, Any], list[str]]:
    """The method's config and notes about what the files say otherwise than the name."""
    said, notes = {}, list(checkpoint.notes)
    if checkpoint.config:
        said = mae.method_fields(checkpoint.config, checkpoint.config_file)
    if arch_name:
        arch = mae_arch(arch_name)
    elif said:
        sizes = ("image_size", "patch_size", "num_layers", "width", "head_width")
        tower = mae_tower(*(said["image"][key] for key in sizes))
        arch = {"image": tower | said["image"], "decoder": dict(said["decoder"])}
    else:
        raise UserError(f"--arch: missing, one of {', '.join(NAMES)}")
    for part in ("image", "decoder"):
        for key, value in said.get(part, {}).items():
            if key in _FROM_FILE and arch[part].get(key, value) != value:
                notes.append(f"{part}.{key} is {value!r} as the files say, not {arch[part][key]!r}")
            if key in _FROM_FILE:
                arch[part][key] = value
    if not any("decoder_pred" in name for name in checkpoint.state):
        arch["decoder"] = None
        notes.append("an encoder alone: features, or init_from=OUT:image/.* for a run")
    image = arch["image"]
    table = sincos_table(image["image_size"] // image["patch_size"], image["width"], prefix=1)
    if not _holds(checkpoint, "image/pos_embed", table, at_a_loss=True):
        image["pos_embed"] = "learned"
        notes.append("the encoder's positions are not the fixed table; they are kept as weights")
    fixed = {key: said[key] for key in ("mask_ratio", "norm_pix") if key in said}
    return {"name": "mae", **arch, **fixed}, notes


def _holds(checkpoint: Checkpoint, path: str, table: np.ndarray, at_a_loss: bool) -> bool:
    """Whether the file's table is this one; where it has none, or one of another shape: `at_a_loss`
    (`check` tells of those)."""
    stored = mae.positions(checkpoint.state).get(path)
    if stored is None or stored.shape[1:] != table.shape:
        return at_a_loss
    return same_table(stored.read().astype(np.float32)[0], table, stored.dtype)


def _arrays(checkpoint: Checkpoint, method: Method) -> dict[str, np.ndarray]:
    """Everything but the fixed tables, which are compared."""
    tables = position_tables(method)
    expected = expected_shapes(method) | {path: t.shape for path, t in tables.items()}
    what = f"{checkpoint.path} does not hold this masked autoencoder"
    check(checkpoint.family, checkpoint.state, expected, what)
    arrays = to_ours(checkpoint.family, checkpoint.state, expected, checkpoint.path)
    prove_names(checkpoint.family, checkpoint.state, arrays, checkpoint.path)
    for path, table in tables.items():
        del arrays[path]
        if not _holds(checkpoint, path, table, at_a_loss=False):
            raise UserError(f"{checkpoint.path}: {path} is not the fixed sine-cosine table")
    return arrays
