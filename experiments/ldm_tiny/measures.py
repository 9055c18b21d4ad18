"""What the study does around its trainings: it writes what they read, and measures told colours,
what a mask keeps, edges and a learned colour, with a sheet of each.

The file exists because these are of the study's own pictures, which the trained models draw through
`Model.sample` as a user has it. All are hooks of cells (api/study.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.ldm_tiny.concepts import TRAIN, WORD
from experiments.ldm_tiny.pictures import (
    caption,
    edge_f1,
    kinds,
    picture,
    recognised,
    recoloured,
    samples,
    save,
    share_of,
    sheet,
)
from vlp_jax.api.cache import Request, cache
from vlp_jax.api.config import load_config
from vlp_jax.api.embed import Batching
from vlp_jax.api.model import load_model
from vlp_jax.api.study import ROOT
from vlp_jax.data.scenes.changes import TINTS

COUNT, PRIOR = 160, 8  # pictures of a measure; of the prior, for each kind
HOW = dict(sampler="ddim", steps=25, guidance=3.0, batching=Batching(32))
HOLE = (0.2, 0.8)  # of the sides, is painted over
TEAL = 128  # the hue to learn, of 256: midway between green and blue
OWN = ("apple", "flower", "umbrella", "pig", "star")  # shown in it
Place = Callable[[str], Path]
Measures = dict[str, float]


def rows(seed: int, texts: Sequence[str]) -> list[int]:
    """A seed for every picture."""
    return [1000 * seed + number for number in range(len(texts))]


def write_latents(config: str, name: str, place: Place, out: Path, seed: int) -> Measures:
    """Caches what an autoencoder makes of the pictures of a recipe; config: FILE.py:STAGE; name: of
    the cache in the study's folder."""
    del place
    found = load_config(f"{ROOT}/{config},{out / 'cells'},{seed}", {})
    folder = out / "sets" / f"seed{seed}" / name
    cache(Request(out=str(folder), config=found, functions=("latents",)))
    return {}


def colours(place: Place, out: Path, seed: int) -> Measures:
    """Of colours that no scene of training has on that kind: the shares of pictures, most of whose
    coloured pixels have the told one, and that are recognised; and `learned` of the U-Net."""
    told = [s["meta"] for s in samples() if TINTS.get(s["meta"]["tint"]) is not None][:COUNT]
    texts = [caption(meta["kind"], meta["tint"]) for meta in told]
    drawn = load_model(str(place("unet"))).sample(texts, seed=rows(seed, texts), **HOW)
    right = [
        share_of(one, TINTS[meta["tint"]]) > 0.5 for one, meta in zip(drawn, told, strict=True)
    ]
    sheet(place("unet") / "told.png", drawn, texts)
    kind = recognised(place("classifier"), drawn, [meta["kind"] for meta in told])
    found = {"unseen.colour": float(np.mean(right)), "unseen.kind": kind}
    return found | learned("unet", WORD, place, out, seed)


def hole_of(side: int) -> np.ndarray:
    """uint8[side, side], 255 where a picture is painted over."""
    low, high = (round(side * share) for share in HOLE)
    hole = np.zeros((side, side), np.uint8)
    hole[low:high, low:high] = 255
    return hole


def painted(place: Place, out: Path, seed: int) -> Measures:
    """Scenes with a hole for another kind: the largest change of what is kept, in levels, and the
    share that shows the kind asked for."""
    del out
    model, names = load_model(str(place("inpainting"))), kinds()
    shown = samples()[:COUNT]
    wanted = [names[(names.index(s["meta"]["kind"]) + 5) % len(names)] for s in shown]
    given = [picture(s, model.image_size) for s in shown]
    hole = hole_of(model.image_size)
    texts = [caption(kind) for kind in wanted]
    drawn = model.sample(
        texts, seed=rows(seed, texts), image=given, mask=Image.fromarray(hole), **HOW
    )
    apart = np.abs(np.stack(given).astype(int) - np.stack(drawn))[:, hole == 0]
    pairs = [one for pair in zip(given, drawn, strict=True) for one in pair]
    sheet(place("inpainting") / "painted.png", pairs, [w for t in texts for w in ("given", t)])
    kind = recognised(place("classifier"), drawn, wanted)
    return {"painted.change": float(apart.max()), "painted.kind": kind}


def followed(place: Place, out: Path, seed: int) -> Measures:
    """How well the edges of drawn pictures are those of the scenes whose edge maps were the
    control; and without one."""
    del out
    model, shown = load_model(str(place("control"))), samples()[:COUNT]
    wanted = [s["meta"]["kind"] for s in shown]
    texts = [caption(kind) for kind in wanted]
    scenes = [picture(s, model.image_size) for s in shown]
    maps, found = [picture(s, model.image_size, "edge.png") for s in shown], {}
    for name, control in {"none": {}, "control": {"control": maps}}.items():
        drawn = model.sample(texts, seed=rows(seed, texts), **control, **HOW)
        scores = [edge_f1(*pair) for pair in zip(drawn, scenes, strict=True)]
        found[f"edges.{name}"] = float(np.mean(scores))
    trios = [one for trio in zip(maps, drawn, scenes, strict=True) for one in trio]
    words = [word for text in texts for word in ("control", text, "the scene")]
    sheet(place("control") / "followed.png", trios, words, 6)
    return found | {"edges.kind": recognised(place("classifier"), drawn, wanted)}


def write_own(word: str, place: Place, out: Path, seed: int) -> Measures:
    """Writes five pictures of the new colour with its word, and those of the prior, what the U-Net
    draws of all kinds."""
    folder, model = out / "sets" / f"seed{seed}", load_model(str(place("unet")))
    if not (folder / word.strip("<>")).is_dir():
        found = {s["meta"]["kind"]: s for s in samples(TRAIN) if s["meta"]["tint"] == "own"}
        own = [recoloured(picture(found[kind], model.image_size), TEAL) for kind in OWN]
        save(folder / word.strip("<>"), own, [caption(kind, word) for kind in OWN])
    if not (folder / "prior").is_dir():
        texts = [caption(kind) for kind in kinds()] * PRIOR
        save(folder / "prior", model.sample(texts, seed=rows(seed, texts), **HOW), texts)
    return {}


def learned(cell: str, word: str, place: Place, out: Path, seed: int) -> Measures:
    """Of what learned the new colour: the share of pictures that have it where its word is said, of
    the five kinds that were shown and of the others, and where it is not; the share recognised."""
    del out
    model, wanted, found = load_model(str(place(cell))), kinds() * (COUNT // len(kinds())), {}
    shown = np.isin(wanted, OWN)
    for name, tint in {"said": word, "silent": ""}.items():
        texts = [caption(kind, tint) for kind in wanted]
        drawn = model.sample(texts, seed=rows(seed, texts), **HOW)
        teal = np.asarray([share_of(one, TEAL) > 0.5 for one in drawn])
        found[f"new.{name}"] = float(teal[shown].mean())
        found[f"new.{name}_others"] = float(teal[~shown].mean())
        found[f"new.kind_{name}"] = recognised(place("classifier"), drawn, wanted)
        sheet(place(cell) / f"{name}.png", drawn, texts)
    return found
