"""Files of learned words (textual inversion): diffusers' `learned_embeds.safetensors`, {word: [D]
or [n, D]}, the web UI's {emb_params: [n, D]}, SDXL's {clip_l, clip_g: [n, D]} of both encoders.

The file exists so that words learned here are used there and the other way.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.interop.weights_file import read_safetensors

FILE = "learned_embeds.safetensors"
_PARTS = {"clip_l": "text", "clip_g": "text_2"}  # SDXL's refiner has the second encoder alone


def read_words(path: str) -> tuple[str, dict[str, np.ndarray]]:
    """(the word, "" where the file has no name for it; {part: its rows float32[n, D]}).

    Raises:
      UserError: a file that cannot be read, or holds something else.
    """
    state = read_safetensors(path)
    found = {key: tensor for key, tensor in state.items() if len(tensor.shape) in (1, 2)}
    both = found.keys() == _PARTS.keys()
    if not found or found.keys() != state.keys() or (len(found) > 1 and not both):
        keys = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(f"{path}: holds {keys}, and not the rows of one word")
    rows = {key: np.atleast_2d(tensor.read()).astype(np.float32) for key, tensor in found.items()}
    if both:
        return "", {_PARTS[key]: array for key, array in rows.items()}
    ((key, array),) = rows.items()
    return "" if key == "emb_params" else key, {"text": array}


def words_state(word: str, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a file: {word: [D] or [n, D]} of one encoder, SDXL's of two.

    rows: {part: float32[n, D]}.
    """
    if rows.keys() == {"text"}:
        (array,) = rows.values()
        return {word: array[0] if len(array) == 1 else array}
    names = {part: key for key, part in _PARTS.items()}
    return {names[part]: array for part, array in rows.items()}
