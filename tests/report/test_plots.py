"""Numbers behind the pictures, and that odd captions neither crash nor overflow them."""

import json

import numpy as np
import pytest
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import Result
from vlp_jax.report import gallery, heatmap, plots
from vlp_jax.report.canvas import new_figure, printable, save, wrapped
from vlp_jax.report.contact import contact_sheet, rows_in
from vlp_jax.report.heatmap import similarity_table, softmax
from vlp_jax.report.plots import (
    per_class,
    principal_plane,
    read_metrics,
    shared_space,
    smooth,
    training_curve,
)

ODD = [
    "$1 and \\frac{$2",
    "dog \U0001f436 \ufe0f\u200dface",
    "\u65e5\u672c",
    "x" * 500,
    "",
    "a\nb\tc",
    "\x07",
]


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_metrics_are_read_in_order_of_step_without_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 2, "loss": 5.0}, {"step": 1, "loss": 9.0}, {"step": 2, "loss": 4.0}, {"x": 1}]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "lo')
    assert read_metrics(str(path)) == [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 4.0}]
    with pytest.raises(UserError, match="no metrics at"):
        read_metrics(str(tmp_path / "absent.jsonl"))


def test_smoothing_is_a_centred_mean():
    values = np.array([1.0, 2, 6, 3, 8])
    np.testing.assert_allclose(smooth(values, 1), [1.5, 3, 11 / 3, 17 / 3, 5.5])
    np.testing.assert_allclose(smooth(values, 0), values)


def test_training_curve_draws_the_loss_and_survives_gaps(tmp_path):
    path, out = tmp_path / "m.jsonl", str(tmp_path / "c.png")
    rows = [{"step": s, "loss": float("nan") if s == 3 else 9.0 - s} for s in range(1, 9)]
    path.write_text("\n".join(map(json.dumps, [*rows, {"step": 9, "e/top1": 0.5}])))
    with_evals = picture(training_curve(str(path), out, ["e/top1", "absent"]))
    without = picture(training_curve(str(path), out))
    assert len(with_evals) > len(without)  # a second panel
    blue = (without == [0x00, 0x72, 0xB2]).all(axis=-1)
    assert blue.any(axis=0).sum() > 600  # over the whole width, also after the gap
    path.write_text("")
    training_curve(str(path), out)


def test_the_curves_are_the_logged_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save", lambda figure, out: figure)
    path = tmp_path / "m.jsonl"
    rows = [{"step": s, "loss": 9.0 - s} for s in range(1, 4)]
    rows += [{"step": 2, "e/top1": 0.5}, {"step": 3, "e/top1": 0.75, "f/r1": 0.1}]
    path.write_text("\n".join(map(json.dumps, rows)))
    loss, evals = training_curve(str(path), "", ["e/top1", "absent", "f/r1"]).axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[1, 8], [2, 7], [3, 6]])
    assert loss.get_title(loc="left") == "Training loss from 8 to 6 in 3 steps"
    drawn = {line.get_label(): line.get_xydata().tolist() for line in evals.lines}
    assert drawn == {"e/top1": [[2, 0.5], [3, 0.75]], "f/r1": [[3, 0.1]]}


def test_the_methods_own_numbers_have_small_panels(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save", lambda figure, out: figure)
    path = tmp_path / "m.jsonl"
    rows = [
        {"step": s, "loss": 9.0 - s, "lr": 0.1, "itm": 1.0 / s, "itc": 5.0 - s, "f/r1": 0.1}
        | {"alpha": float("nan"), "grad_norm": 2.0, "time": 5.0, "right": s / 4, "a": 1, "b": 2}
        for s in range(1, 4)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    figure = training_curve(str(path), "", ["f/r1"])
    loss, evals, *own = figure.axes
    assert loss.get_xlabel() == "" and evals.get_xlabel() == "step"
    drawn = {
        axes.get_title(loc="left").split()[0]: axes.lines[0].get_ydata().tolist() for axes in own
    }
    assert drawn == {"itm": [1, 1 / 2, 1 / 3], "itc": [4, 3, 2], "right": [0.25, 0.5, 0.75],
                     "a": [1, 1, 1], "b": [2, 2, 2]}  # fmt: skip
    assert own[1].get_title(loc="left") == "itc  2"
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))
    assert boxes[2].y1 < boxes[1].y0 < boxes[0].y0 and boxes[6].y1 < boxes[2].y0


def test_principal_plane_is_the_best_plane_and_reproducible():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6)) * [5, 3, 1, 1, 1, 0.1]
    plane, share = principal_plane(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    expected = (rows - rows.mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(plane), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(share, values[[-1, -2]] / values.sum())
    assert (plane[np.abs(plane).argmax(axis=0), [0, 1]] > 0).all()
    np.testing.assert_allclose(principal_plane(rows[:, ::-1])[0], plane)


def test_text_the_font_lacks_becomes_its_name():
    assert printable("a \U0001f436!") == "a (dog face)!"
    assert printable("\u65e5") == "(U+65E5)"
    assert printable("x\ufe0f\u200d y\nz") == "x y z"
    assert printable("abcdef", 4) == "abc…"
    assert wrapped("one two three four", 8, 2) == "one two\nthree…"
    assert wrapped("one two", 8, 2) == "one two"
    for text in ODD:
        lines = wrapped(text, 10, 3).split("\n")
        assert len(lines) <= 3 and max(map(len, lines)) <= 10


def test_softmax_rows_sum_to_one_without_overflow():
    share = softmax(np.array([[1000.0, 1001.0], [0.0, 0.0]]))
    np.testing.assert_allclose(share, [[1 / (1 + np.e), np.e / (1 + np.e)], [0.5, 0.5]])


def test_heat_map_colours_the_chosen_cell_and_frames_the_right_one(tmp_path):
    blank = np.full((16, 16, 3), 255, np.uint8)
    cosine = np.zeros((2, len(ODD)))
    cosine[0, 3] = cosine[1, 0] = 1
    plain = picture(similarity_table([blank] * 2, ODD, cosine, str(tmp_path / "a.png")))
    framed = picture(
        similarity_table([blank] * 2, ODD, cosine, str(tmp_path / "b.png"), 100, [3, 0])
    )
    dark = (plain.sum(axis=-1) < 250) & (plain[..., 2] > 90)  # the dark end of Blues
    assert 2 * 60**2 < dark.sum() < 2 * 90**2  # two cells of 79 pixels
    frame = np.abs(framed - [0xD5, 0x5E, 0x00]).sum(axis=-1) < 10
    assert frame.sum() > 400 and not (np.abs(plain - [0xD5, 0x5E, 0x00]).sum(axis=-1) < 10).any()


def test_heat_map_says_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmap, "save", lambda figure, out: [t.get_text() for t in figure.texts])
    blank = np.full((16, 16, 3), 255, np.uint8)
    told = similarity_table([blank] * 2, ["a", "b"], np.eye(2), "", scale=14.284)
    assert told[1] == "Softmax of 14.28 x cosine over the prompts of a row; bold: the choice"


def entry(kind, found, hits):
    common = {"rank": 3, "of": 9, "hits": hits, "scores": [0.5] * len(found)}
    if kind == "i2t":
        return {"image": 4, "right": [ODD[0]], "found": [ODD[i] for i in found], **common}
    return {"text": ODD[3], "right": [6], "found": found, **common}


@pytest.mark.parametrize("kind", ["i2t", "t2i"])
def test_contact_sheet_marks_hits_in_green(kind, tmp_path):
    pictures = {i: np.full((8, 8, 3), 200, np.uint8) for i in range(7)}
    greens = []
    for hit in (False, True):
        entries = {"best": [entry(kind, [1, 2, 5], [False, hit, False])], "worst": []}
        assert rows_in(entries) == ([4] if kind == "i2t" else [1, 2, 5, 6])
        sheet = picture(contact_sheet(entries, pictures, str(tmp_path / "s.png")))
        greens.append((np.abs(sheet - [0x00, 0x9E, 0x73]).sum(axis=-1) < 10).sum())
    assert greens[1] > greens[0] + 20


def test_shared_space_and_per_class_survive_odd_labels(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 7, 4))
    image = picture(shared_space(*rows, str(tmp_path / "s.png"), ODD))
    for color in ([0x00, 0x72, 0xB2], [0xE6, 0x9F, 0x00]):  # both modalities are drawn
        assert (image == color).all(axis=-1).sum() > 50
    table = [{"class": name, "images": 3, "recall": i / 7} for i, name in enumerate(ODD)]
    short = picture(per_class(table[:3], str(tmp_path / "c.png")))
    long = picture(per_class(table * 20, str(tmp_path / "c.png"), shown=10))
    assert len(short) < len(long) < 600  # 10 of 140 classes are drawn


def marks(monkeypatch, count, **how):
    """({label: its box}, {grey of a thumbnail: its box}, axes) of `count` pairs in a space."""
    monkeypatch.setattr(plots, "save", lambda figure, out: figure)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, count, 4))
    labels = [f"pair {i}" for i in range(count)]
    thumbnail = lambda i: np.full((96, 96, 3), i, np.uint8)  # noqa: E731
    figure = shared_space(*rows, "", labels, thumbnail=thumbnail, **how)
    (axes,), renderer = figure.axes, figure.canvas.get_renderer()
    boxes = [a for a in axes.artists if isinstance(a, AnnotationBbox)]
    words = {int(t.get_text().split()[1]): t.get_window_extent(renderer) for t in axes.texts}
    for box in boxes:
        box.update_positions(renderer)
    pictures = {
        int(box.offsetbox.get_data()[0, 0, 0]): box.patch.get_window_extent(renderer)
        for box in boxes
    }
    return words, pictures, axes


def covered(boxes):
    """How many of some boxes overlap an earlier one."""
    boxes = list(boxes)
    return sum(box.count_overlaps(boxes[:i]) > 0 for i, box in enumerate(boxes))


def test_few_pairs_all_have_label_and_thumbnail(monkeypatch):
    words, pictures, axes = marks(monkeypatch, 9)
    assert set(words) == set(pictures) == set(range(9))
    assert covered([*pictures.values(), *words.values()]) == 0
    assert all(axes.bbox.count_overlaps([box]) for box in [*words.values(), *pictures.values()])


def test_of_many_pairs_some_have_both_and_none_covers_another(monkeypatch):
    words, pictures, axes = marks(monkeypatch, 80, named=7)
    assert set(words) == set(pictures) and len(words) == 7
    assert covered([*pictures.values(), *words.values()]) == 0
    frame = axes.bbox
    for box in (*words.values(), *pictures.values()):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_a_figure_is_never_half_written(tmp_path):
    figure = new_figure(2, 2)
    figure.text(0.5, 0.5, "ok")
    path = save(figure, str(tmp_path / "deep" / "x.png"))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.png"] and path.endswith("x.png")


def test_the_curve_shows_what_each_evaluator_logged(monkeypatch, tmp_path):
    seen = []
    draw = lambda metrics, path, evals: seen.append((metrics, evals)) or path  # noqa: E731
    monkeypatch.setattr(gallery, "training_curve", draw)
    drawn = gallery.draw_results({"a": Result({}), "b": Result({})}, str(tmp_path), metrics="LOG")
    wanted = [f"{name}/{key}" for name in "ab" for key in ("i2t_r1", "t2i_r1", "top1")]
    assert seen == [("LOG", wanted)]
    assert drawn == {"Training": str(tmp_path / "training_curve.png")}


def test_fonts_that_are_not_there_stand_in_for_nothing():
    from vlp_jax.report.canvas import FAMILIES, installed

    assert installed(("No Such Sans", "DejaVu Serif")) == ["DejaVu Serif"]
    assert FAMILIES[0] in ("sans-serif", "DejaVu Sans")
