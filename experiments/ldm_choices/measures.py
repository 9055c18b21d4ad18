"""How bright drawn pictures are beside real ones.

The file exists because zero terminal SNR (arXiv:2305.08891) is about that.
"""

from pathlib import Path

import numpy as np

from experiments.ldm_tiny.measures import COUNT, HOW, Measures, Place, rows
from experiments.ldm_tiny.pictures import caption, picture, samples, sheet
from vlp_jax.api.model import load_model


def brightness(cell: str, place: Place, out: Path, seed: int) -> Measures:
    """The mean distance of the sorted mean levels, 0 to 255, of pictures drawn by the captions of
    as many scenes of test from theirs (a Wasserstein distance)."""
    del out
    model, shown = load_model(str(place(cell))), samples()[:COUNT]
    real = [picture(s, model.image_size) for s in shown]
    texts = [caption(s["meta"]["kind"], s["meta"]["tint"].replace("own", "")) for s in shown]
    drawn = model.sample(texts, seed=rows(seed, texts), **HOW)
    levels = [np.sort([np.asarray(one).mean() for one in some]) for some in (drawn, real)]
    sheet(place(cell) / "drawn.png", drawn, texts)
    return {"brightness.apart": float(np.abs(levels[0] - levels[1]).mean())}
