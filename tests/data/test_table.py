"""Tables: nothing is swallowed, dropped uncounted or refused wrongly."""

import csv
import io
import json

import numpy as np
import pytest
from generated import encode

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.labels import class_list
from vlp_jax.data.open import open_source
from vlp_jax.data.source import check_captions, check_key, label_of


@pytest.fixture
def table(tmp_path):
    """Opens a table of this content beside the pictures a.png to d.png."""
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))

    def opened(content, name="t.csv"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return open_source(str(tmp_path / name))

    return opened


def rows(source):
    return {e["key"]: e["text"] for e in map(source.metadata, range(len(source)))}


def lost(source):
    """Reason and line of all damage."""
    return [(d.reason, int(d.where.split(": line ")[1].split()[0])) for d in source.damage]


OPEN = {
    "to the end": ('image,caption\na.png,"a dog\nb.png,a cat\nc.png,x\n', 2, "bc"),
    "to a quoted cell": ('image,caption\na.png,"a dog\nb.png,"a, cat"\nc.png,x\n', 2, "bc"),
    "to an inch": ('image,caption\na.png,"a dog\nb.png,a 5" nail\nc.png,x\n', 2, "bc"),
    "to a quote at a line's end": ('image,caption\na.png,"a dog\nb.png,a 5"\nc.png,x\n', 2, "bc"),
    "captions first": ('caption,image\na bird,a.png\n"a dog,b.png\na 5",c.png\n', 3, "ac"),
    "in tabs": ('image\tcaption\na.png\t"a dog\nb.png\ta 5"\nc.png\tx\n', 2, "bc"),
    "three columns": ('image,caption,n\na.png,"a,1\nb.png,a 5",2\nc.png,x,3\n', 2, "bc"),
    "to a comma of its own": (
        'image,caption\na.png,"a dog, black\nb.png,a cat\nc.png,a 5"\nd.png,x\n',
        2,
        "bcd",
    ),
    "over pictures that are not here": (
        'image,caption\na.png,"a, b\nb.png,x\nno.png,a 5"\nc.png,y\n',
        2,
        "bnoc",
    ),
    "not doubled": ('image,caption\na.png,x\nb.png,"so" he said\nc.png,y\n', 3, "ac"),
}


@pytest.mark.parametrize("name", OPEN)
def test_an_open_quote_loses_its_own_row_alone(table, name):
    content, line, left = OPEN[name]
    source = table(content)
    assert "".join(rows(source)) == left
    assert ("bad_quotes", line) in lost(source)
    assert len(source) + len(source.damage) == content.count("\n") - 1, "every row is counted"
    assert all("\n" not in text for texts in rows(source).values() for text in texts)


def test_legal_quotes_stay(table):
    captions = ['say "hi", now', "two\nlines", "a.png,b\nc.png", "x\r\ny", "d.png", "ü;\t|", 'a "']
    pictures = ("a.png", "b.png", "c.png", "d.png", "a.png", "b.png", "c.png")
    for order, ends in (((0, 1), "\r\n"), ((1, 0), "\n")):
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator=ends)
        writer.writerow([("image", "caption")[i] for i in order])
        for row in zip(pictures, captions, strict=True):
            writer.writerow([row[i] for i in order])
        source = table(out.getvalue())
        assert not source.damage
        assert [source.metadata(i)["text"][0] for i in range(7)] == [c.strip() for c in captions]
    assert rows(table("image,caption\ra.png,x\rb.png,y\r")) == {"a": ["x"], "b": ["y"]}
    assert rows(table('image,caption\na.png, "x, y"\n\n  \nb.png,a 5" nail\n')) == {
        "a": ["x, y"],
        "b": ['a 5" nail'],
    }


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_the_header_tells_the_delimiter(table, name, delimiter):
    lines = (("filepath", "title", "n"), ("a.png", "a dog", "1"), ("b.png", "x", "2"))
    source = table("\n".join(delimiter.join(cells) for cells in lines), name)
    assert rows(source) == {"a": ["a dog"], "b": ["x"]} and not source.damage
    assert source.metadata(1)["meta"] == {"filepath": "b.png", "title": "x", "n": 2}
    marked = delimiter.join(lines[0]) + "\n" + delimiter.join(lines[1])
    for encoding in ("utf-8-sig", "utf-16"):
        assert rows(table(marked.encode(encoding), name)) == {"a": ["a dog"]}
    assert rows(table(f"{delimiter}image{delimiter}title\n0{delimiter}a.png{delimiter}", name))


def test_empty_names_tell_no_delimiter(table):
    assert table("image;a,,b\na.png;1,2,3\n").metadata(0)["meta"]["a,,b"] == "1,2,3"


def test_suffixes_count_in_any_case(table):
    assert rows(table("image,caption\na.png,x\n", "T.CSV")) == {"a": ["x"]}
    assert rows(table('{"image": "a.png", "caption": "x"}', "T.JSONL")) == {"a": ["x"]}
    with pytest.raises(UserError, match=r"it has: a\.png, x"):  # the usual one where none is known
        table("a.png\tx\nb.png\ty\n", "T.TSV")


def test_rows_of_another_width_are_counted_by_line(table):
    source = table('image,caption\na.png,a dog, brown\n\nb.png,"x\ny"\nc.png\nd.png,z\n,w\n')
    assert rows(source) == {"b": ["x\ny"], "d": ["z"]}
    assert lost(source) == [("bad_row", 2), ("bad_row", 6), ("no_image", 8)]
    assert "line 2 (3 cells for 2 columns)" in source.damage[0].where
    for header, message in (("image,caption,caption", "two columns 'caption'"),
                            ('"image,caption', "line 1: a quote that is not closed")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            table(header + "\na.png,x,y\n")
    assert table("image,caption,,\na.png,x,,\n").damage == []


def test_whole_numbers_of_a_csv_are_numbers(table):
    head = "image,caption,label,id,price,name\n"
    source = table(head + "a.png,7,3.0,007,1.5,x\nb.png,8,10,12,2.0,3\nc.png,9,,3,3,4\n")
    metas = [source.metadata(i)["meta"] for i in range(3)]
    assert [m["label"] for m in metas] == [3, 10, None]
    assert [m["id"] for m in metas] == ["007", "12", "3"], "a name with leading zeros"
    assert [m["price"] for m in metas] == ["1.5", "2.0", "3"]
    assert [m["name"] for m in metas] == ["x", "3", "4"]
    assert rows(source) == {"a": ["7"], "b": ["8"], "c": ["9"]}
    giant = "1" * 5000
    assert table(f"image,n\na.png,{giant}\n").metadata(0)["meta"]["n"] == giant
    assert class_list(source, "label", "x") == ()
    assert label_of(source.metadata(0), "label") == 3
    with pytest.raises(DamagedSample, match="no_label"):
        label_of(source.metadata(2), "label")
    lines = [json.dumps({"image": "a.png", "label": v}) for v in (3.0, float("nan"), 2.5, True)]
    source = table("\n".join(lines), "t.jsonl")
    assert label_of(source.metadata(0), "label") == 3
    for i in (1, 2, 3):
        with pytest.raises(DamagedSample, match="no_label"):
            label_of(source.metadata(i), "label")


def test_missing_captions_are_none(table):
    source = table('image,caption\na.png,nan\nb.png,\nc.png,None\nd.png,"nan, bread"\n')
    assert list(rows(source).values()) == [[], [], [], ["nan, bread"]]
    captions = {"a": None, "b": ["x", "y"], "c": 7}
    lines = [{"image": f"{name}.png", "caption": caption} for name, caption in captions.items()]
    source = table("\n".join(map(json.dumps, lines)), "t.jsonl")
    assert list(rows(source).values()) == [[], ["x", "y"], []]


def test_labels_need_no_captions(table):
    source = table("image,label,gloss\na.png,1,x\nb.png,2,y\n")
    check_key(source, "label", "data.label")
    assert rows(source) == {"a": [], "b": []} and source[0]["image"]
    with pytest.raises(
        UserError, match=r"no captions in 't': no caption column .*it has: image, l"
    ):
        check_captions(source, "t")


def test_json_of_another_kind_is_told_in_a_line(table):
    rows_ = [{"image": "a.png", "caption": "x"}]
    for content, name, message in (
        (json.dumps(rows_), "t.jsonl", "line 1: a JSON array; .jsonl is one object a line"),
        ("\n" + json.dumps(rows_, indent=1), "t.jsonl", "line 2: a JSON array"),
        (json.dumps(rows_), "t.json", "a table of JSON ends with .jsonl and holds one object"),
        (json.dumps(rows_[0], indent=1), "t.jsonl", "no rows in .*line 1: bad_json"),
        (json.dumps(rows_[0]) + ",\n", "t.jsonl", "no rows in .*line 1: bad_json"),
        ("image,caption\n,x\n", "t.csv", "column 'image' names no picture"),
        ("image,caption\na.png\n", "t.csv", r"no rows in .*line 2 \(1 cells for 2 .*: bad_row"),
        ("image,caption\na.png,x\nb.png,caf\xe9 y\n".encode("latin-1"), "t.csv",
         "t.csv' cannot be read .line 3: byte 0xe9 is not UTF-8; perhaps Windows-1252"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as found:
            table(content, name)
        assert "\n" not in str(found.value)
    source = table('\n{"image": "a.png"}\n\n[1]\n{"image": "b.png"},\n', "t.jsonl")
    assert lost(source) == [("bad_json", 4), ("bad_json", 5)] and len(source) == 1


def test_a_giant_cell_is_no_caption(table):
    source = table("image,caption\na.png," + "x" * (2**20 + 1) + "\nb.png,y\n")
    assert lost(source) == [("bad_quotes", 2)] and rows(source) == {"b": ["y"]}


def test_a_row_knows_its_pictures_own_path(table, tmp_path):
    example = table("image,caption\n./sub/../a.png,one\n").metadata(0)
    assert example["key"] == "a" and example["path"] == str(tmp_path / "a.png")
