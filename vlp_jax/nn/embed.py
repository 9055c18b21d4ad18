"""A table of rows by id, and rows beside it that may learn while the table is frozen: new words of
a vocabulary (textual inversion, arXiv:2208.01618).

The file exists so that a text network gets new words without another table, which its releases
have no place for.
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.types import Array


class Embed(nn.Embed):
    """flax's Embed for ids of the table, [0, num_embeddings), and after these of new_rows more.

    new_rows: how many; their leaf is `new_rows`, float32[n, D].
    """

    new_rows: int = 0

    def setup(self) -> None:
        super().setup()
        if self.new_rows:
            shape = self.new_rows, self.features
            self.new = self.param("new_rows", self.embedding_init, shape, self.param_dtype)

    def __call__(self, ids: Array) -> Array:
        """int32[...] -> [..., D] in `dtype`."""
        if not self.new_rows:
            return super().__call__(ids)
        beyond = ids - self.num_embeddings
        old = super().__call__(jnp.minimum(ids, self.num_embeddings - 1))
        new = jnp.take(self.new.astype(old.dtype), jnp.maximum(beyond, 0), axis=0, mode="clip")
        return jnp.where((beyond >= 0)[..., None], new, old)

    def attend(self, query: Array) -> Array:
        """float[..., D] to products with every row, float32[..., num_embeddings + new_rows]."""
        table = self.embedding
        if self.new_rows:
            table = jnp.concatenate([table, self.new.astype(table.dtype)])
        dtype = self.dtype or table.dtype
        query, table = query.astype(dtype), table.astype(dtype)
        return jnp.einsum("...d,vd->...v", query, table, preferred_element_type=jnp.float32)
