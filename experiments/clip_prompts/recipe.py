"""CLIP, section 3.1.4 and figure 4: prompts and their ensemble in zero-shot classification
(arXiv:2103.00020). One model, four classifiers: bare class names, one template, 7, and 80.

The paper: the template is 1.3 points above the bare names on ImageNet, the 80 are 3.5 above the
template, and both together almost 5 on average over 36 data sets. Its authors' later finding is
that 7 of the 80 do slightly better than all on ViT-B/32.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common as configs
from experiments import common
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend
from vlp_jax.evals.kits.templates import TEMPLATES

SETS = {"bare name": "name", "1 template": "single", "7 templates": "imagenet7"}
SETS |= {"80 templates": "imagenet"}
PLAIN, WRAPPED = "captions as they are", "captions in templates"
EXAMPLES = 61_440
IMAGENET = {"path": "tfds:imagenet2012:validation", "label": "label"}
IMAGENET |= {"classes": "imagenet_classes.txt"}
EMOJI = {"path": "builtin:emoji/twemoji-train", "label": "label", "limit": 1000}


def classifiers(**data: Any) -> dict[str, Any]:
    """An evaluator for each set of templates."""
    return {name: {"type": "zeroshot", "templates": name, **data} for name in SETS.values()}


def get_config(path: str = "") -> ConfigDict:
    """The four evaluators alone, for `eval --checkpoint=ONES_OWN`. Args: a labelled data set in
    place of ImageNet's validation pictures.
    """
    c = configs.base()
    c.evals = ConfigDict(classifiers(**({"path": path, "label": "class"} if path else IMAGENET)))
    return c


def get_study(full: bool, data: DataSet) -> Study:
    """ViT-B/32 as published, or two narrow models on the emoji, whose captions are no sentences:
    one learns them as they are, one inside the 80 templates. Classes are 1,000 names that both have
    learnt, of pictures in the other style.
    """
    if full:
        cells = {PLAIN: Cell(config=common.CLIP_FULL, paper={"80 templates": 63.2})}
    else:
        same = {**common.small_clip(data, EXAMPLES), "data.context_length": 32}
        kinds = {PLAIN: (), WRAPPED: TEMPLATES["imagenet"]}
        cells = {
            name: Cell(config=common.CLIP_SMALL, changes={**same, "data.templates": templates})
            for name, templates in kinds.items()
        }
    sentences = PLAIN if full else WRAPPED

    def beats(cell: str, better: str, worse: str) -> Trend:
        text = f"{cell}: {better} beats {worse}"
        return Trend(text, lambda v: v[cell][better] > v[cell][worse])

    alone, one, seven, eighty = SETS
    trends = [beats(sentences, one, alone), beats(sentences, eighty, one)]
    trends += [beats(sentences, eighty, alone), beats(sentences, seven, eighty)]
    if not full:
        trends += [beats(PLAIN, alone, one), beats(PLAIN, eighty, one)]
    return Study(
        title="CLIP, figure 4: prompts and their ensemble, zero-shot accuracy (%)",
        minutes=0 if full else 8,
        cells=cells,
        evals=classifiers(**(IMAGENET if full else EMOJI)),
        columns={title: Column(f"{name}.top1") for title, name in SETS.items()},
        trends=tuple(trends),
    )
