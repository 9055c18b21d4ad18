"""New rows beside a table: ids after it, a frozen table, pools that do not see them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.pytree import flatten
from vlp_jax.models.text import TextTransformer
from vlp_jax.nn.embed import Embed

IDS = np.int32([[0, 3, 4, 5], [5, 1, 2, 4]])


def test_rows_come_from_the_table_and_then_from_the_new_ones():
    made = Embed(4, 3, new_rows=2).init(jax.random.key(0), IDS)["params"]
    assert {p: x.shape for p, x in flatten(made).items()} == {
        "embedding": (4, 3),
        "new_rows": (2, 3),
    }
    table = np.concatenate([made["embedding"], made["new_rows"]])
    found = Embed(4, 3, new_rows=2).apply({"params": made}, IDS)
    np.testing.assert_array_equal(found, table[IDS])
    old = {"params": {"embedding": made["embedding"]}}
    np.testing.assert_array_equal(
        Embed(4, 3).apply(old, IDS % 4), nn.Embed(4, 3).apply(old, IDS % 4)
    )
    half = Embed(4, 3, dtype=jnp.bfloat16, new_rows=2).apply({"params": made}, IDS)
    assert half.dtype == jnp.bfloat16
    slope = jax.grad(lambda p: Embed(4, 3, new_rows=2).apply({"params": p}, IDS).sum())(made)
    assert slope["embedding"][:, 0].tolist() == [1, 1, 1, 1]
    assert slope["new_rows"][:, 0].tolist() == [2, 2]


def test_a_text_pools_where_its_end_is():
    """Though new words have larger ids; the vocabulary counts them."""
    how = dict(context_length=6, width=8, num_layers=1, num_heads=2)
    net, old = (
        TextTransformer(vocab_size=12, new_rows=2, **how),
        TextTransformer(vocab_size=10, **how),
    )
    ids = np.int32([[8, 11, 3, 9, 0, 0]])  # start, a new word, a word, end
    params = net.init(jax.random.key(0), ids)["params"]
    pooled, out = net.apply({"params": params}, ids)
    np.testing.assert_array_equal(pooled, out["tokens"][:, 3])
    row = params["token_embed"]["new_rows"][1]
    table = params["token_embed"]["embedding"].at[5].set(row)
    same, _ = old.apply(
        {"params": params | {"token_embed": {"embedding": table}}}, np.where(ids == 11, 5, ids)
    )
    np.testing.assert_allclose(pooled, same, atol=1e-6)
