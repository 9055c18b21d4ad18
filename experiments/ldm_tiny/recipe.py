"""Latent diffusion in all its stages on two cores: a judge, an autoencoder, a U-Net that draws what
it is told, and what goes on from it (arXiv:2112.10752 at 32 pixels).

Scenes are single emoji of 16 kinds in both drawing styles, two thirds of them in one colour;
colours of things that training never had are kept for the test. The file exists as the small form
of latent diffusion: one command that goes on where it stopped.
"""

from pathlib import Path

from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend
from vlp_jax.core.errors import UserError

SCENES = Path("runs/concepts")
SMALL = "experiments/ldm_tiny/small.py"
CLASSIFIER, AUTOENCODER, UNET = "classifier", "autoencoder", "unet"
GOAL = 60.0  # % of drawn pictures that the judge recognises, at guidance 3
HOW = dict(
    kinds=16, most=1, tints=0.6, styles="both", scale=1.4, changes=0.5, train=6000, val=200,
    test=400, noisy=0, vqa_train=0, vqa_test=0,
)  # fmt: skip


def write_scenes(names: list[str]) -> None:
    """Composes the scenes where they are not there."""
    from vlp_jax.api.data import prepare
    from vlp_jax.parallel.hosts import from_first
    from vlp_jax.parallel.startup import first_process

    del names
    if first_process() and not (SCENES / "vocab.txt").is_file():
        prepare("emoji_scenes", str(SCENES), **HOW)
    from_first("")  # the others wait


def stage(name: str, *needs: str) -> Cell:
    """A stage that needs others."""
    config = f"{SMALL}:{name},{SCENES},{{out}}/cells,{{seed}}"
    return Cell(config=config, needs=needs, aside=True)


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji, and for a full form."""
    if data != DataSet():
        raise UserError("ldm_tiny: composes scenes of the embedded emoji; leave --data out")
    if full:
        raise UserError("ldm_tiny: is the small form; configs/latent_diffusion has the published")
    cells = {
        CLASSIFIER: stage(CLASSIFIER),
        AUTOENCODER: stage(AUTOENCODER, CLASSIFIER),
        UNET: stage(UNET, CLASSIFIER, AUTOENCODER),
        "inpainting": stage("inpainting", CLASSIFIER, UNET),
        "control": stage("control", CLASSIFIER, UNET),
    }
    at = {g: f"accuracy_classifier_at_{g}" for g in (0, 1, 3)}
    columns = {
        "judge": Column("test.top1"),
        "PSNR (dB)": Column("fidelity.psnr", 1),
        **{f"guidance {g}": Column(f"drawn.{name}") for g, name in at.items()},
        "unseen, guidance 3": Column(f"unseen.{at[3]}"),
    }
    rising = lambda v: v[UNET]["guidance 0"] < v[UNET]["guidance 1"] < v[UNET]["guidance 3"]  # noqa: E731
    return Study(
        title="Latent diffusion in the small form (%)",
        minutes=75,
        cells=cells,
        evals={},
        columns=columns,
        trends=(
            Trend(
                "the autoencoder keeps the unseen style above 22 dB",
                lambda v: v[AUTOENCODER]["PSNR (dB)"] > 22,
            ),
            Trend(
                f"at least {GOAL:.0f} % of what is drawn is recognised",
                lambda v: v[UNET]["guidance 3"] >= GOAL,
            ),
            Trend("more guidance, more recognised", rising),
        ),
        prepare=write_scenes,
    )
