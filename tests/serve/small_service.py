"""A service over coloured squares and a model that sees mean colours: everything but a network.

The file exists so that tests of the service and of the page know what must be found.
"""

import io
import pathlib
import re
import tarfile
import types

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from vlp_jax.data.decode import decode_image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 60, 220),
    "yellow": (230, 220, 40),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}
SHADES = 10
WIDTH = 4


class ColourModel:
    """Embeds pictures and the names of colours as their mean colour and a constant."""

    path = "colours"

    def __init__(self):
        self.calls = []

    def embedders(self):
        return {"image": None, "text": None}

    def width(self, side):
        return WIDTH

    params: dict = {}

    def decode(self, picture):
        return decode_image(picture, 8)

    def embed_images(self, pictures, how=None):
        self.calls.append(("pictures", len(pictures)))
        return unit([np.asarray(p, float).reshape(-1, 3).mean(0) for p in pictures])

    def embed_texts(self, texts, how=None):
        self.calls.append(("texts", len(texts)))
        return unit([self._colour(text) for text in texts])

    def _colour(self, text):
        found = [COLOURS[word] for word in re.findall(r"\w+", text.lower()) if word in COLOURS]
        return np.mean(found or [(128, 128, 128)], axis=0)


def unit(colours):
    rows = np.concatenate([np.asarray(colours) - 127.5, np.full((len(colours), 1), 20.0)], axis=1)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def encoded(colour, size=(32, 32), kind="PNG"):
    """The file of a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(file, kind)
    return file.getvalue()


def write_index(folder, texts=True, files=False, captions=None):
    """An index in clip-retrieval's layout: SHADES squares of every colour, row by row; returns
    their colours. files: pictures named in the metadata, instead of thumbnails."""
    rng = np.random.default_rng(0)
    rows = [
        (f"{name} square {i}", np.clip(np.add(rgb, rng.integers(-9, 9, 3)), 0, 255))
        for name, rgb in COLOURS.items()
        for i in range(SHADES)
    ]
    vectors = unit([rgb for _, rgb in rows])
    names = ["img_emb", "text_emb"] if texts else ["img_emb"]
    for name in [*names, "metadata", "thumbnails"][: 2 + len(names) - files]:
        (folder / name).mkdir(parents=True)
    for name in names:
        np.save(folder / name / f"{name}_0.npy", vectors.astype(np.float16))
    said = [caption for caption, _ in rows] if captions is None else captions
    columns = {
        "key": [f"{i:04d}" for i in range(len(rows))],
        "caption": said,
        "path": [f"squares/{i:04d}.png" for i in range(len(rows))],
        "shade": [i % SHADES for i in range(len(rows))],
    }
    if files:
        (folder / "squares").mkdir()
        columns["image_path"] = [str(folder / path) for path in columns.pop("path")]
        for path, (_, rgb) in zip(columns["image_path"], rows, strict=True):
            pathlib.Path(path).write_bytes(encoded(rgb))
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, folder / "metadata" / "metadata_0.parquet")
    if not files:
        with tarfile.open(folder / "thumbnails" / "thumbnails_0.tar", "w") as tar:
            for i, (_, rgb) in enumerate(rows):
                data = encoded(rgb, kind="JPEG")
                entry = tarfile.TarInfo(f"{i:07d}.jpg")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return [rgb for _, rgb in rows]


def make_service(folder, model=True, **how):
    """A service over `write_index`'s folder."""
    from vlp_jax.serve.index import Index
    from vlp_jax.serve.search import Searcher
    from vlp_jax.serve.service import Service

    searcher = Searcher(Index.open(folder), ColourModel() if model else None)
    return Service(searcher, "squares", [*COLOURS, "a red and yellow fire"], **how)


def running(service):
    """The service on a port of its own: `.url`, `.stop()`."""
    import threading

    from vlp_jax.serve import server

    sock = server.bind("127.0.0.1", 0)
    ready = threading.Event()
    found = types.SimpleNamespace(url=server.url_of("127.0.0.1", sock))
    config = server.config_of(service.app())
    told = server.Told(config, ready.set)
    thread = threading.Thread(target=told.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    assert ready.wait(20)

    def stop():
        told.should_exit = True
        thread.join(10)
        sock.close()

    found.stop = stop
    return found
