"""What a converted checkpoint must give for inputs made by arithmetic, and carries with it.

Of a model that embeds these are the embeddings of a picture and a text; of others some numbers of
what their functions give. The file exists so that converting and loading prove the same thing.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from vlp_jax.api.embed import sides
from vlp_jax.api.placement import Run, runner
from vlp_jax.core.fields import Field, Numbers, Picture, Text
from vlp_jax.core.inputs import Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.interop.golden import golden_inputs, golden_numbers
from vlp_jax.methods.base import Method

OUTPUTS = ("text_states", "encode_latents", "decode_latents", "denoise", "residuals")
KEPT = 16  # numbers of each array
_SIDE, _STEP = 64, 16  # of pictures and maps, where their own are multiples


def embeds(method: Method) -> bool:
    """Whether a method has rows of a space."""
    offered = method.functions()
    return any(name in offered for name in sides(method).values())


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
            reads = {n: field for n, field in offered[name].reads.items() if not field.optional}
            for field, kind in reads.items():
                batch |= _arrays(field, kind, _share(reads.values()))
            leaves = flatten({"": runner(method, name, v)(batch)}).values()
            found[name] = np.concatenate([_spread(np.ravel(leaf[0])) for leaf in leaves])
    return found


def _share(fields: Iterable[Field]) -> int:
    """What pictures and maps are made smaller by, together, where the network takes any size."""
    sides = [(field.shape[0], _STEP) for field in fields if _is_map(field)]
    sides += [(field.size, _SIDE) for field in fields if isinstance(field, Picture) and field.free]
    side, wanted = sides[0] if sides else (1, 1)
    return side // wanted if side % wanted == 0 else 1


def _is_map(field: Field) -> bool:
    return isinstance(field, Numbers) and field.free > 1


def _arrays(name: str, field: Field, share: int) -> dict[str, np.ndarray]:
    """The golden arrays of a field."""
    if isinstance(field, Picture):
        return {
            name: golden_inputs(field.size // share if field.free else field.size, 2, 2)["image"]
        }
    if isinstance(field, Text):
        made = golden_inputs(1, field.length, field.vocab_size)
        return {array: made[array.replace(name, "text", 1)] for array in field.spec(name, 1)}
    (spec,) = field.spec(name, 1).values()
    shape = spec.shape
    if _is_map(field):
        shape = (1, *(side // share for side in shape[1:3]), *shape[3:])
    return {name: golden_numbers(shape).astype(spec.dtype)}


def _spread(numbers: np.ndarray) -> np.ndarray:
    step = max(1, len(numbers) // KEPT)
    return numbers[::step][:KEPT].astype(np.float32)
