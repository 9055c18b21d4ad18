"""Name maps both ways: bitwise round trips for every family, and mismatches listed before anything
is read (R6)."""

import tracemalloc

import numpy as np
import pytest

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.interop.rules import (
    Bound,
    Rule,
    Table,
    check,
    mapped,
    their_shapes,
    to_ours,
    to_theirs,
)
from vlp_jax.interop.tensors import BFLOAT16, Tensor, from_arrays
from vlp_jax.interop.weights_file import read_safetensors, write_safetensors

NAMES = ("open_clip", "resnet", "hf_clip", "open_clip_siglip", "hf_siglip")


def unreadable(shapes):
    def read():
        raise AssertionError("a weight was read")

    return {name: Tensor(tuple(shape), "F32", read) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", NAMES)
def test_ours_theirs_ours_is_bitwise(name, tiny_tree, tiny_table):
    tree = tiny_tree(name)
    theirs = to_theirs(tiny_table(name), tree)
    shapes = {path: array.shape for path, array in tree.items()}
    back = to_ours(tiny_table(name), from_arrays(theirs), shapes, name)
    assert set(back) == set(tree)
    for path, array in tree.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)
    counters = {key for key, value in theirs.items() if value.dtype == np.int64}
    floats = {key: value.shape for key, value in theirs.items() if key not in counters}
    assert their_shapes(tiny_table(name), shapes) == floats
    assert len(counters) == (3 + 4 * 3 + 3 + 4 if name == "resnet" else 0)


def test_layout_of_a_fused_projection(tiny_table):
    """in_proj_weight rows are q, k, v, each head by head: row (2*H + h)*K + k, column i is kernel
    [l, i, h, 2, k]."""
    family = tiny_table("open_clip")
    heads, width, inputs = 2, 3, 5
    weight = np.arange(3 * heads * width * inputs, dtype=np.float32).reshape(-1, inputs)
    path = "text/blocks/attn/qkv/kernel"
    state = from_arrays({"transformer.resblocks.0.attn.in_proj_weight": weight})
    kernel = to_ours(family, state, {path: (1, inputs, heads, 3, width)}, "x")[path]
    assert kernel[0, 4, 1, 2, 0] == weight[(2 * heads + 1) * width + 0, 4]


def test_part_of_a_tensor_and_several_tensors():
    family = Table("x", (
        Rule("a", "w", part=(0, 1, 3)),
        Rule("b", "w", "(two k) -> two k", part=(1, 3, 3)),
        Rule("c", ("p{i}", "q{i}"), "l n d -> l d n"),
    ))  # fmt: skip
    tree = {
        "b": np.arange(4.0, dtype=np.float32).reshape(2, 2),
        "a": np.float32([8, 9]),
        "c": np.arange(12.0, dtype=np.float32).reshape(2, 3, 2),
    }
    theirs = to_theirs(family, tree)
    np.testing.assert_array_equal(theirs["w"], [8, 9, 0, 1, 2, 3])
    np.testing.assert_array_equal(theirs["q1"], tree["c"][1, :, 1])
    back = to_ours(family, from_arrays(theirs), {k: v.shape for k, v in tree.items()}, "x")
    for path, array in tree.items():
        np.testing.assert_array_equal(back[path], array)


def test_a_stack_is_read_and_written_a_layer_at_a_time(tmp_path):
    """Of 2 MB no more than some layers of 64 kB are held at any time; bf16 stays."""
    family, read = Table("x", (Rule("a", ("p{i}", "q{i}"), "l n o i -> l i n o"),)), []

    def tensor(number):
        make = lambda: read.append(number) or np.full((128, 128), number, BFLOAT16)  # noqa: E731
        return Tensor((128, 128), "BF16", make)

    state = {f"{name}{i}": tensor(2 * i + n) for i in range(32) for n, name in enumerate("pq")}
    found = mapped(family, state, {"a": (32, 128, 2, 128)}, "x")
    assert not read and found["a"].dtype == BFLOAT16
    tracemalloc.start()
    write_safetensors(str(tmp_path / "x"), found)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == list(range(64)) and most < 5e5
    back = read_safetensors(str(tmp_path / "x"))["a"].read()
    assert back.dtype == BFLOAT16
    np.testing.assert_array_equal(back[4, 0, :, 0].astype(int), [8, 9])


def test_what_does_not_survive_the_way_back_is_refused_as_it_is_read(monkeypatch):
    family, state = Table("x", (Rule("a", "w"),)), from_arrays({"w": np.float32([1, np.nan])})
    tensor = mapped(family, state, {"a": (2,)}, "FILE")["a"]
    np.testing.assert_array_equal(tensor, [1, np.nan])
    monkeypatch.setattr(Bound, "to_theirs", lambda self, array: [[array[::-1]]])
    with pytest.raises(RunError, match="FILE: w does not survive the way there and back"):
        tensor.read()


@pytest.mark.parametrize("part", [(0, 2, 3), (2, 3, 3)])
def test_shares_that_overlap_or_leave_a_gap_are_refused(part):
    family = Table("x", (Rule("a", "w", part=part), Rule("b", "w", part=(1, 2, 3))))
    state = from_arrays({"w": np.zeros(part[1] - part[0] + 1, np.float32)})
    with pytest.raises(RunError, match=r"rules take .* of w"):
        mapped(family, state, {"a": (part[1] - part[0],), "b": (1,)}, "x")


def test_every_mismatch_is_listed_and_nothing_is_read(tiny_shapes, tiny_table):
    family, expected = tiny_table("open_clip"), tiny_shapes("open_clip")
    shapes = their_shapes(family, expected)
    shapes["visual.conv1.weight"] = (16, 3, 4, 4)
    shapes["visual.positional_embedding"] = (17, 16)
    del shapes["text_projection"], shapes["transformer.resblocks.1.mlp.c_fc.bias"]
    shapes["visual.extra"] = (1,)
    shapes["visual.bn1.num_batches_tracked"] = ()
    with pytest.raises(UserError) as error:
        to_ours(family, unreadable(shapes), expected, "FILE does not hold ARCH")
    first, *lines = str(error.value).split("\n")
    assert first.startswith("FILE does not hold ARCH: 5 of ") and first.endswith(
        "nothing was loaded"
    )
    assert sorted(lines) == [
        "  missing      text_projection [8, 12]",
        "  missing      transformer.resblocks.1.mlp.c_fc.bias [32]",
        "  not known    visual.extra [1]",
        "  wrong shape  visual.conv1.weight [16, 3, 4, 4], expected [16, 3, 8, 8]",
        "  wrong shape  visual.positional_embedding [17, 16], expected [5, 16]",
    ]


def test_scalars_may_come_as_vectors(tiny_shapes, tiny_table):
    family, expected = tiny_table("hf_siglip"), tiny_shapes("hf_siglip")
    shapes = their_shapes(family, expected)
    assert shapes["logit_scale"] == (1,)
    check(family, unreadable(shapes | {"logit_scale": ()}), expected, "x")
    for name, shape in (("hf_siglip", ()), ("open_clip", (1,))):
        state = from_arrays({"logit_scale": np.full(shape, 2, np.float32)})
        value = to_ours(tiny_table(name), state, {"logit_scale": ()}, "x")["logit_scale"]
        assert value.shape == () and value == 2


def test_a_path_without_a_place_is_named(tiny_tree, tiny_table):
    with pytest.raises(UserError, match=r"CLIPModel has no place for: .*image/stem1/conv/kernel"):
        to_theirs(tiny_table("hf_clip"), tiny_tree("resnet"))
