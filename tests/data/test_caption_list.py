"""Flickr30k as downloaded: the list of its release, Kaggle's, and pictures in a folder below."""

import numpy as np
import pytest
from generated import encode

from vlp_jax.core.errors import UserError
from vlp_jax.data.open import open_source

TOKEN = """1000092795.jpg#0\tTwo young guys with shaggy hair look at their hands .
1000092795.jpg#1\t" Two young , White males " are outside near many bushes .
10002456.jpg#0\tSeveral men in hard hats are operating a giant pulley system .
1000092795.jpg#2\tA man in a 5" | wide shirt .
"""
BARRED = """image_name| comment_number| comment
1000092795.jpg| 0|  Two young guys with shaggy hair look at their hands .
1000092795.jpg| 1|  " Two young , White males " are outside near many bushes .
2199200615.jpg| 3|  A black dog and a brown dog .
2199200615.jpg| 4   A dog runs across the grass .
1000092795.jpg| 2|  A man in a 5" | wide shirt .
10002456.jpg| 0|  Several men in hard hats are operating a giant pulley system .
"""
CAPTIONS = [
    "Two young guys with shaggy hair look at their hands .",
    '" Two young , White males " are outside near many bushes .',
    'A man in a 5" | wide shirt .',
]


def unpacked(root, below, name, content):
    """Pictures of single grey levels in a folder below the list."""
    (root / below).mkdir(parents=True)
    for level, stem in enumerate(("1000092795", "10002456", "2199200615")):
        picture = encode(np.full((6, 8, 3), 10 * level, np.uint8), "JPEG")
        (root / below / f"{stem}.jpg").write_bytes(picture)
    (root / name).write_text(content)
    return root


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("below", [".", "flickr30k-images", "flickr30k_images/flickr30k_images"])
def test_the_release(tmp_path, below, whole):
    root = unpacked(tmp_path / "f", below, "results_20130124.token", TOKEN)
    source = open_source(str(root if whole else root / "results_20130124.token"))
    assert [source.metadata(i)["key"] for i in range(len(source))] == ["1000092795", "10002456"]
    assert source.metadata(0)["text"] == CAPTIONS and not source.damage
    assert source[1]["image"] == (root / below / "10002456.jpg").read_bytes()


def test_kaggles_table_and_its_broken_row(tmp_path):
    root = unpacked(tmp_path / "f", "flickr30k_images", "results.csv", BARRED)
    source = open_source(str(root))
    found = {e["key"]: e["text"] for e in map(source.metadata, range(len(source)))}
    assert found["1000092795"] == CAPTIONS and len(found) == 3
    assert found["2199200615"] == ["A black dog and a brown dog ."]
    assert [(d.reason, d.where.split(": ")[1]) for d in source.damage] == [
        ("bad_row", "line 5 (no NAME| NUMBER| caption)")
    ]


def test_other_tables_stay_what_they_are(tmp_path):
    root = unpacked(tmp_path / "f", ".", "results.csv", "image,caption\n10002456.jpg,a\n")
    (root / "10002456.txt").write_text("b")
    assert open_source(f"captions:{root}").metadata(0)["text"] == ["b"]
    assert open_source(str(root / "results.csv")).metadata(0)["text"] == ["a"]
    (root / "empty.token").write_text("\n")
    with pytest.raises(UserError, match="no rows"):
        open_source(str(root / "empty.token"))
