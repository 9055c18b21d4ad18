"""Rows by number: as indexing gives them, by a ring where they lie on several devices."""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.parallel.mesh import batch_sharding, make_mesh
from vlp_jax.parallel.rows import take_rows

B = 16


def test_a_ring_gives_the_rows_that_indexing_gives_and_their_gradients():
    rng = np.random.default_rng(0)
    tree = {"x": jnp.float32(rng.normal(size=(B, 3, 2))), "ids": jnp.arange(B) * 10}
    picks = jnp.int32(rng.integers(0, B, (8, 2)))  # half a batch, two rows each, some twice
    weight = jnp.float32(rng.normal(size=(8, 2, 3, 2)))

    def total(x, ids, picks, weight):
        taken = take_rows({"x": x, "ids": ids}, picks)
        return (taken["x"] ** 2 * weight).sum(), taken

    fn = jax.value_and_grad(total, has_aux=True)
    (_, plain), slope = fn(tree["x"], tree["ids"], picks, weight)
    np.testing.assert_array_equal(plain["x"], tree["x"][picks])
    np.testing.assert_array_equal(plain["ids"], tree["ids"][picks])
    wanted = np.zeros((B, 3, 2), np.float32)
    np.add.at(wanted, np.asarray(picks), 2 * np.asarray(tree["x"][picks] * weight))
    np.testing.assert_allclose(slope, wanted, rtol=1e-5)
    mesh = make_mesh({"data": 4, "fsdp": 2})
    placed = jax.device_put((tree["x"], tree["ids"], picks, weight), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        compiled = jax.jit(fn).lower(*placed).compile()
    (_, ring), ring_slope = compiled(*placed)
    jax.tree.map(np.testing.assert_array_equal, ring, plain)
    np.testing.assert_allclose(ring_slope, slope, rtol=1e-6)
    text = compiled.as_text()
    assert "collective-permute" in text and "all-gather" not in text
