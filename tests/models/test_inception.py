"""Inception v3: published counts and FLOPs, both kinds of pools, the names of both releases.

Numbers beside torch-fidelity and torchvision are in tests/peers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.interop.family import families, recognise
from vlp_jax.interop.rules import their_shapes, to_ours, to_theirs
from vlp_jax.interop.tensors import Tensor
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.inception import ARCHS, FID
from vlp_jax.models.inception import STEM, Inception, blocks, pooled_map

TRUNK = 23_834_568 - 2048 * 1000 - 1000  # torchvision's, without both classifiers
FAMILIES = {"Inception-v3": "torchvision_inception", FID: "fid_inception"}


@pytest.fixture(scope="module")
def trunk():
    """{path: shape} of the tower, which are those of both."""
    made = jax.eval_shape(Inception().init, jax.random.key(0), jnp.ones((1, 75, 75, 3)))
    parts = {"image": made["params"], "batch_stats": {"image": made["batch_stats"]}}
    return {path: leaf.shape for path, leaf in flatten(parts).items()}


def test_published_numbers(trunk):
    weights = (shape for path, shape in trunk.items() if path.startswith("image/"))
    assert sum(map(math.prod, weights)) == TRUNK
    for name in FAMILIES:
        method = make_method({"name": "encoder", **ARCHS[name]})
        assert method.flops() / 2e9 == pytest.approx(5.711, abs=1e-3)  # torchvision's GMACs: 5.71
    assert STEM[0].side(299) == 149


def test_pools_at_the_rim():
    x = jnp.ones((1, 2, 2, 1))
    assert pooled_map(x, "mean", "tensorflow").tolist() == x.tolist()
    np.testing.assert_allclose(pooled_map(x, "mean", "torch"), x * 4 / 9, rtol=1e-6)
    assert pooled_map(-x, "max", "torch").tolist() == (-x).tolist()  # no zeros beside it
    assert pooled_map(jnp.ones((1, 8, 8, 1)), "down", "torch").shape == (1, 3, 3, 1)
    last = {kind: blocks(kind)["mixed7c"][-1].pool for kind in ("torch", "tensorflow")}
    assert last == {"torch": "mean", "tensorflow": "max"}
    assert blocks("tensorflow")["mixed7b"][-1].pool == "mean"
    with pytest.raises(UserError, match=r"image\.pools: unknown 'tensor'"):
        jax.eval_shape(Inception(pools="tensor").init, jax.random.key(0), jnp.ones((1, 75, 75, 3)))


@pytest.mark.parametrize("name, family", FAMILIES.items(), ids=FAMILIES.values())
def test_names_both_ways(name, family, trunk):
    """Every weight has one name, each is found by it, and the release is known by its classes."""
    count = ARCHS[name]["classes"]
    ours = trunk | {"head/out/kernel": (2048, count)}
    ours |= {} if name == FID else {"head/out/bias": (count,)}
    table = families()[family].table(())
    wanted = their_shapes(table, ours)
    rng = np.random.default_rng(0)
    few = {path: s for path, s in ours.items() if "mixed5b" in path or "head" in path}
    tree = {path: rng.normal(size=s).astype(np.float32) for path, s in few.items()}
    state = {n: Tensor(a.shape, "F32", lambda a=a: a) for n, a in to_theirs(table, tree).items()}
    back = to_ours(table, state, few, name)
    assert all(np.array_equal(back[path], array) for path, array in tree.items())
    file = {n: Tensor(shape, "F32", None) for n, shape in wanted.items()}
    file |= {"fc.bias": Tensor((count,), "F32", None)}
    file |= {"Mixed_5b.branch_pool.bn.num_batches_tracked": Tensor((), "I64", None)}
    aux = {"AuxLogits.fc.weight": Tensor((1000, 768), "F32", None)}
    assert recognise(file | aux, False, "F").name == family
    assert wanted["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert wanted["Mixed_7c.branch3x3_2a.conv.weight"] == (384, 384, 1, 3)
    assert ("fc.bias" in wanted) == (name != FID)
