"""MAE, figure 5: how much to hide (arXiv:2111.06377; ViT-L, 800 epochs, ImageNet-1k).

Verified against the text: 54.6 at 10 % and 73.5 at 75 %, linear; the others are read off the
figure.
"""

from experiments import common
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend

LINEAR = {
    **{0.1: 54.6, 0.2: 58.9, 0.3: 61.7, 0.4: 67.0, 0.5: 69.9},
    **{0.6: 71.8, 0.7: 73.2, 0.75: 73.5, 0.8: 71.8, 0.9: 66.1},
}
TUNED = {
    **{0.1: 83.2, 0.2: 83.4, 0.3: 83.4, 0.4: 84.7, 0.5: 84.9},
    **{0.6: 85.0, 0.7: 84.9, 0.75: 84.9, 0.8: 84.5, 0.9: 83.0},
}
SMALL = (0.1, 0.3, 0.5, 0.75, 0.9)  # ratios of the small form


def get_study(full: bool, data: DataSet) -> Study:
    """The published sweep, or five ratios on `data`."""
    shared = {"method.norm_pix": False} | ({} if full else common.small_mae(data, 8, 1200))
    columns = {"linear": common.linear(full)}
    if full:
        columns["fine-tuned"] = Column("tuned.test.top1")
    cells = {
        f"{ratio:g}": Cell(
            config=common.MAE_FULL if full else common.MAE_SMALL,
            changes={**shared, "method.mask_ratio": ratio},
            paper={"linear": LINEAR[ratio], **({"fine-tuned": TUNED[ratio]} if full else {})},
        )
        for ratio in (LINEAR if full else SMALL)
    }
    return Study(
        title="MAE, figure 5: mask ratio, linear accuracy (%)",
        minutes=0 if full else 9,
        cells=cells,
        evals=common.evaluators(full, data),
        columns=columns,
        trends=(
            Trend("0.75 beats 0.1", lambda v: v["0.75"]["linear"] > v["0.1"]["linear"]),
            Trend("0.75 beats 0.9", lambda v: v["0.75"]["linear"] > v["0.9"]["linear"]),
            Trend("0.5 beats 0.1", lambda v: v["0.5"]["linear"] > v["0.1"]["linear"]),
        ),
        follow_ups=common.mae_follow_ups(full),
    )
