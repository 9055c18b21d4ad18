"""Opens an index with its model and serves it.

The file exists so that the command, and a notebook that wants a service, refuse the same mistakes
before anything slow.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.encoding import read_text


@dataclasses.dataclass(frozen=True)
class Request:
    """What to serve: a folder of an index, where, and how (cli/serve.py)."""

    index: str
    checkpoint: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    words: str = ""
    fetch_urls: bool = False


def start(asked: Request, listening: Callable[[Mapping[str, Any]], None]) -> None:
    """Serves until it is interrupted; listening: told {url, name, rows} once it answers.

    Raises:
      UserError: no index, an empty one, another model's; a port in use; the extra `search` missing.
    """
    try:
        from vlp_jax.serve import server
        from vlp_jax.serve.page import WORDS
        from vlp_jax.serve.service import LOOPBACK, Service
    except ImportError as error:
        what = f"serve needs {error.name}: pip install 'vlp_jax[search]'"
        raise UserError(what) from error
    from vlp_jax.parallel.startup import start_jax
    from vlp_jax.serve.index import Index
    from vlp_jax.serve.search import Searcher

    start_jax()
    words = _words(asked.words or str(WORDS))
    with server.bind(asked.host, asked.port) as sock:
        index = Index.open(asked.index)
        searcher = Searcher(index, _model(asked, index))
        name = os.path.basename(os.path.abspath(asked.index))
        service = Service(searcher, name, words, asked.fetch_urls)
        hosts = LOOPBACK if asked.host in LOOPBACK else ("*",)
        found = {"url": server.url_of(asked.host, sock), "name": name, "rows": index.rows}
        server.serve(service.app(hosts), sock, lambda: listening(found))


def _words(path: str) -> list[str]:
    """Distinct lines of a file. Raises UserError."""
    try:
        found = list(dict.fromkeys(filter(None, map(str.strip, read_text(path).split("\n")))))
    except UserError as error:
        raise UserError(f"--words: {error}") from error
    if not found:
        raise UserError(f"--words: {path}: holds no words")
    return found


def _model(asked: Request, index: Any) -> Any:
    """The given checkpoint, else the one that the index remembers; None of a folder that remembers
    none, in which a picture's neighbours can be looked at all the same.
    """
    from vlp_jax.api.model import load_model
    from vlp_jax.serve.query import remembered

    if not asked.checkpoint and not index.manifest:
        gone = f"{index.folder}: names no checkpoint; without --checkpoint=DIR no words are read"
        print(gone, file=sys.stderr)
        return None
    return load_model(asked.checkpoint or remembered(index))
