"""MAE, Tables 1d and 1f: the target and which patches are hidden (arXiv:2111.06377; ViT-L, 800
epochs).
"""

from experiments import common
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend

# name: (masking, mask ratio, norm_pix, linear, fine-tuned)
TABLE = {
    "random 75": ("random", 0.75, False, 73.5, 84.9),
    "block 50": ("block", 0.5, False, 72.3, 83.9),
    "block 75": ("block", 0.75, False, 63.9, 82.8),
    "grid 75": ("grid", 0.75, False, 66.0, 84.0),
    "random 75, norm-pix": ("random", 0.75, True, 73.9, 85.4),
}


def get_study(full: bool, data: DataSet) -> Study:
    """The same five cells at both scales."""
    columns = {"linear": common.linear(full)}
    if full:
        columns["fine-tuned"] = Column("tuned.test.top1")
    cells = {}
    for name, (masking, ratio, norm_pix, probed, tuned) in TABLE.items():
        own = {"method.masking": masking, "method.mask_ratio": ratio, "method.norm_pix": norm_pix}
        cells[name] = Cell(
            config=common.MAE_FULL if full else common.MAE_SMALL,
            changes={**({} if full else common.small_mae(data, 8, 1200)), **own},
            paper={"linear": probed, **({"fine-tuned": tuned} if full else {})},
        )

    def beats(better: str, worse: str) -> Trend:
        return Trend(f"{better} beats {worse}", lambda v: v[better]["linear"] > v[worse]["linear"])

    return Study(
        title="MAE, Tables 1d and 1f: mask sampling and target, linear accuracy (%)",
        minutes=0 if full else 10,
        cells=cells,
        evals=common.evaluators(full, data),
        columns=columns,
        trends=(
            beats("random 75", "block 75"),
            beats("random 75", "grid 75"),
            beats("block 50", "block 75"),
            beats("random 75, norm-pix", "random 75"),
        ),
        follow_ups=common.mae_follow_ups(full),
    )
