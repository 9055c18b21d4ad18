"""Near duplicates among what a search found: only the best of each is kept.

As in clip-retrieval: an edge where the cosine is strictly above a limit, connected components over
the edges, so that a chain of small changes is one picture. The file exists so that a page is not
filled with one photograph.
"""

import numpy as np


def first_of_each(rows: np.ndarray, limit: float) -> np.ndarray:
    """Rising places int64[m] of rows whose component holds no earlier row.

    rows: float32[n, E] of unit norm, best first. Worked example: cosines a-b and b-c .95, a-c .91,
    limit .94: only a is kept.
    """
    alike = rows @ rows.T > limit  # [n, n]
    label = np.arange(len(rows))
    while True:  # every row takes the lowest label beside it, until none changes
        lowest = np.where(alike, label[None], label[:, None]).min(axis=1, initial=len(rows))
        lowest = np.minimum(label, lowest)
        if np.array_equal(lowest, label):
            return np.flatnonzero(label == np.arange(len(rows)))
        label = lowest
