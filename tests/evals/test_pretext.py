"""The pretext evaluator: means beside chance, panels, and the sheet."""

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import make_evaluator
from vlp_jax.report.gallery import draw_results


def fns():
    def task(batch):
        grey = batch["image"][:, 0, 0, 0] / 100
        rows = np.stack([grey, np.full_like(grey, 0.25), np.ones_like(grey)], 1)
        heavy = np.stack([grey, 1 - grey, grey], 1)  # weighted by itself
        return np.stack([rows, heavy], 1).astype(np.float32), batch["index"]

    def show(batch):
        picture = batch["image"].astype(np.float32) / 255
        return np.stack([picture, 1 - picture], 1), batch["index"]

    return {"task": task, "show": show}


def test_score_chance_and_sheet(memory_source, context, tmp_path):
    source = memory_source([10, 20, 30, 40, 50])
    config = {"path": source, "metric": "auc", "titles": ("a", "b"), "shown": 3}
    result = make_evaluator("pretext", config, context())(fns())
    assert result.metrics == pytest.approx({"auc": 0.3, "chance_auc": 0.25})
    assert result.figures["panels"].panels.shape == (3, 2, 8, 8, 3)
    (path,) = draw_results({"mine": result}, str(tmp_path)).values()
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[0] > pixels.shape[1] * 0.8 and (pixels < 40).any()
    white = (pixels == 255).all(-1).mean()
    assert 0.05 < white < 0.8


def test_several_scores_are_weighted_means(memory_source, context):
    config = {"path": memory_source([10, 20, 30]), "metric": "auc,auc_rebalanced"}
    found = make_evaluator("pretext", config, context())(fns()).metrics
    grey = np.array([0.1, 0.2, 0.3])
    wanted = {"auc": 0.2, "chance_auc": 0.25, "auc_rebalanced": (grey**2).sum() / 0.6}
    wanted["chance_auc_rebalanced"] = (grey * (1 - grey)).sum() / 0.6
    assert found == pytest.approx(wanted, rel=1e-6)


def test_titles_and_names_must_fit(memory_source, context):
    config = {"path": memory_source([1, 2]), "titles": ("a",)}
    with pytest.raises(UserError, match="titles: 1 of them for 2 panels"):
        make_evaluator("pretext", config, context())(fns())
    config = {"path": memory_source([1, 2]), "metric": "a,b,c"}
    with pytest.raises(UserError, match="metric: 3 names for 2 scores"):
        make_evaluator("pretext", config, context())(fns())
