"""What a converted checkpoint must give for inputs made by arithmetic, and carries with it.

Of a model that embeds these are the embeddings of a picture and a text; of others some numbers of
what their functions give. The file exists so that converting and loading prove the same thing.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vlp_jax.api.embed import embedders, sides
from vlp_jax.api.placement import Run, places, runner
from vlp_jax.api.weights import split_extra
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Numbers, Picture, Text
from vlp_jax.core.inputs import Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.interop.golden import golden_inputs, golden_numbers
from vlp_jax.methods.base import Method
from vlp_jax.parallel.sharding import place

OUTPUTS = ("text_states", "encode_latents", "decode_latents", "denoise", "residuals")
OUTPUTS += ("query_states", "lm_logits")
KEPT = 16  # numbers of each array
_TOKENS = 77  # of a text, where it may be longer
_SIDE, _STEP = 64, 16  # of a picture and of maps, where their own are larger and a multiple


def embeds(method: Method) -> bool:
    """Whether a method has rows of a space."""
    offered = method.functions()
    return any(name in offered for name in sides(method).values())


def golden(method: Method, arrays: Mapping[str, Any], where: str) -> dict[str, list[float]]:
    """What a manifest carries for a flat tree of weights, arrays or tensors.

    Raises:
      UserError: numbers that no whole and trained file gives; names `where`.
    """
    weights, found = split_extra(arrays), embeds(method)
    v = Vars(*place(weights, places(None, "")(weights)))
    rows = golden_embeddings(method, embedders(method, *v)) if found else golden_outputs(method, v)
    for name, row in rows.items():
        finite = bool(np.isfinite(row).all())
        if not finite or (found and np.linalg.norm(row) < 0.5):  # of unit norm, or nothing
            what = "is zero" if finite else "is not finite"
            article, noun = "an" if name == "image" else "a", " embedding" if found else ""
            made = f"{where}: its weights give {article} {name}{noun} that {what}"
            raise UserError(f"{made}; is the file whole, and trained?")
    return {name: np.asarray(row, float).tolist() for name, row in rows.items()}


def golden_embeddings(method: Method, fns: Mapping[str, Run]) -> dict[str, np.ndarray]:
    """Embeddings of the golden picture and, where there is a text tower, text: {'image':
    float32[E], 'text': float32[E]}.
    """
    fields = method.fields()
    image, text = fields.get("image", Picture(2)), fields.get("text", Text(2, 2))
    batch = golden_inputs(image.size, text.length, text.vocab_size)
    arrays = {side: [name for name in fields[side].spec(side, 1) if name in batch] for side in fns}
    return {side: fns[side]({name: batch[name] for name in arrays[side]})[0] for side in fns}


def golden_outputs(
    method: Method, v: Vars, names: Iterable[str] = OUTPUTS
) -> dict[str, np.ndarray]:
    """{function: float32[N]}, numbers spread evenly over what each of the functions gives."""
    offered, found = method.functions(), {}
    for name in names:
        if name in offered:
            batch: dict[str, np.ndarray] = {}
            reads = {n: kind for n, kind in offered[name].reads.items() if not kind.optional}
            part = min(map(_part, reads.values()), default=1)
            for field, kind in reads.items():
                batch |= _arrays(field, kind, part)
            leaves = flatten({"": runner(method, name, v)(batch)}).values()
            found[name] = np.concatenate([_spread(np.ravel(leaf[0])) for leaf in leaves])
    return found


def _part(field: Field) -> float:
    """What part of a field's side is enough where the network takes any size; inf where it has
    none that may be another."""
    if isinstance(field, Picture) and field.free:
        return field.size // _SIDE if field.size % _SIDE == 0 else 1
    if isinstance(field, Numbers) and field.free and len(field.shape) == 3:
        return min(side // _STEP if side % _STEP == 0 else 1 for side in field.shape[:2])
    return math.inf


def _arrays(name: str, field: Field, part: float) -> dict[str, np.ndarray]:
    """The golden arrays of a field, of one `part` of its sides where the network takes any size."""
    some = 1 if _part(field) == math.inf else int(part)
    if isinstance(field, Picture):
        return {name: golden_inputs(field.size // some, 2, 2)["image"]}
    if isinstance(field, Text):
        made = golden_inputs(1, min(field.length, _TOKENS), field.vocab_size)
        return {array: made[array.replace(name, "text", 1)] for array in field.spec(name, 1)}
    (spec,) = field.spec(name, 1).values()
    shape = spec.shape
    if some > 1:
        shape = (1, shape[1] // some, shape[2] // some, shape[3])
    return {name: golden_numbers(shape).astype(spec.dtype)}


def _spread(numbers: np.ndarray) -> np.ndarray:
    step = max(1, len(numbers) // KEPT)
    return numbers[::step][:KEPT].astype(np.float32)
