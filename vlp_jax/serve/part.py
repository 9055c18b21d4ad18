"""A run of examples embedded and written: one part of an index.

The file exists so that what is lost by a kill is one part at most, and what a part holds is decided
in one place.
"""

import dataclasses
import io
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.api.embed import Batching, embed_pictures, embed_texts, joined
from vlp_jax.api.model import Model, TextArrays
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.index import open_index
from vlp_jax.data.source import Source
from vlp_jax.data.staging import file_facts
from vlp_jax.data.whole import write_whole
from vlp_jax.serve.index import FOLDERS, METADATA, THUMBNAILS
from vlp_jax.serve.metadata import GROUP, load_pyarrow
from vlp_jax.serve.sample import Sample, read_sample, write_table


@dataclasses.dataclass(frozen=True)
class Embedding:
    """What is embedded by what.

    Attributes:
      thumbnails: pixels of their longer side, 0 for none.
      texts: of the model, to embed the first caption of every picture too; None embeds none.
    """

    model: Model
    source: Source
    thumbnails: int
    texts: TextArrays | None
    how: Batching


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows in the order of the source, without those that cannot be used.

    Attributes:
      image: float32[n, E]; text: the same of the captions, zeros without one, or None.
      samples: what else is known of them, n.
      skipped: {reason: count}.
    """

    image: np.ndarray
    text: np.ndarray | None
    samples: list[Sample]
    skipped: Counter


def embed_part(what: Embedding, rows: range) -> Part:
    """Embeds some examples of the source."""
    read: dict[int, Sample] = {}
    skipped: Counter = Counter()

    def decode(i: int) -> np.ndarray | None:
        try:
            sample = read_sample(what.source, i, what.model.decode, what.thumbnails)
        except DamagedSample as damage:
            skipped[damage.reason] += 1
            return None
        read[i] = sample._replace(picture=None)
        return sample.picture

    found, kept = embed_pictures(what.model.run("image"), rows, decode, what.how)
    image = joined(found, what.model.width("image"))
    sound = np.isfinite(image).all(axis=1) & image.any(axis=1)
    if not sound.all():
        skipped["no_vector"] += int((~sound).sum())
    samples = [read[i] for i, good in zip(kept, sound, strict=True) if good]
    text = _captions(what, samples) if what.texts else None
    return Part(image[sound], text, samples, skipped)


def _captions(what: Embedding, samples: Sequence[Sample]) -> np.ndarray:
    """float32[n, E]: of every first caption, each distinct one embedded once; zeros without."""
    own = [sample.columns["caption"] for sample in samples]
    distinct = {text: at for at, text in enumerate(dict.fromkeys(filter(None, own)))}
    how = dataclasses.replace(what.how, told=lambda count: what.how.told(0))
    rows = embed_texts(what.model.run("text"), distinct, what.texts, how)
    rows = np.concatenate(
        [
            joined(rows, what.model.width("text")),
            np.zeros((1, what.model.width("text")), np.float32),
        ]
    )
    return rows[[distinct.get(text, -1) for text in own]]


def write_part(part: Part, folder: str, name: str) -> dict[str, Any]:
    """Writes the files of a part, each whole; returns its record: rows, dim, captions, skipped,
    files {path: facts}. name: its number, as in img_emb/img_emb_NAME.npy. Raises OSError.
    """
    sides = {"image": part.image, "text": part.text}
    writers = {
        f"{FOLDERS[side]}/{FOLDERS[side]}_{name}.npy": lambda path, rows=rows: _save(path, rows)
        for side, rows in sides.items()
        if rows is not None
    }
    columns = [sample.columns for sample in part.samples]
    writers[f"{METADATA}/{METADATA}_{name}.parquet"] = lambda path: write_table(
        path, columns, load_pyarrow(), GROUP
    )
    if any(sample.thumbnail for sample in part.samples):
        writers[f"{THUMBNAILS}/{THUMBNAILS}_{name}.tar"] = lambda path: _tar(path, part.samples)
    for file, write in writers.items() if part.samples else ():
        write_whole(os.path.join(folder, file), write)
    found = {file: file_facts(os.path.join(folder, file)) for file in writers if part.samples}
    for file in found:
        if file.endswith(".tar"):
            open_index(os.path.join(folder, file), rebuild=True)
    captions = 0 if part.text is None else int(part.text.any(axis=1).sum())
    counts = {"rows": len(part.samples), "dim": part.image.shape[1], "captions": captions}
    return {**counts, "skipped": dict(part.skipped), "files": found}


def _save(path: str, rows: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, rows.astype(np.float16), allow_pickle=False)


def _tar(path: str, samples: Sequence[Sample]) -> None:
    """NUMBER.jpg of every row of the part, without times and owners: the same rows, the same
    bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, sample in enumerate(samples):
            entry = tarfile.TarInfo(f"{number:07d}.jpg")
            entry.size = len(sample.thumbnail)
            tar.addfile(entry, io.BytesIO(sample.thumbnail))
