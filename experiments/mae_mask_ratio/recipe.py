"""MAE, figure 5: how much to hide (arXiv:2111.06377; ViT-L, 800 epochs, ImageNet-1k).

Verified against the text: 54.6 at 10 % and 73.5 at 75 %, linear; the others are read off the
figure.
"""

from vlp_jax.cli.study import Cell, Column, DataSet, Run, Study, Trend

LINEAR = {
    **{0.1: 54.6, 0.2: 58.9, 0.3: 61.7, 0.4: 67.0, 0.5: 69.9},
    **{0.6: 71.8, 0.7: 73.2, 0.75: 73.5, 0.8: 71.8, 0.9: 66.1},
}
TUNED = {
    **{0.1: 83.2, 0.2: 83.4, 0.3: 83.4, 0.4: 84.7, 0.5: 84.9},
    **{0.6: 85.0, 0.7: 84.9, 0.75: 84.9, 0.8: 84.5, 0.9: 83.0},
}
SMALL = (0.1, 0.3, 0.5, 0.75, 0.9)  # of the small form: two to four minutes each


def get_study(full: bool, data: DataSet) -> Study:
    """The published sweep, or five ratios on `data`."""
    columns = {"linear": Column("linear.test.top1" if full else "probe.top1")}
    if full:
        columns["fine-tuned"] = Column("tuned.test.top1")
    small = {
        **{"data.path": data.train, "steps": 500, "optim.warmup_steps": 50},
        **{"batch_size": 128, "checkpoint_every": 250},
    }
    published = {"method.norm_pix": False}
    cells = {
        f"{ratio:g}": Cell(
            config="configs/mae/pretrain.py:ViT-L-16" if full else "configs/mae/tiny.py",
            changes={**(published if full else small), "method.mask_ratio": ratio},
            paper={"linear": LINEAR[ratio], **({"fine-tuned": TUNED[ratio]} if full else {})},
        )
        for ratio in (LINEAR if full else SMALL)
    }
    start = {"init_from": "{run}:image/.*"}
    tuned = {"init_from": "{run}:image/(?!norm_post).*"}
    after = {
        "linear": Run(config="configs/classify/linear_probe.py:ViT-L-16", changes=start),
        "tuned": Run(config="configs/classify/finetune.py:ViT-L-16", changes=tuned),
    }
    return Study(
        title="MAE, figure 5: mask ratio, linear probe top-1 (%)",
        cells=cells,
        evals={} if full else {"probe": data.evaluator(), "knn": data.evaluator("knn")},
        columns=columns,
        trends=(
            Trend("0.75 beats 0.1", lambda v: v["0.75"]["linear"] > v["0.1"]["linear"]),
            Trend("0.75 beats 0.9", lambda v: v["0.75"]["linear"] > v["0.9"]["linear"]),
            Trend("0.5 beats 0.1", lambda v: v["0.5"]["linear"] > v["0.1"]["linear"]),
        ),
        follow_ups=after if full else {},
    )
