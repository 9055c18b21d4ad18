"""Sets of permutations that lie far apart in Hamming distance (jigsaw, arXiv:1603.09246, algorithm
1).

The file exists because a set with near twins makes a jigsaw ambiguous, and the published sets are
files.
"""

import functools
import itertools
import math

import numpy as np

from vlp_jax.core.errors import UserError


@functools.cache
def distant_permutations(items: int, count: int) -> np.ndarray:
    """Greedy choice: the identity first, then always the permutation whose smallest distance to the
    chosen ones is largest; of equals the one with the largest sum of distances, then the first in
    lexicographic order.

    Args:
      items: n, at most 9.
      count: of 2 to n! permutations.

    Returns:
      int8[count, items]; 1,000 of 9 items take a few seconds.

    Raises:
      UserError: another count.
    """
    if not 2 <= count <= math.factorial(items):
        most = math.factorial(items)
        raise UserError(f"method.permutations={count}: {items} tiles have from 2 to {most}")
    every = np.array(list(itertools.permutations(range(items))), np.int8)  # [n!, n]
    columns = np.ascontiguousarray(every.T)
    smallest = np.full(len(every), items, np.int64)
    total = np.zeros(len(every), np.int64)
    chosen = [0]
    while len(chosen) < count:
        distance = (columns != every[chosen[-1]][:, None]).sum(0)
        smallest = np.minimum(smallest, distance)
        total += distance
        chosen.append(int(np.argmax(smallest * (items * count + 1) + total)))
    return every[chosen]
