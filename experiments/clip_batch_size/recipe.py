"""CLIP at several global batch sizes and the same number of examples (arXiv:2103.00020, which
trains at 32,768 and prints no other size).

ALIGN (arXiv:2102.05918, Table 8) leaves out negatives of the same batch: all 51.7, a half 50.2, a
quarter 48.7 (COCO, picture to text, R@1).
"""

from typing import Any

from configs.clip import quickstart
from experiments import common
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend

SMALL, FULL = (32, 64, 128, 256, 512), (4096, 8192, 16_384, 32_768, 65_536)
EXAMPLES = 40_960
FIXED = "fixed rate"  # whatever the batch; else proportional to its square root, as suits Adam


def measures(full: bool) -> tuple[dict[str, Any], dict[str, Column]]:
    """(evaluators, columns): ImageNet, or two of the quickstart's on the style it never saw."""
    if full:
        imagenet = {"path": "tfds:imagenet2012:validation", "label": "label"}
        imagenet |= {"classes": "imagenet_classes.txt", "templates": "imagenet"}
        evals = {"zeroshot": {"type": "zeroshot", **imagenet}}
        return evals, {"zero-shot": Column("zeroshot.top1")}
    found = quickstart.get_config().evals.to_dict()
    ways = {"i2t": "picture to text", "t2i": "text to picture"}
    columns = {
        f"{text} R@{k}": Column(f"cross_style.{way}_r{k}")
        for way, text in ways.items()
        for k in (1, 10)
    }
    columns["zero-shot, mean of classes"] = Column("category.mean_per_class")
    return {name: found[name] for name in ("cross_style", "category")}, columns


def get_study(full: bool, data: DataSet) -> Study:
    """Five sizes whose rate follows the batch, and the outermost two whose rate does not."""
    sizes, usual, rate = (FULL, 32_768, 5e-4) if full else (SMALL, 128, 1e-3)

    def cell(size: int, factor: float) -> Cell:
        own = {"batch_size": size} if full else common.small_clip(data, EXAMPLES, size)
        if full:
            own["optim.warmup_examples"] = 2000 * usual
        own["optim.lr"] = rate * factor
        return Cell(config=common.CLIP_FULL if full else common.CLIP_SMALL, changes=own)

    ends = sizes[0], sizes[-1]
    cells = {str(size): cell(size, (size / usual) ** 0.5) for size in sizes}
    cells |= {f"{size} {FIXED}": cell(size, 1.0) for size in ends}
    evals, columns = measures(full)
    chief = next(iter(columns)) if full else "picture to text R@10"

    def value(v: dict, size: int, rate: str = "") -> float:
        return v[f"{size} {rate}" if rate else str(size)][chief]

    return Study(
        title="CLIP: batch size at the same number of examples (%)",
        minutes=0 if full else 12,
        cells=cells,
        evals=evals,
        columns=columns,
        trends=(
            Trend(
                f"the largest batch beats the smallest ({chief})",
                lambda v: value(v, ends[1]) > value(v, ends[0]),
            ),
            Trend(
                f"the best size lies between the ends ({chief})",
                lambda v: max(value(v, s) for s in sizes) > max(value(v, s) for s in ends),
            ),
            Trend(
                f"the rate should follow the batch, at both ends ({chief})",
                lambda v: all(value(v, s) > value(v, s, FIXED) for s in ends),
            ),
        ),
    )
