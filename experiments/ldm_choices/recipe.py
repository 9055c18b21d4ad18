"""What latent diffusion is made of, one choice at a time: the autoencoder's factor at equal compute
(arXiv:2112.10752, Fig. 6), what is predicted (arXiv:2202.00512), min-SNR weights
(arXiv:2303.09556), zero terminal SNR (arXiv:2305.08891), guidance between FID and CLIP score
(arXiv:2207.12598).

Small form: the scenes of ldm_tiny, U-Nets of 300 steps; what judges is trained here too. Full
form: ImageNet at 256 pixels by class, on the released autoencoders.
"""

from functools import partial
from typing import Any

from experiments.ldm_choices.measures import brightness
from experiments.ldm_choices.small import ROWS
from experiments.ldm_tiny.concepts import TEST, TRAIN, prepare_concepts
from experiments.ldm_tiny.measures import write_latents
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend
from vlp_jax.core.errors import UserError

SMALL = "experiments/ldm_choices/small.py"
CLASSIFIER, CLIP = "classifier", "clip"
FACTORS = (1, 2, 4, 8)
F = {factor: f"f{factor}" for factor in FACTORS}
BASE = F[4]  # predicts the noise, all times weigh the same
GUIDANCES = (0, 1, 3, 8)
USUAL = 3
FID, KIND, SCORE, APART = "FID", "kind", "CLIP score", "brightness apart"


def stage(name: str, needs: tuple[str, ...] = (), **how: Any) -> Cell:
    """A recipe of small.py."""
    return Cell(config=f"{SMALL}:{name},{{out}}/cells,{{seed}}", needs=needs, **how)


def drawer(name: str, factor: int, row: str = "") -> Cell:
    """A U-Net on cached latents."""
    changes = {f"method.{key}": value for key, value in ROWS.get(row, {}).items()}
    judges = ",".join(f"{{out}}/cells/{cell}/seed{{seed}}" for cell in (CLASSIFIER, CLIP))
    given = {"type": "generation", "path": TRAIN, "networks": judges, "label": "kind"}
    guidances = GUIDANCES if name == BASE else (USUAL,)
    given |= {"guidances": guidances, "count": 128, "limit": 1000, "how": {"steps": 12}}
    return stage(
        f"f{factor}",
        (CLASSIFIER, CLIP, f"coder{factor}"),
        changes={"data.path": f"{{out}}/sets/seed{{seed}}/latents{factor}", **changes},
        before=partial(write_latents, f"{SMALL}:f{factor}", f"latents{factor}"),
        evals={"drawn": given},
        after=partial(brightness, name) if factor == 4 else None,
    )


def small() -> Study:
    """About an hour."""
    real = {"type": "accuracy", "path": TEST, "label": "kind", "train": TRAIN}
    back = {"coder": {"type": "fidelity", "path": TEST, "limit": 200}}
    coders = {f"coder{f}": stage(f"coder{f}", aside=True, evals=back) for f in FACTORS}
    cells = {
        CLASSIFIER: stage(CLASSIFIER, aside=True, evals={"test": real}),
        CLIP: stage(CLIP, aside=True),
        **coders,
        **{name: drawer(name, factor) for factor, name in F.items()},
        **{row: drawer(row, 4, row) for row in ROWS},
    }
    return Study(
        title="Latent diffusion: factor, target, weights, terminal SNR, guidance",
        minutes=60,
        cells=cells,
        evals={},
        columns=columns("classifier", "own_clip"),
        trends=(*trends(), *factors()),
        prepare=prepare_concepts,
    )


def columns(judge: str, clip: str) -> dict[str, Column]:
    """judge, clip: what networks are called in the names of metrics."""
    found = {"PSNR (dB)": Column("coder.psnr", 1.0), APART: Column("brightness.apart", 1.0)}
    for guidance in GUIDANCES:
        name = "" if guidance == USUAL else f", guidance {guidance}"
        found[f"{FID}{name}"] = Column(f"drawn.fid{judge and '_'}{judge}_at_{guidance}", 1.0)
        if clip:
            found[f"{SCORE}{name}"] = Column(f"drawn.clip_score_{clip}_at_{guidance}")
    found[KIND] = Column(f"drawn.accuracy_classifier_at_{USUAL}")
    return found


def trends() -> tuple[Trend, ...]:
    """Of both forms."""
    fid = lambda v, g: v[BASE][FID if g == USUAL else f"{FID}, guidance {g}"]  # noqa: E731
    return (
        Trend("min-SNR weights help (FID)", lambda v: v["min-SNR"][FID] < v[BASE][FID]),
        Trend(
            "without guidance FID is worse than with some, and much is too much",
            lambda v: min(fid(v, g) for g in GUIDANCES) < min(fid(v, 0), fid(v, 8)),
        ),
    )


def factors() -> tuple[Trend, ...]:
    """Of the small form, where all factors and a CLIP are there."""
    score = lambda v, g: v[BASE][SCORE if g == USUAL else f"{SCORE}, guidance {g}"]  # noqa: E731
    return (
        Trend("at equal compute f4 beats pixels (FID)", lambda v: v[F[4]][FID] < v[F[1]][FID]),
        Trend("f4 beats f8, which keeps too little", lambda v: v[F[4]][FID] < v[F[8]][FID]),
        Trend(
            "CLIP score rises with guidance", lambda v: score(v, 0) < score(v, 1) < score(v, USUAL)
        ),
        Trend(
            "zero terminal SNR draws as bright as the scenes are",
            lambda v: v["zero SNR"][APART] < v["v"][APART],
        ),
    )


def published() -> Study:
    """ImageNet by class: LDM-4 and LDM-8 of Fig. 6, 178,000 steps of 1,200 each."""
    given = {"type": "generation", "path": "tfds:imagenet2012:validation", "label": "label"}
    given |= {"networks": "runs/inception", "train": "tfds:imagenet2012:train", "count": 10_000}
    config = "configs/latent_diffusion/ldm.py:"
    rows = {F[4]: ("cin256", ""), F[8]: ("cin-f8", ""), **{row: ("cin256", row) for row in ROWS}}
    cells = {}
    for name, (size, row) in rows.items():
        parts = {
            p: f"runs/{'vq-f8' if size == 'cin-f8' else 'vq-f4'}:{p}" for p in ("autoencoder",)
        }
        changes = {f"init_from.{part}": path for part, path in parts.items()}
        changes |= {f"method.{key}": value for key, value in ROWS.get(row, {}).items()}
        guidances = GUIDANCES if name == BASE else (USUAL,)
        evals = {"drawn": {**given, "guidances": guidances}}
        cells[name] = Cell(config=f"{config}{size}", changes=changes, evals=evals)
    return Study(
        title="Latent diffusion: factor, target, weights, guidance on ImageNet",
        cells=cells,
        evals={},
        columns=columns("", ""),
        trends=trends(),
    )


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji."""
    if data != DataSet():
        raise UserError("ldm_choices: composes scenes of the embedded emoji; leave --data out")
    return published() if full else small()
