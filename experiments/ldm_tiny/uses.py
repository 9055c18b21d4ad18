"""Draws the sheets of the study's page: every use of the trained models, a row of pictures for each
question.

python experiments/ldm_tiny/uses.py [runs/ldm_tiny [OUT]]

The file exists so that the page shows what the commands beside its pictures give.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from experiments.ldm_tiny.concepts import NEW_WORD, WORD  # noqa: E402
from experiments.ldm_tiny.measures import HOW, hole_of  # noqa: E402
from experiments.ldm_tiny.pictures import caption, kinds, picture, samples, sheet  # noqa: E402
from vlp_jax.api.model import load_model  # noqa: E402

STRENGTHS = (0.2, 0.5, 0.8)
Rows = list[tuple[Image.Image, str]]


def text(model: Any) -> Rows:
    """Every kind, and some in a colour or a style."""
    texts = [caption(kind) for kind in kinds()]
    some = {"blue": ("heart", "pig", "star", "apple"), "purple": ("banana", "tree", "cloud", "pig")}
    texts += [caption(kind, tint) for tint, its in some.items() for kind in its]
    styles = [f"in {style} style" for style in ("noto", "twemoji")]
    told = ("panda", "cupcake", "flower", "umbrella")
    texts += [f"{caption(kind)} {style}" for kind in told for style in styles]
    return drawn(model, texts)


def negative(model: Any) -> Rows:
    """The same seeds without and with a negative prompt."""
    texts = [caption(kind) for kind in ("heart", "star", "apple", "tulip")]
    rows = []
    for what in (None, "in noto style", "in twemoji style"):
        more = {} if what is None else {"negative": what}
        rows += drawn(model, texts, [f"{t}; negative: {what or '-'}" for t in texts], **more)
    return rows


def from_picture(model: Any, shown: Sequence[dict[str, Any]]) -> Rows:
    """Scenes redrawn as another thing, by three strengths."""
    names, rows = kinds(), []
    for scene in shown[:4]:
        given = picture(scene, model.image_size)
        wanted = caption(names[(names.index(scene["meta"]["kind"]) + 3) % len(names)])
        rows.append((given, "given"))
        for strength in STRENGTHS:
            rows += drawn(
                model, [wanted], [f"{wanted}, {strength}"], image=given, strength=strength
            )
    return rows


def holes(model: Any, painter: Any, shown: Sequence[dict[str, Any]]) -> Rows:
    """Painting into a hole by blending, and by the U-Net that sees it."""
    names, rows, side = kinds(), [], model.image_size
    mask = Image.fromarray(hole_of(side))
    for scene in shown[:5]:
        given = picture(scene, side)
        wanted = caption(names[(names.index(scene["meta"]["kind"]) + 3) % len(names)])
        rows.append((given, "given"))
        for one, how in ((model, "blended"), (painter, "nine channels")):
            rows += drawn(one, [wanted], [f"{wanted}, {how}"], image=given, mask=mask)
    return rows


def styles(model: Any, control: Any, shown: Sequence[dict[str, Any]]) -> Rows:
    """Scenes in the other style: begun with the picture, and by its edges."""
    rows = []
    for scene in [one for one in shown if one["meta"]["style"] == "twemoji"][:5]:
        given = picture(scene, model.image_size)
        wanted = f"{caption(scene['meta']['kind'])} in noto style"
        edges = picture(scene, model.image_size, "edge.png")
        rows.append((given, "given"))
        rows += drawn(model, [wanted], [f"{wanted}, begun with it"], image=given, strength=0.7)
        rows += drawn(control, [wanted], [f"{wanted}, its edges"], control=edges)
    return rows


def learned(models: dict[str, Any]) -> Rows:
    """The new colour by every way of learning it."""
    rows = []
    for name, model in models.items():
        word = NEW_WORD if name == "inversion" else WORD
        texts = [caption(kind, word) for kind in ("heart", "cupcake", "apple", "doughnut")]
        texts += [caption(kind) for kind in ("heart", "cupcake")]
        rows += drawn(model, texts, [f"{name}: {one}" for one in texts])
    return rows


def drawn(model: Any, texts: Sequence[str], words: Sequence[str] = (), **given: Any) -> Rows:
    """Pictures over their words."""
    found = model.sample(texts, seed=[*range(len(texts))], **given, **HOW)
    return list(zip(found, words or texts, strict=True))


def main(runs: str = f"{ROOT}/runs/ldm_tiny", out: str = str(Path(__file__).parent)) -> None:
    """Writes the sheets to `out`."""
    model = {
        name: load_model(f"{runs}/cells/{name}/seed0")
        for name in ("unet", "inpainting", "control", "dreambooth", "lora", "inversion")
    }
    base, shown = model["unet"], samples()[::7]
    own = {name: model[name] for name in ("dreambooth", "lora", "inversion")}
    pages = {
        "text": (text(base), 8),
        "negative": (negative(base), 4),
        "from_picture": (from_picture(base, shown), 4),
        "holes": (holes(base, model["inpainting"], shown), 3),
        "styles": (styles(base, model["control"], shown), 3),
        "learned": (learned(own), 6),
    }
    for name, (rows, wide) in pages.items():
        sheet(Path(out) / f"{name}.png", [one for one, _ in rows], [word for _, word in rows], wide)


if __name__ == "__main__":
    main(*sys.argv[1:])
