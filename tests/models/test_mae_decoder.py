"""The decoder puts every token where it came from and a mask token in every hole."""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.pytree import map_with_path
from vlp_jax.models.mae_decoder import MAEDecoder
from vlp_jax.nn.positions import sincos_table


def test_tokens_return_to_their_places():
    """With blocks that add nothing, patch n depends on what stands at n alone."""
    net = MAEDecoder(grid=3, patch_size=2, width=16, num_layers=1, num_heads=2)
    tokens = jax.random.normal(jax.random.key(0), (2, 1 + 3, 8))
    places = jnp.array([[0, 4, 8], [1, 2, 5]])
    params = jax.jit(net.init)(jax.random.key(1), tokens, places)["params"]
    silent = lambda path, x: x * 0 if "attn/out" in path or "mlp/fc2" in path else x  # noqa: E731
    params = map_with_path(silent, params)
    found = np.asarray(jax.jit(net.apply)({"params": params}, tokens, places))
    assert found.shape == (2, 9, 12)

    p = jax.tree.map(np.asarray, params)
    full = np.broadcast_to(p["mask_token"], (2, 9, 16)).copy()
    embedded = np.asarray(tokens) @ p["embed"]["kernel"] + p["embed"]["bias"]
    for row in range(2):
        for rank, place in enumerate(np.asarray(places)[row]):
            full[row, place] = embedded[row, 1 + rank]  # token 0 is the class token
    full += sincos_table(3, 16)
    normal = (full - full.mean(-1, keepdims=True)) / np.sqrt(full.var(-1, keepdims=True) + 1e-6)
    wanted = normal @ p["pred"]["kernel"] + p["pred"]["bias"]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
