"""Path names, partition and merge, and sizes of trees."""

import jax
import jax.numpy as jnp
import pytest

from vlp_jax.core import pytree

TREE = {"image": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}, "scale": jnp.float32(1)}


def test_paths_name_dicts_tuples_and_attributes():
    import optax

    opt = optax.scale_by_adam().init({"a": jnp.ones(2)})
    assert list(pytree.flatten(TREE)) == ["image/b", "image/w", "scale"]
    assert list(pytree.flatten((opt,))) == ["0/count", "0/mu/a", "0/nu/a"]


def test_unflatten_undoes_flatten():
    back = pytree.unflatten(pytree.flatten(TREE))
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    assert pytree.flatten(back)["image/w"] is TREE["image"]["w"]


@pytest.mark.parametrize(
    "patterns, chosen",
    [
        (("image/.*",), {"image/w", "image/b"}),
        (("image",), set()),  # a pattern matches the whole path
        (("image/w", "sca.e"), {"image/w", "scale"}),
        ((), set()),
    ],
)
def test_partition_and_merge_are_inverse(patterns, chosen):
    taken, rest = pytree.partition(TREE, patterns)
    assert set(pytree.flatten(taken)) == chosen
    assert not set(pytree.flatten(rest)) & chosen
    merged = pytree.merge(taken, rest)
    assert pytree.flatten(merged).keys() == pytree.flatten(TREE).keys()
    assert all(pytree.flatten(merged)[k] is v for k, v in pytree.flatten(TREE).items())


@pytest.mark.parametrize("other", [{"scale": 1}, {"image": 1}, {"image": {"w": 1}}])
def test_merge_refuses_to_overwrite(other):
    with pytest.raises(ValueError, match="two trees hold"):
        pytree.merge(TREE, other)


def test_sizes_of_shapes_without_arrays():
    shapes = jax.eval_shape(lambda: {"a": jnp.ones((4, 5), jnp.bfloat16), "b": jnp.float32(0)})
    assert pytree.size(shapes) == 21
    assert pytree.nbytes(shapes) == 4 * 5 * 2 + 4


def test_map_with_path_keeps_the_structure():
    named = pytree.map_with_path(lambda path, leaf: f"{path}:{leaf.ndim}", TREE)
    assert named == {"image": {"w": "image/w:2", "b": "image/b:1"}, "scale": "scale:0"}
