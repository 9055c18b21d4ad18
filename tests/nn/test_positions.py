"""The sine-cosine table, against values of the reference implementation."""

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.nn.positions import sincos_table


def test_golden_values():
    """mae.md 2.3: D 768, a 14 x 14 grid."""
    table = sincos_table(14, 768)
    assert table.shape == (196, 768) and table.dtype == np.float32
    np.testing.assert_allclose(table[1, :4], [0.841471, 0.815251, 0.788593, 0.761720], atol=1e-6)
    np.testing.assert_allclose(table[1, 192:194], [0.540302, 0.579108], atol=1e-6)
    assert table[1, 384:386].tolist() == [0, 0]
    np.testing.assert_array_equal(table[14, 384:388], table[1, :4])


def test_rows_are_told_apart_and_the_prefix_is_zero():
    table = sincos_table(7, 64, prefix=1)
    assert table.shape == (50, 64) and not table[0].any()
    np.testing.assert_array_equal(table[1:], sincos_table(7, 64))
    gram = table[1:] @ table[1:].T
    assert (gram.argmax(1) == np.arange(49)).all()
    with pytest.raises(UserError, match="multiple of 4, not 6"):
        sincos_table(7, 6)
