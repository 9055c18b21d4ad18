"""What the studies measure beside the evaluators: whether queries are blind to what is written,
whether frozen parts are what they were, and sheets of pictures with a model's words.

The file exists because these hold to the bit, and no evaluator is about bits. All are hooks of
cells (api/study.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.blip2_tiny.scenes import ASK, EYE, TEST, VQA_TEST
from experiments.ldm_tiny.pictures import picture, samples, sheet
from vlp_jax.api.cached_parts import digests
from vlp_jax.api.compose import composed
from vlp_jax.api.model import load_model
from vlp_jax.api.placement import fill, runner
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.core.types import Array, Batch

Place = Callable[[str], Path]
Measures = dict[str, float]
COUNT, SHOWN = 64, 20  # scenes of a measure to the bit, and of a sheet
ROWS = 256  # texts of a call


def blind(cell: str, place: Place, out: Path, seed: int) -> Measures:
    """The largest change of the queries' last states where the text beside them is another's, under
    the masks of writing and of matching; and of the words' logits where the words after them
    change."""
    del out, seed
    model, shown = load_model(str(place(cell))), samples(TEST)[:COUNT]
    method, v = model.method, Vars(model.params, model.extra)
    texts = [scene["text"][-1] for scene in shown]
    own, other = (model.text_arrays()(some) for some in (texts, texts[1:] + texts[:1]))
    image = np.stack([model.decode(scene["image"]) for scene in shown])

    def read(batch: Batch, mode: str) -> tuple[Array, Array | None]:
        x, words = Inputs.of(batch), (batch["text"], batch["text_mask"])
        states, found = method.read(v, x, mode, *words, states=method.norm(v, x, method.see(v, x)))
        return states[:, : method.query_net.num_queries], found.get("logits")

    read, moved = jax.jit(read, static_argnames="mode"), {}
    change = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max())  # noqa: E731
    for name, mode in {"writing": "multimodal_causal", "matching": "bidirectional"}.items():
        (queries, logits), (others, _) = (read({"image": image, **t}, mode) for t in (own, other))
        moved[f"blind.{name}"] = change(queries, others)
        if name == "writing":
            half = own["text"].shape[1] // 2
            mixed = np.where(np.arange(2 * half) < half, own["text"], other["text"])
            batch = {"image": image, "text": mixed, "text_mask": own["text_mask"]}
            moved["blind.later"] = change(logits[:, :half], read(batch, mode)[1][:, :half])
    return moved


def kept(cell: str, words: str, place: Place, out: Path, seed: int) -> Measures:
    """Of the eye and the language model after training in front of them: how many leaves have
    another digest; the perplexity of captions before and after."""
    alone = load_model(str(place(words)))
    joined = composed(alone, {"lm": f"{place(cell)}:lm"}, load_model)
    found = {"kept.before": perplexity(alone), "kept.after": perplexity(joined)}
    return found | same(cell, place(words), place, out, seed)


def same(cell: str, words: Path, place: Place, out: Path, seed: int) -> Measures:
    """How many leaves of the eye and of the language model, which `words` holds, have another
    digest after training in front of them."""
    del out, seed
    model, eye, alone = (load_model(str(path)) for path in (place(cell), EYE, words))
    changed = different(model.params["image"], eye.params["image"])
    return {"kept.changed": float(changed + different(model.params["lm"], alone.params["lm"]))}


def different(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> int:
    """How many of our leaves have another digest than theirs of the same path."""
    own, other = (digests(flatten(tree)) for tree in (ours, theirs))
    return sum(other.get(path) != digest for path, digest in own.items())


def perplexity(model: Any) -> float:
    """Of the captions of unseen scenes."""
    texts = [text for scene in samples(TEST) for text in scene["text"]]
    run = runner(model.method, "nats", Vars(model.params, model.extra))
    arrays = model.text_arrays(model.method.functions()["nats"].reads["text"])
    sums = np.zeros(2)
    for at in range(0, len(texts), ROWS):
        some = arrays(texts[at : at + ROWS])
        count = len(some["text"])
        rows = run({name: fill(array, ROWS) for name, array in some.items()})
        sums += [rows[name][:count].sum(dtype="float64") for name in ("loss", "tokens")]
    return math.exp(sums[0] / sums[1])


def speaks(cell: str, prompt: str, place: Place, out: Path, seed: int) -> Measures:
    """A sheet of unseen scenes with what is said of them; prompt: with {c} for the question."""
    del out, seed
    model, shown = load_model(str(place(cell))), spread(samples(TEST))
    pictures = [picture(scene, model.image_size) for scene in shown]
    said = model.generate(pictures, prompt.replace("{c}", ASK), max_new=16)
    sheet(place(cell) / "said.png", pictures, said, 5)
    return {}


def answers(cell: str, place: Place, out: Path, seed: int) -> Measures:
    """`speaks`, and a sheet of questions with answers."""
    speaks(cell, "{c}", place, out, seed)
    model, shown = load_model(str(place(cell))), spread(samples(VQA_TEST))
    pictures = [picture(scene, model.image_size) for scene in shown]
    questions = [scene["meta"]["question"] for scene in shown]
    said = model.generate(pictures, questions, max_new=6)
    words = [f"{q} {a}" for q, a in zip(questions, said, strict=True)]
    sheet(place(cell) / "answers.png", pictures, words, 5)
    return {}


def spread(scenes: Sequence[Any]) -> list[Any]:
    """SHOWN of them, from all over."""
    return [scenes[i * len(scenes) // SHOWN] for i in range(SHOWN)]
