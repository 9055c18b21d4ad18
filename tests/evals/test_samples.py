"""Labels, class names, thinning and damage as the evaluators meet them."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.framing import Framing
from vlp_jax.evals.kits.samples import (
    class_ids,
    class_names,
    embed_pictures,
    open_samples,
    read_values,
)
from vlp_jax.evals.vqa import read_candidates


def test_class_names_from_the_data_are_sorted_by_value():
    assert list(class_names([10, 9, 10]).items()) == [(9, "9"), (10, "10")]
    assert class_names(["b", None, "a"]) == {"a": "a", "b": "b"}
    assert list(class_names([["y", "x"], ["z"]])) == ["x", "y", "z"]


def test_a_name_ends_with_its_line_alone(tmp_path):
    """U+2028 and U+0085 begin no other name: those after it would stand for other classes."""
    names = ["a\u2028b", "c\x85", "d"]
    (tmp_path / "n.txt").write_bytes("\r\n".join(names).encode())
    (tmp_path / "n.json").write_text(json.dumps(names, ensure_ascii=False))
    for file in ("n.txt", "n.json"):
        assert list(class_names([2, 0], str(tmp_path / file)).values()) == names
    assert read_candidates(str(tmp_path / "n.txt")) == ["a\u2028b", "c", "d"]


def test_class_names_from_files(tmp_path):
    lines, table = tmp_path / "names.txt", tmp_path / "names.json"
    lines.write_text("tench\ngoldfish\n", encoding="utf-8")
    assert class_names([1, 0], str(lines)) == {0: "tench", 1: "goldfish"}
    assert class_names(["goldfish"], str(lines)) == {"tench": "tench", "goldfish": "goldfish"}
    table.write_text(json.dumps({"3": "dog", "7": "cat"}))
    assert class_names([7, 3], str(table)) == {3: "dog", 7: "cat"}
    with pytest.raises(UserError, match="names no class 8"):
        class_names([8], str(table))
    with pytest.raises(UserError, match="no file of class names"):
        class_names([8], str(tmp_path / "absent"))


def test_class_files_as_editors_write_them(tmp_path):
    lines, table = tmp_path / "names.txt", tmp_path / "names.json"
    lines.write_bytes("\ufefftench\r\ngoldfish\r\n\r\n".encode())
    assert class_names([0, 1], str(lines)) == {0: "tench", 1: "goldfish"}
    table.write_bytes('\ufeff["tench", "goldfish"]'.encode())
    assert class_names([0, 1], str(table)) == {0: "tench", 1: "goldfish"}


@pytest.mark.parametrize(
    "name,data,message",
    [
        ("a.json", b'["tench", ', r"a\.json: no class names: .*line 1 column"),
        ("a.json", b"[" * 100_000, r"a\.json: no class names: "),
        ("a.json", b"7", r"a\.json: must hold \{value: name\} or \[name, \.\.\.\]"),
        ("a.json", b'["tench", 3]', r"a\.json: must hold"),
        ("a.json", b'{"0": null}', r"a\.json: must hold"),
        ("a.json", b'{"0": " "}', r"a\.json: name 1 of 1 is blank"),
        ("a.txt", b"tench\n\ngoldfish\n", r"a\.txt: name 2 of 3 is blank"),
        ("a.txt", b"\n", r"a\.txt: name 1 of 1 is blank"),
    ],
)
def test_class_files_that_are_none_are_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        class_names([0], str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, {"a": 1}, [["a"]], ["a", None], [{"a": 1}]])
def test_what_is_no_label_names_the_sample(memory_source, value):
    source = memory_source([1, 2], metas=[{"category": "x"}, {"category": value}])
    with pytest.raises(UserError, match="'k1': 'category' is no label but"):
        read_values(source, "category")


def test_class_ids():
    assert class_ids(["b", None, "a"], {"a": "A", "b": "B"}).tolist() == [1, -1, 0]
    with pytest.raises(UserError, match="path holds the unknown class 'dgo'; did you mean 'dog'"):
        class_ids(["dgo"], {"dog": "dog"}, where="path")
    with pytest.raises(UserError, match="several labels"):
        class_ids([["a"]], {"a": "a"})


def test_missing_label_names_the_sample_and_the_nearest_key(memory_source):
    source = memory_source([1, 2], metas=[{"category": "x"}, {}])
    with pytest.raises(UserError, match="'k1' has no JSON key 'category'"):
        read_values(source, "category")
    with pytest.raises(UserError, match="'k0' has no JSON key 'catgory'; did you mean 'category'"):
        read_values(source, "catgory")
    with pytest.raises(UserError, match="set its key 'label'"):
        read_values(source, "")


def test_empty_labels_are_refused_and_whole_floats_are_integers(memory_source):
    source = memory_source([1, 2, 3], metas=[{"y": 2.0}, {"y": 3}, {"y": "a"}])
    values = read_values(source, "y")
    assert values == [2, 3, "a"] and type(values[0]) is int
    for empty in (None, float("nan")):
        source = memory_source([1, 2], metas=[{"y": 1}, {"y": empty}])
        with pytest.raises(UserError, match="'k1': 'y' is no label but None"):
            read_values(source, "y")


def test_a_limit_takes_every_class_its_share_in_whatever_order(memory_source):
    greys = list(range(100))
    value = {g: "a" if g < 60 else "b" if g < 90 else "c" for g in greys}
    turns = [g for i in range(10) for g in greys[i::10]]
    found = []
    for order in (greys, turns, greys[::-1]):
        source = memory_source(order, metas=[{"c": value[g]} for g in order])
        some = open_samples(source, 20, "c")
        at = [int(some.where(i).removeprefix("memory: k")) for i in range(20)]
        assert at == sorted(at) and [some.metadata(i)["key"] for i in (0, 5)] == [
            f"k{at[0]}",
            f"k{at[5]}",
        ]
        assert some[3] == source[at[3]]
        found.append({order[i] for i in at})
        assert [sum(value[g] == c for g in found[-1]) for c in "abc"] == [12, 6, 2]
        assert found[-1] == found[0]
    assert len({g % 5 for g in found[0]}) == 5  # no stride
    plain = open_samples(memory_source(greys), 20)  # without a label
    assert plain.rows.tolist() != list(range(0, 100, 5)) and len(set(plain.rows.tolist())) == 20
    assert len(open_samples(memory_source([1, 2]), 9)) == 2


def test_what_learns_has_every_class(memory_source):
    metas = [{"c": 0}] * 90 + [{"c": i} for i in range(1, 11)]
    source = memory_source(list(range(100)), metas=metas)
    some = open_samples(source, 20, "c", cover=True)
    assert {some.metadata(i)["meta"]["c"] for i in range(20)} == set(range(11))
    fair = open_samples(source, 20, "c")
    assert sum(fair.metadata(i)["meta"]["c"] == 0 for i in range(20)) >= 15


def test_a_wrong_limit_and_an_empty_set(memory_source):
    with pytest.raises(UserError, match="limit is -1"):
        open_samples(memory_source([1]), -1)
    with pytest.raises(UserError, match="no data: set `path`"):
        open_samples("")


def test_pictures_come_in_order_and_too_much_damage_stops(memory_source, context, directions):
    source = memory_source([5, 3, 9, 4, 8, 1, 2] * 20, damaged={6})
    rows, kept = embed_pictures(directions["features"], source, context(16))
    assert kept.tolist() == [i for i in range(140) if i != 6]
    table = directions["features"]({"image": np.full((1, 1, 1, 1), 9), "index": 0})[0]
    np.testing.assert_array_equal(rows[[2, 8]], table[[0, 0]])
    assert len(rows) == 139
    many = memory_source([1] * 140, damaged=set(range(6, 17)))
    with pytest.raises(RunError, match="11 of 140 pictures cannot be read, first memory: k6"):
        embed_pictures(directions["features"], many, context(16))
    few = memory_source([1] * 4, damaged={0, 1, 2})
    with pytest.raises(RunError, match="3 of 4 pictures cannot be read"):
        embed_pictures(directions["features"], few, context(4))


def test_pictures_are_framed_as_the_model_wants_them(memory_source, context):
    class Clear(memory_source):
        def __getitem__(self, i):
            file = io.BytesIO()
            picture = Image.new("RGBA", (16, 8), (self.greys[i],) * 3 + (0,))
            picture.paste((9, 9, 9, 255), (0, 0, 4, 8))
            picture.save(file, "PNG")
            return {**self.metadata(i), "image": file.getvalue()}

    def pixels(batch):
        return batch["image"].reshape(len(batch["image"]), -1).astype(np.float32), batch["index"]

    for framing, left, middle in (
        (Framing(), 255, 255),
        (Framing(alpha="drop"), 40, 40),
        (Framing("squash", alpha="drop"), 9, 40),
        (Framing("pad", alpha="drop", fill=3), 9, 40),
    ):
        rows, _ = embed_pictures(pixels, Clear([40]), context(framing=framing))
        row = rows.reshape(8, 8, 3)
        assert (row[4, 0, 0], row[4, 4, 0]) == (left, middle), framing
    assert row[0, 0, 0] == 3
