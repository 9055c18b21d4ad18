"""A model on batches of one size: a text for every picture, and whether pairs match.

The file exists so that CapFilt's programs are the same whatever is left in a batch; a notebook's
calls are in api/writing.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.api.placement import fill, runner
from vlp_jax.core.inputs import Vars
from vlp_jax.decoding.how import Writing


class Writer:
    """Writes a text for every picture, all after one prompt.

    Attributes:
      arrays: texts -> ids, which counts those that are cut.

    Args:
      model: one whose method has `generate_text`.
      size: rows that every batch is filled up to.

    Raises:
      UserError: no tokenizer that fits.
    """

    def __init__(self, model: Any, how: Writing, prompt: str, size: int):
        function = model.method.functions()["generate_text"]
        self._how, self._size, self._tokenizer = how, size, model.tokenizer()
        v = Vars(model.params, model.extra)
        self._run = runner(model.method, "generate_text", v, model.mesh)
        self.arrays, self._prompt = model.text_arrays(function.reads["prompt"], "prompt"), {}
        if prompt:
            rows = self.arrays([prompt])
            length = int(rows["prompt_mask"].sum())
            self._prompt = {name: array[:, :length] for name, array in rows.items()}

    def __call__(self, image: np.ndarray, numbers: Sequence[int]) -> list[str]:
        """Texts of uint8[b, S, S, 3]; each draws by its number, below 2^31."""
        batch = {"image": image} | {
            name: np.repeat(row, len(image), axis=0) for name, row in self._prompt.items()
        }
        index = fill(np.array(numbers, np.int32), self._size)
        out = self._run({k: fill(a, self._size) for k, a in batch.items()}, self._how, index)
        rows = zip(out["ids"][: len(image), 0], out["length"][: len(image), 0], strict=True)
        return [self._tokenizer.decode(ids[:length].tolist()) for ids, length in rows]


class Matcher:
    """Says whether pictures and texts belong together.

    Attributes:
      arrays: texts -> ids, which counts those that are cut.

    Args:
      model: one whose method has `match`.
      size: rows that every batch is filled up to.

    Raises:
      UserError: no tokenizer that fits.
    """

    def __init__(self, model: Any, size: int):
        self._size = size
        self._run = runner(model.method, "match", Vars(model.params, model.extra), model.mesh)
        self.arrays = model.text_arrays(model.method.functions()["match"].reads["text"])

    def __call__(self, image: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """float32[b], probabilities; image: uint8[b, S, S, 3]."""
        batch = {"image": image, **self.arrays(list(texts))}
        logits = self._run({name: fill(rows, self._size) for name, rows in batch.items()})
        return (1 / (1 + np.exp(logits[:, 0] - logits[:, 1])))[: len(image)]
