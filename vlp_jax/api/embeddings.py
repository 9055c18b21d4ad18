"""`embed` and `similarity`: pictures and texts that a command line names through a model, into
files.

The file exists so that both find, read, skip and count the same pictures.
"""

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.api.embed import Batching, check_scale, embed_pictures, joined, shares
from vlp_jax.api.files import check_npz, check_writable, write_npz
from vlp_jax.api.model import Model, load_model
from vlp_jax.api.pictures import SKIP, list_pictures, read_texts
from vlp_jax.core.errors import UserError, count_of
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.folder import read_bounded
from vlp_jax.parallel.startup import first_process, start_jax

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command is asked for.

    Attributes:
      checkpoint: a converted checkpoint or a training workdir.
      images: a folder or files; texts: a file of lines, or texts with commas between.
      out: an .npz, or a folder of `similarity`.
      batch_size, threads: rows per call; decoders of pictures.
      skip_damaged: leave unreadable pictures out instead of stopping.
      sharding: see load_model.
    """

    checkpoint: str
    images: Sequence[str] = ()
    texts: str | None = None
    out: str = ""
    batch_size: int = 32
    threads: int = os.cpu_count() or 1
    skip_damaged: bool = False
    sharding: str = ""

    def find(self) -> "Found":
        """Lists the pictures and reads the texts.

        Raises:
          UserError: there are none, or one of the numbers is too small.
        """
        root, names = list_pictures(self.images, self.skip_damaged) if self.images else ("", [])
        texts = [] if self.texts is None else read_texts(self.texts)
        if not self.images and self.texts is None:
            raise UserError("nothing to embed: give --images=DIR, --texts=FILE or both")
        if self.batch_size < 1 or self.threads < 1:
            raise UserError("--batch-size and --threads must be at least 1")
        return Found(root, names, texts)


@dataclasses.dataclass(frozen=True)
class Found:
    """Pictures by their names below `root`, and texts."""

    root: str
    names: list[str]
    texts: list[str]


def embed(request: Request) -> dict[str, Any]:
    """Writes the .npz of `embed` (see cli/embed.py); returns {out, images, skipped, texts, dim,
    seconds}, in a job the first process alone.

    Raises:
      UserError: nothing to embed, a missing folder or file, an unreadable picture (named), a
        checkpoint that does not prove itself, texts for a model without a text tower, a tokenizer
        that does not fit, a place that cannot be written.
    """
    found = request.find()
    check_npz(request.out)
    start = time.perf_counter()
    start_jax()
    model = load_model(request.checkpoint, request.sharding)
    arrays = embed_found(model, request, found)
    if not first_process():
        return {}
    write_npz(request.out, arrays)
    images = len(arrays.get("image", ()))
    return {
        "out": request.out,
        "images": images,
        "skipped": len(found.names) - images,
        "texts": len(found.texts),
        "dim": (arrays["image"] if "image" in arrays else arrays["text"]).shape[1],
        "seconds": round(time.perf_counter() - start, 2),
    }


def embed_found(model: Model, request: Request, found: Found) -> dict[str, np.ndarray]:
    """The arrays of the .npz by name. Raises UserError as `embed`."""
    for side, asked in (("text", found.texts), ("image", found.names)):
        if asked:
            model.run(side, f"--{side}s: ")
    progress, result = Progress(len(found.names) + len(found.texts)), {}
    how = Batching(request.batch_size, request.threads, progress.add)
    if "text" in model.embedders():  # first: a tokenizer that does not fit is told at once
        result["text"] = model.embed_texts(found.texts, how)
        result["texts"] = np.array(found.texts, dtype=str)
    if "image" in model.embedders():
        result["image"], kept = embed_names(model, request, found, how)
        result["image_paths"] = np.array(kept, dtype=str)
    if model.method.scale(model.params) is not None:
        result["logit_scale"] = np.float32(model.scale_of())
    progress.end()
    for side, what in (("text", "text"), ("image", "picture")):
        norms = np.linalg.norm(result.get(side, np.zeros((0, 1))), axis=-1)
        if bad := int((~(np.abs(norms - 1) < 0.01)).sum()):
            why = "zero or not finite: what they are compared with says nothing"
            _log.warning("%s with an embedding that is %s", count_of(bad, what), why)
    return result


def embed_names(
    model: Model, request: Request, found: Found, how: Batching
) -> tuple[np.ndarray, list[str]]:
    """(float32[N, E], the names that were readable). Raises UserError when an unreadable one is not
    to be skipped, or all are.
    """

    def decode(name: str) -> np.ndarray | None:
        try:
            return model.decode(read_bounded(os.path.join(found.root, name), ""))
        except DamagedSample as error:
            if request.skip_damaged:
                return None
            raise UserError(f"--images: {name}: {error} {SKIP}") from error

    rows, kept = embed_pictures(model.run("image"), found.names, decode, how)
    if found.names and not kept:
        raise UserError(f"--images: {found.root}: none of {len(found.names)} pictures can be read")
    return joined(rows, model.width("image")), kept


def similarity(request: Request, scale: float | None = None) -> dict[str, Any]:
    """Writes table.csv, table.png, space.png and report.json into the folder `out`; returns {out,
    images, skipped, texts, scale, seconds}, in a job the first process alone.

    scale: None is the model's own. Raises UserError as `embed`, and for a model without a text
    tower.
    """
    from vlp_jax.report.similarity import Compared, write_similarity

    found = request.find()
    said = [text for text in found.texts if text.strip()]
    if len(said) < len(found.texts):
        blank = count_of(len(found.texts) - len(said), "blank line")
        print(f"{request.texts}: {count_of(len(said), 'text')}; left out: {blank}", file=sys.stderr)
    found = dataclasses.replace(found, texts=said)
    if not found.names or not found.texts:
        raise UserError("nothing to compare: give --images=DIR and --texts=FILE")
    if scale is not None:
        check_scale(scale, "--scale")
    check_writable("--out", request.out)
    start = time.perf_counter()
    start_jax()
    model = load_model(request.checkpoint, request.sharding)
    model.run("text", "--texts: ")
    scale = model.scale_of(scale)
    arrays = embed_found(model, request, found)
    if not first_process():
        return {}
    image, text = arrays["image"], arrays["text"]
    names = [str(name) for name in arrays["image_paths"]]
    compared = Compared(names, found.texts, image, text, shares(image, text, scale), scale)

    def thumbnail(number: int) -> np.ndarray:  # what the model sees, not the whole file
        return model.decode(os.path.join(found.root, names[number]))

    write_similarity(compared, request.out, thumbnail)
    return {
        "out": request.out,
        "images": len(names),
        "skipped": len(found.names) - len(names),
        "texts": len(found.texts),
        "scale": scale,
        "seconds": round(time.perf_counter() - start, 2),
    }


class Progress:
    """A line on stderr: done, rate and time left, at most once a second, in a log every ten."""

    def __init__(self, total: int, word: str = "embed"):
        self.total, self.done, self.word = total, 0, word
        self.start = self.shown = time.perf_counter()

    def add(self, count: int) -> None:
        self.done += count
        now = time.perf_counter()
        if now - self.shown < (1 if sys.stderr.isatty() else 10):
            return
        self.shown = now
        rate = self.done / (now - self.start)
        left = (self.total - self.done) / rate
        end = "\r" if sys.stderr.isatty() else "\n"
        print(
            f"{self.word} {self.done}/{self.total}  {rate:.1f}/s  {left:.0f} s left  ",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)
