"""The sheet of nearest pictures: itself left out, copies kept, one picture's numbers by hand."""

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import make_evaluator
from vlp_jax.report.gallery import draw_results


def angles(batch):
    """Grey g lies at g degrees of the unit circle, twice as long."""
    angle = np.deg2rad(batch["image"][:, 0, 0, 0].astype(np.float32))
    return 2 * np.stack([np.cos(angle), np.sin(angle)], 1), batch["index"]


def run(source, context, **config):
    return make_evaluator("neighbours", {"path": source, **config}, context())({"features": angles})


def test_the_nearest_others_and_their_cosine(memory_source, context):
    greys = [0, 90, 10, 80, 35]
    result = run(memory_source(greys), context, count=2, shown=5)
    found = [[0, 2, 4], [1, 3, 4], [2, 0, 4], [3, 1, 4], [4, 2, 0]]
    assert result.figures["neighbours"].rows.tolist() == found
    nearest = np.cos(np.deg2rad([10, 10, 10, 10, 25])).mean()
    apart = np.deg2rad(np.abs(np.subtract.outer(greys, greys)))[~np.eye(5, dtype=bool)]
    wanted = {"nearest_cosine": nearest, "chance_nearest_cosine": np.cos(apart).mean()}
    assert result.metrics == pytest.approx(wanted, rel=1e-5)
    assert result.protocol["images"] == 5


def test_copies_are_neighbours_and_a_picture_is_never_its_own(memory_source, context):
    found = (
        run(memory_source([30] * 6 + [60]), context, count=3, shown=7).figures["neighbours"].rows
    )
    assert all(row[0] not in row[1:] for row in found[:6].tolist())
    assert set(found[6, 1:].tolist()) <= set(range(6)) and found.shape == (7, 4)
    few = run(memory_source([30, 60]), context, count=3, shown=7).figures["neighbours"].rows
    assert few.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(UserError, match="at least 2 pictures"):
        run(memory_source([1]), context)
    with pytest.raises(UserError, match=r"shown, count >= 1, got 0, 6"):
        run(memory_source([1, 2]), context, shown=0)


def test_a_damaged_picture_moves_no_other_and_the_sheet_is_drawn(memory_source, context, tmp_path):
    source = memory_source([0, 0, 90, 8, 82], damaged={1})
    result = run(source, context, count=1, shown=2)
    assert result.figures["neighbours"].rows.tolist() == [[0, 2], [2, 0]]
    assert result.details["kept"].tolist() == [0, 2, 3, 4]
    ((caption, path),) = draw_results({"mine": result}, str(tmp_path)).items()
    assert caption == "mine: pictures and those nearest to them"
    pixels = np.asarray(Image.open(path).convert("L")).astype(int)
    assert pixels.shape[0] > 300
    for grey in (0, 8):  # 0 is nearest to 8; 8 to 0; 90 and 82 are not drawn
        assert (pixels == grey).sum() > 5000
    assert (pixels == 90).sum() + (pixels == 82).sum() < 500
