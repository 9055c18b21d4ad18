"""What a model is, in two digests: its weights, and how it takes pictures and texts.

They are the same for a training's folder and for what is exported from it. The file exists so that
vectors on disk can be told from those of another model.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vlp_jax.api.model import Model
from vlp_jax.core.pytree import flatten
from vlp_jax.core.strict_json import dumps
from vlp_jax.core.types import Array
from vlp_jax.data.framing import Framing

PROBE = "A photo of 2 naïve cats: it's 7:30 🙂 <end>"  # cases, digits, accents, marks


def digests(model: Model) -> dict[str, str]:
    """{'weights', 'preprocessing'}: 32 hex digits each.

    Of weights: every parameter and batch statistic as float32 under its path. Of preprocessing: the
    picture's size and framing, mean and deviation, and the token ids of a sentence that has cases,
    digits, accents and marks.

    Raises:
      UserError: a model with a text tower, but without a tokenizer that fits.
    """
    return {"weights": weights_digest(model), "preprocessing": preprocessing_digest(model)}


def weights_digest(model: Model) -> str:
    """32 hex digits; see `digests`."""
    stats = {name: tree for name, tree in model.extra.items() if name == "batch_stats"}
    leaves = sorted(flatten({**model.params, **stats}).items())
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(_leaf, (leaf for _, leaf in leaves)))
    return _digest(
        b"%s %s" % (path.encode(), part) for (path, _), part in zip(leaves, parts, strict=True)
    )


def preprocessing_digest(model: Model) -> str:
    """32 hex digits; see `digests`."""
    said = model.preprocessing
    framing = Framing.of(said)
    facts = {key: getattr(framing, key) for key in ("crop", "resample", "alpha", "share")}
    facts |= {"fill": framing.fill} if framing.crop == "pad" else {}
    facts |= {key: [round(float(x), 6) for x in said.get(key, ())] for key in ("mean", "std")}
    facts["size"] = int(said["image_size"])
    if "text" in model.embedders():
        facts["ids"] = {name: rows.tolist() for name, rows in model.text_arrays()([PROBE]).items()}
    return _digest([dumps(facts, sort_keys=True).encode()])


def _leaf(leaf: Array) -> bytes:
    from jax.experimental.multihost_utils import process_allgather

    whole = leaf if leaf.is_fully_addressable else process_allgather(leaf, tiled=True)
    array = np.asarray(whole)
    array = array if array.dtype.kind in "iub" else array.astype(np.float32)
    return hashlib.blake2b(
        np.ascontiguousarray(array), digest_size=16, person=b"%d" % array.ndim
    ).digest()


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()
