"""Position embedding resize against PyTorch's two bicubic forms
(tests/golden/make_clip_golden.py)."""

import math
import pathlib

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.interop.position import cubic_weights, resize_pos_embed, resize_state, same_table
from vlp_jax.interop.tensors import from_arrays

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "clip" / "positions.npz")
CASES = [key for key in GOLDEN.files if key.count(" ") == 2]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case):
    old, new, antialias = map(int, case.split())
    got = resize_pos_embed(
        GOLDEN[f"{old} {new}"], 1 + new * new, prefix=1, antialias=bool(antialias)
    )
    np.testing.assert_allclose(got, GOLDEN[case], atol=2e-6)


def test_the_two_forms_differ_and_keep_constants():
    assert np.abs(GOLDEN["7 12 0"] - GOLDEN["7 12 1"]).max() > 0.05
    for old, new in ((7, 14), (14, 3), (4, 4)):
        for antialias in (False, True):
            np.testing.assert_allclose(cubic_weights(old, new, antialias).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(cubic_weights(5, 5, True), np.eye(5), atol=1e-12)


def test_without_a_class_token_and_not_square():
    rows = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    assert resize_pos_embed(rows, 36, prefix=0).shape == (36, 2)
    for count, wanted in ((15, 36), (16, 35)):
        with pytest.raises(UserError, match="not a square grid"):
            resize_pos_embed(rows[:count], wanted, prefix=0)


def test_a_checkpoint_is_resized_only_in_its_positions(tiny_tree, tiny_shapes, tiny_table):
    from vlp_jax.interop.rules import to_ours, to_theirs

    for name in ("open_clip", "hf_clip", "open_clip_siglip", "hf_siglip"):
        family, tree = tiny_table(name), tiny_tree(name)
        prefix = int("image/cls_token" in tree)
        wanted = tiny_shapes(name) | {"image/pos_embed": (prefix + 9, 16)}
        state = resize_state(from_arrays(to_theirs(family, tree)), family, wanted, antialias=True)
        got = to_ours(family, state, wanted, name)
        expected = resize_pos_embed(tree["image/pos_embed"], prefix + 9, prefix)
        np.testing.assert_array_equal(got["image/pos_embed"], expected)
        assert math.prod(got["image/pos_embed"].shape) == (prefix + 9) * 16
        np.testing.assert_array_equal(got["text/pos_embed"], tree["text/pos_embed"])
    with pytest.raises(UserError, match="--image-size"):
        resize_state({}, tiny_table("open_clip"), tiny_shapes("resnet"), antialias=True)


def test_a_stored_table_is_the_same_to_the_rounding_of_its_dtype():
    table = np.linspace(-1, 1, 64, dtype=np.float32).reshape(16, 4)
    for dtype, step in (("F32", 1e-5), ("F16", 2**-11), ("BF16", 2**-8)):
        assert same_table(table + 0.9 * step, table, dtype)
        assert not same_table(table + 2 * step, table, dtype)
    assert not same_table(table[1:], table)
