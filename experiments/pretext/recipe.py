"""Every self-supervised method on one probe table, beside labels, random weights and raw pixels.

Paper: linear classifiers on AlexNet's conv5, ImageNet top-1, as Split-Brain Autoencoders (Zhang et
al., 2017) collect them; RotNet's from arXiv:1803.07728 (unverified). Bags of words have no number
there; MAE's is a ViT-B's and SimCLR's a ResNet-50's, their own trunks. Our bags of words have
rotation's tower as their frozen teacher, as published, and start from it. Our raw pixels are of 16
x 16.
"""

from configs.pretext.common import vit
from experiments import common
from vlp_jax.api.study import Cell, DataSet, Study, Trend

TASKS = {
    "context": 29.6,
    "jigsaw": 28.3,
    "rotation": 36.5,
    "bow": None,
    "colorization": 31.8,
    "inpainting": 15.5,
    "denoising": 12.3,
}
STARTS = {"bow": "rotation"}  # whose tower is the frozen teacher
OTHERS = {  # name: (small recipe, published recipe, the paper's number)
    "mae": ("mae/tiny.py", "mae/pretrain.py:ViT-B-16", 68.0),
    "simclr": ("simclr/tiny.py", "simclr/imagenet.py", 69.3),
    "supervised": ("classify/tiny.py", "classify/supervised.py", 50.5),
    "random init": ("classify/tiny.py", "classify/supervised.py", 14.1),
}
LABELS, RANDOM, PIXELS = "supervised", "random init", "raw pixels"


def get_study(full: bool, data: DataSet) -> Study:
    """Each task as its recipe has it, the trunk's size follows the pieces that it sees; the others
    on the trunk of rotation. Tasks of colour are left out where pictures have none.
    """
    own = {"data.path": "tfds:imagenet2012:train"} if full else common.small(data, 300, 64)
    narrow = {} if full else common.NARROW
    tasks = {n: v for n, v in TASKS.items() if full or not (data.grey and n == "colorization")}
    frozen = {"method.momentum": 1.0}
    cells = {
        name: Cell(
            config=f"configs/pretext/{name}.py" + ("" if full else ":tiny"),
            changes={**own, **narrow, **(frozen if name in STARTS else {})},
            start=STARTS.get(name, ""),
            paper={} if number is None else {"linear": number},
        )
        for name, number in tasks.items()
    }
    labels = {} if full else {"data.label": data.label, "method.num_classes": data.num_classes}
    untrained = {**labels, "optim.lr": 0.0, "steps": 1, "optim.warmup_steps": 0}
    changes = {LABELS: labels, RANDOM: untrained}
    trunk = {} if full else vit(48, 8, 64, 4)
    for name, (*recipes, number) in OTHERS.items():
        cells[name] = Cell(
            config=f"configs/{recipes[full]}",
            changes={**own, **changes.get(name, {})},
            image=trunk,
            paper={"linear": number},
        )
    if not full:
        probe = {"probe": data.evaluator(features="pixels")}
        pixels = {**own, **untrained, "image_size": 16}
        cells[PIXELS] = Cell(config=f"configs/{OTHERS[RANDOM][0]}", changes=pixels, evals=probe)

    def value(v: dict, name: str) -> float:
        return v[name]["linear"]

    return Study(
        title="Pretext tasks, labels, random weights and pixels: linear accuracy (%)",
        minutes=0 if full else 20,
        cells=cells,
        evals={} if full else {"probe": data.evaluator()},
        columns={"linear": common.linear(full)},
        trends=(
            Trend(
                "every task but denoising beats random init",
                lambda v: all(value(v, n) > value(v, RANDOM) for n in tasks if n != "denoising"),
            ),
            Trend(
                "no task reaches labels",
                lambda v: all(value(v, name) < value(v, LABELS) for name in tasks),
            ),
            Trend(
                "rotation beats the context encoder",
                lambda v: value(v, "rotation") > value(v, "inpainting"),
            ),
            Trend(
                "rotation beats the denoising autoencoder",
                lambda v: value(v, "rotation") > value(v, "denoising"),
            ),
        ),
        follow_ups=common.simclr_follow_ups(full),
    )
