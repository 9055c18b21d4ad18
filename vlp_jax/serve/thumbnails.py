"""Small pictures of rows: those of the index, or made of the files that clip-retrieval's metadata
names in `image_path`.

Such an index has no thumbnails; its own service reads the file for every answer. The file exists so
that the page and that client see pictures of either kind of folder.
"""

import functools

from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import shrink
from vlp_jax.data.folder import read_bounded
from vlp_jax.serve.index import Index
from vlp_jax.serve.sample import to_jpeg

SIDE = 256


class Thumbnails:
    """Pictures by row; the last few that were made are kept."""

    def __init__(self, index: Index):
        self._index = index
        self._named = "image_path" in index.columns
        self._made = functools.lru_cache(2048)(self._make)

    def get(self, row: int) -> bytes | None:
        """The file of a picture; None where there is none that could be read."""
        found = self._index.thumbnail(row)
        return self._made(row) if found is None and self._named else found

    def _make(self, row: int) -> bytes | None:
        (said,) = self._index.metadata([row], ["image_path"])
        path = said.get("image_path")
        try:
            return to_jpeg(shrink(read_bounded(path, ""), SIDE)[0]) if path else None
        except DamagedSample:
            return None
