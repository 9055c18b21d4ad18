"""What the model sees: the words of a list that are nearest to a query.

No classifier is trained; it is the zero-shot classification of CLIP (Radford et al. 2021, section
3.1) over an open list. The file exists so that a person can ask a picture what the model takes it
for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np


class Words:
    """A list of words, embedded when it is first asked for.

    Args:
      words: the list. embed: texts -> float32[n, E] of unit norm.
    """

    def __init__(self, words: Sequence[str], embed: Callable[[Sequence[str]], Awaitable]):
        self._words, self._embed = list(words), embed
        self._rows: np.ndarray | None = None
        self._lock = asyncio.Lock()

    async def nearest(self, query: np.ndarray, count: int) -> list[tuple[str, float]]:
        """(word, cosine), best first. query: float32[E] of unit norm."""
        async with self._lock:
            if self._rows is None:
                self._rows = await self._embed(self._words)
        scores = self._rows @ query
        best = np.argsort(-scores, kind="stable")[:count]
        return [(self._words[i], float(scores[i])) for i in best]
