"""Trees of arrays addressed by path names such as `image/blocks/mlp/fc1/kernel`.

The file exists so that freezing, weight decay, sharding rules and checkpoints speak one language: a
regular expression over a slash-joined path.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from vlp_jax.core.errors import UserError

PyTree = Any


def path_name(path: Sequence[Any]) -> str:
    """Returns a jax key path as `a/b/0/c`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def flatten(tree: PyTree) -> dict[str, Any]:
    """Returns {path: leaf} in the tree's own order; any pytree node type."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict:
    """Inverse of `flatten` for nested dicts: {'a/b': 1} -> {'a': {'b': 1}}."""
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def map_with_path(fn: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """Maps `fn(path, leaf)` over a tree, keeping its structure."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(path_name(path), leaf), tree)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether any regular expression matches the whole path.

    >>> matches("image/blocks/norm1/scale", ["image/.*"])
    True
    """
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def check_matched(key: str, patterns: Sequence[str], params: Mapping) -> None:
    """Raises UserError, naming the config's key, where a pattern matches no path of the
    parameters.
    """
    for pattern in patterns:
        if not any(matches(path, (pattern,)) for path in flatten(params)):
            where = f"paths start with {sorted(params)}"
            raise UserError(f"{key}: {pattern!r} matches no parameter; {where}")


def partition(tree: PyTree, patterns: Sequence[str]) -> tuple[dict, dict]:
    """Splits a nested dict into (leaves whose path matches, the rest); `merge` undoes it."""
    chosen, rest = {}, {}
    for path, leaf in flatten(tree).items():
        (chosen if matches(path, patterns) else rest)[path] = leaf
    return unflatten(chosen), unflatten(rest)


def merge(*trees: Mapping) -> dict:
    """Merges nested dicts with disjoint leaves into one.

    Raises:
      ValueError: two trees hold the same leaf.
    """
    merged: dict = {}
    for tree in trees:
        for key, value in tree.items():
            if key not in merged:
                merged[key] = value
            elif isinstance(merged[key], Mapping) and isinstance(value, Mapping):
                merged[key] = merge(merged[key], value)
            else:
                raise ValueError(f"two trees hold the leaf {key!r}")
    return merged


def size(tree: PyTree) -> int:
    """Number of scalars in all leaves; works on `eval_shape` output."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """Number of bytes in all leaves; works on `eval_shape` output."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
