"""Latent diffusion from nothing, every stage and every use of it (arXiv:2112.10752; ControlNet,
arXiv:2302.05543; DreamBooth, arXiv:2208.12242; LoRA, arXiv:2106.09685).

Small form: 32 pixels, scenes of one object of sixteen kinds. A classifier judges likeness and what
is drawn; the autoencoder learns all emoji of one style and is measured on the other; a U-Net learns
scenes by their captions; from it start painting into holes, following edges, and a new colour from
five pictures. Full form: the same scenes at their 96 pixels, hours of a GPU.
"""

from functools import partial
from typing import Any

from experiments.ldm_tiny import measures
from experiments.ldm_tiny.concepts import (
    LARGE,
    NEW_WORD,
    SMALL,
    TEST,
    TRAIN,
    WORD,
    prepare_concepts,
)
from experiments.ldm_tiny.small import PRIOR
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend
from vlp_jax.core.errors import UserError

CLASSIFIER, CODER, UNET = "classifier", "autoencoder", "unet"
PAINTING, CONTROL = "inpainting", "control"
DREAMBOOTH, ALONE, LORA, INVERSION = "dreambooth", "alone", "lora", "inversion"
OTHER_STYLE = "builtin:emoji/twemoji-test"
GUIDANCES = (0, 1, 3)
PSNR, REAL, KIND = "PSNR (dB)", "real: kind", "kind"
GUIDED = {g: f"kind, guidance {g}" for g in GUIDANCES}
FID = {g: f"FID, guidance {g}" for g in GUIDANCES}
UNSEEN, COLOUR = "unseen pair: kind", "unseen pair: colour"
CHANGE, F1, FREE = "kept: change", "edge F1", "edge F1, no control"
SAID, OTHERS, SILENT = "new colour said", "said of other kinds", "not said"


def cell(form: str, stage: str, needs: tuple[str, ...] = (), **how: Any) -> Cell:
    """A stage, `needs` being those that it reads."""
    return Cell(config=f"{form}:{stage},{{out}}/cells,{{seed}}", needs=needs, **how)


def drawn() -> dict[str, Any]:
    """Pictures by captions that were learned (test has unseen pairs of kind and colour alone), by
    the classifier's features and classes."""
    judge = "{out}/cells/classifier/seed{seed}"
    given = {"type": "generation", "path": TRAIN, "networks": judge, "label": "kind"}
    how = {"guidances": GUIDANCES, "count": 320, "limit": 1000, "how": {"steps": 25}}
    return {"drawn": {**given, **how}}


def own(form: str, stage: str) -> Cell:
    """What learns a colour from five pictures."""
    folder = "{out}/sets/seed{seed}"
    word = NEW_WORD if stage == INVERSION else WORD
    paths = f"{folder}/{word.strip('<>')}" + f",{folder}/prior" * (stage in PRIOR)
    after = partial(measures.learned, stage, word)
    write = {"before": partial(measures.write_own, word), "after": after}
    return cell(form, stage, (CLASSIFIER, UNET), changes={"data.path": paths}, **write)


def stages(form: str) -> Study:
    """75 minutes in the small form."""
    real = {"type": "accuracy", "path": TEST, "label": "kind", "train": TRAIN}
    cells = {
        CLASSIFIER: cell(form, CLASSIFIER, evals={"test": real}),
        CODER: cell(
            form, CODER, (CLASSIFIER,), evals={"other": {"type": "fidelity", "path": OTHER_STYLE}}
        ),
        UNET: cell(
            form,
            UNET,
            (CLASSIFIER, CODER),
            changes={"data.path": "{out}/sets/seed{seed}/latents"},
            before=partial(measures.write_latents, f"{form}:{UNET}", "latents"),
            evals=drawn(),
            after=measures.colours,
        ),
        PAINTING: cell(form, PAINTING, (CLASSIFIER, UNET), after=measures.painted),
        CONTROL: cell(form, CONTROL, (CLASSIFIER, UNET), after=measures.followed),
        **{stage: own(form, stage) for stage in (DREAMBOOTH, ALONE, LORA, INVERSION)},
    }
    columns = {
        REAL: Column("test.top1"),
        PSNR: Column("other.psnr", 1.0),
        **{name: Column(f"drawn.accuracy_classifier_at_{g}") for g, name in GUIDED.items()},
        **{name: Column(f"drawn.fid_classifier_at_{g}", 1.0) for g, name in FID.items()},
        KIND: Column("new.kind_silent"),
        UNSEEN: Column("unseen.kind"),
        COLOUR: Column("unseen.colour"),
        CHANGE: Column("painted.change", 1.0),
        F1: Column("edges.control", 1.0),
        FREE: Column("edges.none", 1.0),
        SAID: Column("new.said"),
        OTHERS: Column("new.said_others"),
        SILENT: Column("new.silent"),
    }
    return Study(
        title="Latent diffusion from nothing: every stage and use (%)",
        minutes=75 if form == SMALL else 0,
        cells=cells,
        evals={},
        columns=columns,
        trends=trends(),
        prepare=prepare_concepts,
    )


def trends() -> tuple[Trend, ...]:
    """What must be reached."""
    keeps = lambda stage: lambda v: v[stage][KIND] >= v[UNET][KIND] - 5  # noqa: E731
    return (
        Trend("the unseen style comes back at more than 22 dB", lambda v: v[CODER][PSNR] > 22),
        Trend("60 % are recognised at guidance 3", lambda v: v[UNET][GUIDED[3]] >= 60),
        Trend(
            "recognition rises with guidance",
            lambda v: v[UNET][GUIDED[0]] < v[UNET][GUIDED[1]] < v[UNET][GUIDED[3]],
        ),
        Trend("what a mask keeps stays to the last bit", lambda v: v[PAINTING][CHANGE] == 0),
        Trend("edges are followed: F1 above that without by 0.2",
              lambda v: v[CONTROL][F1] > v[CONTROL][FREE] + 0.2),
        Trend("DreamBooth learns the colour", lambda v: v[DREAMBOOTH][SAID] > 50),
        Trend("LoRA learns the colour", lambda v: v[LORA][SAID] > 50),
        Trend("DreamBooth keeps what is recognised within 5 points", keeps(DREAMBOOTH)),
        Trend("LoRA keeps it within 5 points", keeps(LORA)),
        Trend("without the prior the colour leaks more",
              lambda v: v[ALONE][SILENT] > v[DREAMBOOTH][SILENT]),
    )  # fmt: skip


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji."""
    if data != DataSet():
        raise UserError("ldm_tiny: composes scenes of the embedded emoji; leave --data out")
    return stages(LARGE if full else SMALL)
