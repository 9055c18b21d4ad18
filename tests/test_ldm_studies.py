"""The studies of latent diffusion: what they see in pictures, and what their words stand for."""

import numpy as np
from PIL import Image

from experiments.ldm_tiny import concepts, pictures


def square(colour, at=8, size=12, side=32):
    pixels = np.full((side, side, 3), 255, np.uint8)
    pixels[at : at + size, at : at + size] = colour
    return Image.fromarray(pixels)


def test_edges_may_be_a_pixel_off_and_no_more():
    scene, empty = square((200, 30, 30)), square((255, 255, 255))
    assert pictures.edge_f1(scene, scene) == pictures.edge_f1(empty, empty) == 1
    assert pictures.edge_f1(square((30, 30, 200), at=9), scene) > 0.9
    assert pictures.edge_f1(square((200, 30, 30), at=12), scene) < 0.6
    assert pictures.edge_f1(empty, scene) == pictures.edge_f1(scene, empty) == 0


def test_a_colour_is_counted_where_there_is_one():
    teal = pictures.recoloured(square((200, 30, 30)), 128)
    assert pictures.share_of(teal, 128) == 1 and pictures.share_of(teal, 0) == 0
    assert pictures.share_of(square((250, 20, 40)), 2) == 1  # the circle of hues is closed
    assert pictures.share_of(square((90, 95, 100)), 150) == 0  # grey has none
    paper = np.asarray(teal)[0, 0]
    assert (paper == 255).all()


def test_pictures_are_written_beside_their_captions(tmp_path):
    pictures.save(tmp_path / "own", [square((1, 2, 3))] * 2, ["a sks pig", "an apple"])
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "00000.png", "00000.txt", "00001.png", "00001.txt",
    ]  # fmt: skip
    assert (tmp_path / "own" / "00000.txt").read_text() == "a sks pig\n"
    assert pictures.caption("apple", "sks") == "a sks apple"
    assert pictures.caption("umbrella") == "an umbrella"


def test_the_vocabulary_is_filled_up_once(tmp_path, monkeypatch):
    made = []

    def prepare(name, out, **how):
        made.append(how["kinds"])
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nan\n")

    monkeypatch.setattr("vlp_jax.api.data.prepare", prepare)
    monkeypatch.setattr(concepts, "CONCEPTS", tmp_path)
    for _ in range(2):
        concepts.prepare_concepts([])
    words = (tmp_path / "vocab.txt").read_text().splitlines()
    assert len(words) == len(set(words)) == concepts.VOCABULARY
    assert words[:4] == ["[PAD]", "[UNK]", "an", concepts.WORD] and made == [16]
