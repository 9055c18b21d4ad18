"""Predictive, contrastive and generative pre-training on the same trunk, data and budget: one
figure.

No single paper has this table. The numbers beside ours are ImageNet linear top-1 that the papers
give for trunks of their own: rotation 48.9 and SimCLR 69.3 (ResNet-50), MAE 68.0 and supervised
82.3 (ViT-B).
"""

from configs.pretext.common import vit
from experiments import common
from vlp_jax.api.study import Cell, DataSet, Study, Trend

SUPERVISED, RANDOM = "supervised", "random init"
FAMILIES = {  # name: (small recipe, published recipe, the papers' number)
    "predictive: rotation": ("pretext/rotation.py:tiny", "pretext/rotation.py", 48.9),
    "contrastive: SimCLR": ("simclr/tiny.py", "simclr/imagenet.py", 69.3),
    "generative: MAE": ("mae/tiny.py", "mae/pretrain.py:ViT-B-16", 68.0),
}
LABELLED = ("classify/tiny.py", "classify/supervised.py:ViT-B-16", 82.3)


def get_study(full: bool, data: DataSet) -> Study:
    """One ViT, one optimiser and one number of pictures for all, whatever a method makes of a
    picture: four layers of 64, or ViT-B/16 for 100 epochs of ImageNet.
    """
    same = {"optim.name": "adamw", "optim.lr": 1e-3, "optim.weight_decay": 0.05}
    same |= {"optim.b2": 0.95, "optim.clip_norm": 1.0}
    if full:
        same |= {"data.path": "tfds:imagenet2012:train", "epochs": 100.0, "batch_size": 4096}
        same |= {"optim.lr": 2.4e-3, "optim.warmup_epochs": 10.0}
    else:
        same |= common.small(data, 600, 64)
    trunk = vit(224, 16, 768, 12) if full else vit(48, 8, 64, 4)
    labels = {} if full else {"data.label": data.label, "method.num_classes": data.num_classes}
    untrained = {"optim.lr": 0.0, "steps": 1, "optim.warmup_steps": 0}
    rows = {name: (row, {}) for name, row in FAMILIES.items()}
    rows |= {SUPERVISED: (LABELLED, labels)}
    rows |= {RANDOM: ((*LABELLED[:2], None), {**labels, **untrained})}
    cells = {}
    for name, (row, own) in rows.items():
        changes = {**same, **own}
        if name == RANDOM:
            changes = {k: v for k, v in changes.items() if "epochs" not in k}
        paper = {"linear": row[2]} if row[2] else {}
        cells[name] = Cell(config=f"configs/{row[full]}", changes=changes, image=trunk, paper=paper)

    def value(v: dict, name: str) -> float:
        return v[name]["linear"]

    return Study(
        title="Three families on one trunk, linear accuracy (%)",
        minutes=0 if full else 20,
        cells=cells,
        evals=common.evaluators(full, data),
        columns={"linear": common.linear(full)},
        trends=(
            Trend(
                "every family beats random init",
                lambda v: all(value(v, name) > value(v, RANDOM) for name in FAMILIES),
            ),
            Trend(
                "prediction is the weakest family",
                lambda v: value(v, next(iter(FAMILIES))) == min(value(v, n) for n in FAMILIES),
            ),
        ),
        follow_ups=common.simclr_follow_ups(full),
    )
