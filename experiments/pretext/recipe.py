"""All pretext tasks on one probe table, beside labels, random weights and raw pixels.

Paper: linear classifiers on AlexNet's conv5, ImageNet top-1, as Split-Brain Autoencoders (Zhang et
al., 2017) collect them; RotNet's from arXiv:1803.07728 (unverified). Bags of words have no number
there.
"""

from experiments import common
from vlp_jax.cli.study import Cell, DataSet, Study, Trend

PAPER = {
    "context": 29.6,
    "jigsaw": 28.3,
    "rotation": 36.5,
    "bow": None,
    "colorization": 31.8,
    "inpainting": 15.5,
    "denoising": 12.3,
}
LABELS, RANDOM, PIXELS = "supervised", "random init", "raw pixels"


def get_study(full: bool, data: DataSet) -> Study:
    """Each task as its recipe has it: the trunk's size follows the pieces that it sees."""
    own = {"data.path": "tfds:imagenet2012:train"} if full else common.small(data, 300, 64)
    cells = {
        name: Cell(
            config=f"configs/pretext/{name}.py" + ("" if full else ":tiny"),
            changes=own,
            paper={} if number is None else {"linear": number},
        )
        for name, number in PAPER.items()
    }
    labelled = "configs/classify/" + ("supervised.py" if full else "tiny.py")
    labels = dict(own)
    if not full:  # the sizes of rotation's trunk
        labels |= {"data.label": data.label, "method.num_classes": data.num_classes}
        labels |= {"image_size": 48, "method.image.patch_size": 8}
    untrained = {**labels, "optim.lr": 0.0, "steps": 1, "optim.warmup_steps": 0}
    cells[LABELS] = Cell(config=labelled, changes=labels, paper={"linear": 50.5})
    cells[RANDOM] = Cell(config=labelled, changes=untrained, paper={"linear": 14.1})
    if not full:
        probe = {"probe": data.evaluator(features="pixels")}
        changes = {**untrained, "image_size": 32}
        cells[PIXELS] = Cell(config=labelled, changes=changes, evals=probe)

    def value(v: dict, name: str) -> float:
        return v[name]["linear"]

    return Study(
        title="Pretext tasks, labels, random weights and pixels: linear top-1 (%)",
        cells=cells,
        evals={} if full else {"probe": data.evaluator()},
        columns={"linear": common.linear(full)},
        trends=(
            Trend(
                "every task but denoising beats random init",
                lambda v: all(value(v, n) > value(v, RANDOM) for n in PAPER if n != "denoising"),
            ),
            Trend(
                "no task reaches labels",
                lambda v: all(value(v, name) < value(v, LABELS) for name in PAPER),
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
