"""SimCLR, figure 5: pairs of augmentations (arXiv:2002.05709; ResNet-50, 100 epochs, one branch
augmented).

The paper composes a pair in both orders; our augmentation has one order (augment/pictures.py), so a
pair is one run, and `paper` is the mean of the two. Single numbers of the figure are unverified;
its row means are not.
"""

from itertools import combinations_with_replacement
from typing import Any

from experiments import common
from vlp_jax.api.study import Cell, DataSet, Study, Trend

FIGURE = {  # first, then second in the order of CHANGES
    "crop": (33.1, 33.9, 56.3, 46.0, 35.0),
    "cutout": (32.2, 25.6, 33.9, 40.0, 25.2),
    "color": (55.8, 35.5, 18.8, 21.0, 16.5),
    "sobel": (46.2, 40.6, 20.9, 4.0, 6.2),
    "blur": (35.1, 25.2, 16.6, 5.8, 2.6),
}
NAMES = tuple(FIGURE)


def changes(name: str, full: bool) -> dict[str, Any]:
    """The fields of `method.augment` that one augmentation sets."""
    strength = 1.0 if full else 0.5
    jitter = dict.fromkeys(("brightness", "contrast", "saturation"), 0.8 * strength)
    return {
        "crop": {"crop_scale": (0.08 if full else 0.2, 1.0), "flip": 0.5},
        "cutout": {"cutout": 0.5},
        "color": {**jitter, "hue": 0.2 * strength, "jitter": 0.8, "grey": 0.2},
        "sobel": {"sobel": 0.5},
        "blur": {"blur": 0.5},
    }[name]


def get_study(full: bool, data: DataSet) -> Study:
    """15 pairs of five, or the 10 pairs of four of them (no cutout) on `data`."""
    off = {"crop_scale": (1.0, 1.0), "flip": 0.0, "hue": 0.0, "jitter": 1.0, "grey": 0.0}
    off |= dict.fromkeys(("brightness", "contrast", "saturation", "blur"), 0.0)
    shared = {"epochs": 100.0} if full else common.small_simclr(data, 100)
    shared["method.augment_branches"] = 1
    cells = {}
    names = [name for name in NAMES if full or name != "cutout"]
    for pair in combinations_with_replacement(names, 2):
        augment = {**off, **changes(pair[0], full), **changes(pair[1], full)}
        places = [NAMES.index(name) for name in pair]
        numbers = [FIGURE[pair[0]][places[1]], FIGURE[pair[1]][places[0]]]
        cells[" / ".join(pair)] = Cell(
            config=common.SIMCLR_FULL if full else common.SIMCLR_SMALL,
            changes={**shared, **{f"method.augment.{key}": v for key, v in augment.items()}},
            paper={"linear": sum(numbers) / 2},
        )

    def beats(better: str, worse: str) -> Trend:
        return Trend(f"{better} beats {worse}", lambda v: v[better]["linear"] > v[worse]["linear"])

    return Study(
        title="SimCLR, figure 5: pairs of augmentations, linear accuracy (%)",
        minutes=0 if full else 8,
        cells=cells,
        evals=common.evaluators(full, data),
        columns={"linear": common.linear(full)},
        trends=(
            Trend(
                "crop / color is the best pair",
                lambda v: v["crop / color"]["linear"] == max(v[name]["linear"] for name in cells),
            ),
            beats("crop / color", "crop / crop"),
            beats("crop / crop", "color / color"),
            beats("crop / crop", "blur / blur"),
        ),
        follow_ups=common.simclr_follow_ups(full),
    )
