"""The numbers over masked pixels against a loop, and the sheet in the report."""

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import make_evaluator
from vlp_jax.evals.kits.samples import open_samples
from vlp_jax.report.gallery import draw_results


def paint(batch):
    """Grey pictures whose upper half is masked and painted 10 levels too bright."""
    target = batch["image"].astype(np.float32) / 255
    mask = np.zeros_like(target)
    mask[:, :4] = 1
    panels = [np.where(mask == 1, 0.5, target), mask, target + mask * 10 / 255, target]
    return np.stack(panels, axis=1), batch["index"]


def losses(batch):
    grey = batch["image"][:, 0, 0, 0].astype(np.float32)
    return np.stack([grey, 2 * grey], axis=1), batch["index"]


def test_numbers_and_sheet(memory_source, context, tmp_path):
    source = memory_source([0, 20, 40, 60, 80, 100])
    evaluator = make_evaluator("reconstruction", {"path": source, "shown": 3}, context())
    result = evaluator({"loss": losses, "reconstruct": paint})
    metrics = result.metrics
    assert (metrics["loss"], metrics["chance_loss"]) == (50, 100)
    assert metrics["masked_mse"] == pytest.approx((10 / 255) ** 2, rel=1e-5)
    assert metrics["masked_psnr"] == pytest.approx(20 * np.log10(25.5), rel=1e-5)
    assert metrics["masked_share"] == 0.5 and result.protocol == {"images": 6}
    panels = result.figures["panels"].panels
    greys = 20 * open_samples(source, 3).rows
    assert panels.shape == (3, 4, 8, 8, 3)
    np.testing.assert_allclose(panels[:, 3, 0, 0, 0] * 255, greys, atol=1e-4)
    drawn = draw_results({"painted": result}, str(tmp_path))
    ((caption, path),) = drawn.items()
    assert caption == "painted: answers"
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert set(greys.tolist()) <= set(np.unique(sheet[..., 0]))  # the targets' greys are on it


def test_a_limit_thins_and_an_empty_sheet_is_refused(memory_source, context):
    source = memory_source([0, 20, 40, 60, 80, 100])
    thin = make_evaluator("reconstruction", {"path": source, "limit": 2, "shown": 1}, context())
    result = thin({"loss": losses, "reconstruct": paint})
    assert result.metrics["loss"] == 20 * open_samples(source, 2).rows.mean()
    assert result.protocol["images"] == 2
    with pytest.raises(UserError, match="shown >= 1"):
        make_evaluator("reconstruction", {"path": source, "shown": 0}, context())
