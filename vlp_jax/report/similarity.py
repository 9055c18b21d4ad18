"""What pictures say of texts: a table of numbers, the same in colour beside the pictures, and a
plane of both.

The file exists so that the command draws with the pieces that draw a report, and of any number of
pictures and texts.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Sequence

import numpy as np

from vlp_jax.core.errors import count_of, printable
from vlp_jax.core.vectors import facing
from vlp_jax.report.heatmap import share_table
from vlp_jax.report.plots import joint_space
from vlp_jax.report.results import write_json, write_text

ROWS, COLUMNS = 40, 24  # of the drawn table at most


@dataclasses.dataclass(frozen=True)
class Compared:
    """Pictures against texts.

    Attributes:
      images, texts: names of N pictures, M texts.
      image, text: float32[N, (n,) D], float32[M, D] of unit norm.
      share: float32[N, M], the softmax over the texts of scale * cosine.
      scale: of the cosines.
    """

    images: Sequence[str]
    texts: Sequence[str]
    image: np.ndarray
    text: np.ndarray
    share: np.ndarray
    scale: float


def write_similarity(found: Compared, folder: str, thumbnail: Callable[[int], np.ndarray]) -> None:
    """Writes table.csv, table.png, space.png and report.json, each whole or not at all.

    thumbnail: number of a picture -> uint8[S, S, 3].
    """
    names = ("table.csv", "table.png", "space.png", "report.json")
    csv_file, table, space, report = (os.path.join(folder, name) for name in names)
    images = [printable(name) for name in found.images]
    write_text(csv_file, to_csv(images, found.texts, found.share))
    rows, columns = shown(found.share)
    thumbnails = {int(i): thumbnail(int(i)) for i in rows}
    texts = {int(j): found.texts[j] for j in columns}
    few = found.share[np.ix_(rows, columns)]
    note = f"Softmax of {found.scale:.4g} x cosine over {count_of(found.share.shape[1], 'prompt')}"
    left = [f"{len(rows)} of {len(images):,} pictures"] * (len(rows) < len(images))
    left += [f"{len(columns)} of {len(found.texts):,} prompts"] * (len(columns) < len(found.texts))
    note += f" (shown: {', '.join(left)})" if left else "; bold: the choice"
    named = [images[i] for i in thumbnails]
    share_table(list(thumbnails.values()), list(texts.values()), few, table, note, names=named)
    said = found.text[found.share.argmax(axis=1)]
    image = np.asarray(facing(found.image, said))
    joint_space(image, found.text, space, texts, thumbnails)
    numbers = {"images": images, "texts": list(found.texts), "similarity": found.share}
    write_json(report, {**numbers, "scale": found.scale})


def to_csv(images: Sequence[str], texts: Sequence[str], share: np.ndarray) -> str:
    """Lines of a picture and its shares, nine digits each, which tell every float32, under
    `image,TEXT,...`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", *texts])
    for name, row in zip(images, share, strict=True):
        writer.writerow([name, *(f"{value:#.9g}" for value in row)])
    return out.getvalue()


def shown(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of float[N, M] that are drawn: all of few, else pictures evenly spaced and
    the texts that some of these choose most.
    """
    count = len(share)
    rows = np.arange(min(count, ROWS)) * count // min(count, ROWS)
    most = np.argsort(-share[rows].max(axis=0), kind="stable")[:COLUMNS]
    return rows, np.sort(most)
