"""Near duplicates among what a search found: only the best of each is kept.

As in clip-retrieval: an edge where the cosine is strictly above a limit, connected components over
the edges, so that a chain of small changes is one picture. The file exists so that a page is not
filled with one photograph.
"""

import numpy as np

_CELLS = 1 << 22  # of the matrix of cosines at a time


def first_of_each(rows: np.ndarray, limit: float) -> np.ndarray:
    """Rising places int64[m] of rows whose component holds no earlier row.

    rows: float32[n, E] of unit norm, best first. Worked example: cosines a-b and b-c .95, a-c .91,
    limit .94: only a is kept.
    """
    own = np.arange(len(rows))
    root = own.copy()  # the earliest row that is known to be of the same component
    size = max(1, _CELLS // max(1, len(rows)))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        one, other = np.nonzero(some @ rows[: start + size].T > limit)  # edges to earlier ones
        one += start
        while (apart := root[one] != root[other]).any():
            pair = root[one[apart]], root[other[apart]]
            np.minimum.at(root, np.maximum(*pair), np.minimum(*pair))
            while (root[root] != root).any():
                root = root[root]
    return np.flatnonzero(root == own)
