"""What is seen in pictures: kinds, colours, edges; and the scenes that they are measured beside.

The file exists so that the measures of the studies share their rules.
"""

import functools
import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.ldm_tiny.concepts import TEST, TRAIN
from vlp_jax.api.model import load_model
from vlp_jax.api.placement import runner
from vlp_jax.core.inputs import Vars
from vlp_jax.data.labels import class_list
from vlp_jax.data.open import open_source
from vlp_jax.data.scenes.flood import edges
from vlp_jax.data.scenes.things import Thing
from vlp_jax.report.drawn import drawn_sheet

SHOWN = 48  # pictures of a sheet
WHITE, GREY, FULL = 240, 60, 140  # of 256: darker is no paper; coloured; least saturation
NEAR = 16  # hues of 256 that count as one
Pictures = Sequence[Image.Image]


@functools.cache
def samples(path: str = TEST) -> list[dict[str, Any]]:
    """All scenes of a split."""
    source = open_source(path)
    return [source[i] for i in range(len(source))]


@functools.cache
def kinds() -> list[str]:
    """The classes, in their order."""
    return list(class_list(open_source(TRAIN), "kind", "label"))


def caption(kind: str, tint: str = "") -> str:
    """'an apple', 'a red apple'."""
    return Thing(f"{tint} {kind}".strip(), kind).one


def picture(sample: dict[str, Any], side: int, member: str = "") -> Image.Image:
    """A scene, or a map of it, as training squashes it."""
    data = sample["members"][member] if member else sample["image"]
    found = Image.open(io.BytesIO(data)).convert("RGB")
    return found.resize((side, side), Image.Resampling.BICUBIC)


def recognised(judge: Path, pictures: Pictures, wanted: Sequence[str]) -> float:
    """The share that the classifier of the workdir `judge` takes for their kinds."""
    model = load_model(str(judge))
    run = runner(model.method, "classify", Vars(model.params, model.extra))
    logits = run({"image": np.stack([model.decode(one) for one in pictures])})
    found = [kinds()[i] for i in logits.argmax(-1)]
    return float(np.mean([one == kind for one, kind in zip(found, wanted, strict=True)]))


def share_of(pixels: Image.Image, hue: int) -> float:
    """The share of the coloured pixels whose hue of 256 is this one or near; 0 without any."""
    levels = np.asarray(pixels).astype(int)
    seen = (levels.min(-1) < WHITE) & (levels.max(-1) - levels.min(-1) >= GREY)
    found = np.asarray(pixels.convert("HSV"))[..., 0].astype(int)[seen]
    return float((np.abs((found - hue + 128) % 256 - 128) <= NEAR).mean()) if len(found) else 0.0


def recoloured(pixels: Image.Image, hue: int) -> Image.Image:
    """With one hue on all that is no paper."""
    hsv = np.array(pixels.convert("HSV"))
    hsv[..., 0], hsv[..., 1] = hue, np.maximum(hsv[..., 1], FULL)
    changed, own = Image.fromarray(hsv, "HSV").convert("RGB"), np.asarray(pixels)
    return Image.fromarray(np.where((own.min(-1) < WHITE)[..., None], np.asarray(changed), own))


def edge_f1(drawn: Image.Image, scene: Image.Image) -> float:
    """Of Canny's edges, one pixel off at most."""
    found, true = (edges(np.asarray(one)) > 0 for one in (drawn, scene))
    if not found.any() or not true.any():
        return float(found.any() == true.any())
    precision, recall = (
        found[_grown(true)].sum() / found.sum(),
        true[_grown(found)].sum() / true.sum(),
    )
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _grown(found: np.ndarray) -> np.ndarray:
    padded, (height, width) = np.pad(found, 1), found.shape
    return np.any([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], 0)


def save(folder: Path, pictures: Iterable[Image.Image], texts: Sequence[str]) -> None:
    """Each beside its caption; whole or not at all."""
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for number, (one, text) in enumerate(zip(pictures, texts, strict=True)):
        one.save(partial / f"{number:05}.png")
        (partial / f"{number:05}.txt").write_text(f"{text}\n")
    partial.rename(folder)


def sheet(out: Path, pictures: Pictures, words: Sequence[str], row: int = 8) -> None:
    """A PNG of the first pictures over their words."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{i}.png" for i in range(min(SHOWN, len(pictures)))]
        for file, one in zip(files, pictures, strict=False):
            one.save(file)
        drawn_sheet(files, words[: len(files)], str(out), row, len(pictures))
