"""The search service over HTTP: clip-retrieval's routes, those of the page, health and metrics.

    GET  /                 the page             POST /knn-service  as clip-retrieval's
    GET  /indices-list     names                POST /metadata     as clip-retrieval's
    GET  /health           {"status": "ok"}     POST /search       a weighted query (requests.py)
    GET  /info             what is served       POST /words        what the model sees in a query
    GET  /thumbnail/ROW    a picture            GET  /metrics, /metrics-summary

An error is {"error": ONE LINE} with its status. Made of starlette (starlette.dev). The file exists
as the list of routes, each a few lines over the engine.
"""

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vlp_jax.core.errors import UserError
from vlp_jax.core.strict_json import dumps
from vlp_jax.serve import requests
from vlp_jax.serve.bodies import Budget, Held, Paced, Refusal, read_body, unless_gone
from vlp_jax.serve.engine import Engine
from vlp_jax.serve.fair import client_of
from vlp_jax.serve.lookup import Found
from vlp_jax.serve.metrics import CONTENT_TYPE_LATEST, Metrics
from vlp_jax.serve.page import page_response
from vlp_jax.serve.requests import Part, Query, Refused, printed
from vlp_jax.serve.safety import FILE as SAFETY
from vlp_jax.serve.search import Searcher
from vlp_jax.serve.words import Words

_log = logging.getLogger(__name__)
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
CARD = ("key", "caption", "image_path")  # what the page shows of a result
ANSWER = (*CARD, "path", "url", "width", "height", "NSFW")  # of `/knn-service`
SAMPLE = 24  # rows that the page shows before a query

Answer = Callable[[Mapping[str, Any], str], Awaitable[Any]]  # of a body and who sent it


class Service:
    """The routes of one index.

    Args:
      searcher: over an open index. name: of the index. words: that the model is asked about.
      fetching: whether `image_url` is fetched.
    """

    def __init__(self, searcher: Searcher, name: str, words: Sequence[str], fetching: bool = False):
        self.name, self.metrics, self.budget = name, Metrics(), Budget()
        self.index, self.engine = searcher.index, Engine(searcher, self.metrics, fetching)
        self.words = Words(words, self.engine.embed)
        self.metrics.rows.set(self.index.rows)
        self.version = _digest(self.index)
        self.model = list(searcher.model.embedders()) if searcher.model else []
        self.trained = os.path.exists(os.path.join(self.index.folder, SAFETY))

    def app(self, hosts: Sequence[str] = LOOPBACK) -> Starlette:
        """The application. hosts: names by which it may be called; ["*"] is any. A page elsewhere
        whose name is made to point here (DNS rebinding) sends its own.
        """
        posts = {
            "/knn-service": self.knn,
            "/metadata": self.metadata,
            "/search": self.search,
            "/words": self.seen,
        }
        gets = {
            "/": self.page,
            "/health": self.health,
            "/indices-list": self.names,
            "/info": self.info,
            "/thumbnail/{row}": self.thumbnail,
            "/metrics": self.exposition,
            "/metrics-summary": self.summary,
        }
        routes = [Route(path, answer) for path, answer in gets.items()]
        routes += [
            Route(path, Post(self, path, answer), methods=["POST"])
            for path, answer in posts.items()
        ]
        guards = [Middleware(Hosts, allowed=tuple(hosts))]
        known = ", ".join([*gets, *posts])

        async def missing(request: Request, error: Any) -> Response:
            told = f"{request.method} {printed(request.url.path)}: no such route; there are {known}"
            return JSONResponse({"error": told}, error.status_code)

        handlers = {404: missing, 405: missing, Refused: _refused, Exception: _failed}
        return Starlette(
            routes=routes, middleware=guards, exception_handlers=handlers, lifespan=self._lifespan
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        warming = asyncio.create_task(self.engine.warm_up(ANSWER))
        yield
        warming.cancel()
        self.engine.close()

    async def knn(self, body: Mapping[str, Any], client: str) -> list[dict[str, Any]]:
        """clip-retrieval's `/knn-service`: a list of {id, similarity, metadata..., image}. Its
        safety model is a trained one; without safety.npz it is not applied, as on its server.
        """
        query = requests.knn_query(body, self.index.width)
        query = dataclasses.replace(query, safe=query.safe and self.trained)
        self._check_name(body["indice_name"])
        with self.metrics.time("full_knn_request_time"):
            found = await self.engine.find(query, client)
            ids = [hit.id for hit in found.hits]
            rows = await self._read(client, ids[: query.detailed], ANSWER, True)
        rows += [{} for _ in ids[len(rows) :]]
        return [
            row | {"id": hit.id, "similarity": hit.score}
            for row, hit in zip(rows, found.hits, strict=True)
        ]

    async def metadata(self, body: Mapping[str, Any], client: str) -> list[dict[str, Any]]:
        """clip-retrieval's `/metadata`: [{id, metadata}]."""
        self._check_name(body.get("indice_name"))
        ids = requests.ids(body, self.index.rows)
        rows = await self._read(client, ids, None, True)
        return [{"id": i, "metadata": row} for i, row in zip(ids, rows, strict=True)]

    async def search(self, body: Mapping[str, Any], client: str) -> dict[str, Any]:
        """The page's query: {"results": [{id, score, metadata}], "vectors": of the pictures}."""
        query = requests.page_query(body, self.index.width, self.index.rows)
        with self.metrics.time("full_knn_request_time"):
            found = await self.engine.find(query, client)
            rows = await self._read(client, [hit.id for hit in found.hits], CARD)
        results = [
            {"metadata": row, "id": hit.id, "score": hit.score}
            for row, hit in zip(rows, found.hits, strict=True)
        ]
        return {"results": results, "vectors": _of_pictures(query.parts, found)}

    async def seen(self, body: Mapping[str, Any], client: str) -> dict[str, Any]:
        """Which words of the list are nearest to a query: {"words": [{text, score}]}."""
        found = requests.parts(body.get("query"), self.index.width, self.index.rows)
        count = requests.whole(body, "k", 1, 100, default=12)
        vector = (await self.engine.find(Query(found, 0, 0), client)).query
        best = await self.words.nearest(vector, count)
        return {"words": [{"text": text, "score": score} for text, score in best]}

    async def page(self, request: Request) -> Response:
        return page_response()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "index": self.name, "rows": self.index.rows})

    async def names(self, request: Request) -> Response:
        return JSONResponse([self.name])

    async def info(self, request: Request) -> Response:
        """What the page must know before it asks."""
        rows = self.index.rows
        shown = [i * rows // min(rows, SAMPLE) for i in range(min(rows, SAMPLE))]
        described = await self._read(_client(request), shown, CARD)
        sample = [{"id": i, "metadata": row} for i, row in zip(shown, described, strict=True)]
        known = {"modalities": self.index.modalities, "columns": self.index.columns}
        found = {"name": self.name, "rows": rows, "version": self.version, "model": self.model}
        found["safe"] = self.trained or "text" in self.model
        return Response(
            dumps(found | known | {"sample": sample}),
            media_type="application/json",
        )

    async def thumbnail(self, request: Request) -> Response:
        """A row's picture; the page asks with the version, so it may be kept."""
        asked = request.path_params["row"]
        row = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 19 else -1
        if not 0 <= row < self.index.rows:
            raise Refused(404, f"no row {printed(asked)}; the index has {self.index.rows}")
        data = await self.engine.read(_client(request), self.index.thumbnail, row)
        if data is None:
            raise Refused(404, f"row {row} has no picture here")
        kept = {"cache-control": "private, max-age=604800, immutable"}
        safe = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}
        return Response(data, media_type=_kind(data), headers=kept | safe)

    async def exposition(self, request: Request) -> Response:
        return Response(self.metrics.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def summary(self, request: Request) -> Response:
        return PlainTextResponse(self.metrics.summary())

    def _check_name(self, name: Any) -> None:
        """Null is the only index, as in clip-retrieval."""
        if name is not None and name != self.name:
            raise Refused(400, f"indice_name: no index {printed(name)!r}; there is {self.name!r}")

    async def _read(self, client: str, *args: Any) -> list[dict[str, Any]]:
        """`_described` in the turn of a client."""
        return await self.engine.read(client, self._described, *args) if args[0] else []

    def _described(
        self, ids: Sequence[int], columns: Sequence[str] | None, pictures: bool = False
    ) -> list[dict[str, Any]]:
        """Metadata of rows, all where `columns` is None, and their pictures in base64 as
        clip-retrieval sends them."""
        with self.metrics.time("metadata_get_time"):
            rows = [dict(row) for row in self.index.metadata(ids, columns)]
            for i, row in zip(ids, rows, strict=True):
                data = self.index.thumbnail(i) if pictures else None
                if data is not None:
                    row["image"] = base64.b64encode(data).decode("ascii")
        return rows


class Hosts:
    """Refuses what calls the service by another name, in JSON as all mistakes are."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]):
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self._allowed:
            host = Headers(scope=scope).get("host", "").lower()
            name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
            if name not in self._allowed:
                told = f"Host: {printed(host)}: this service answers as {self._allowed[0]} alone"
                return await JSONResponse({"error": told}, 400)(scope, receive, send)
        return await self._app(scope, receive, send)


class Post:
    """One route that takes a JSON object: bounded body in, JSON out, mistakes in one line."""

    def __init__(self, service: Service, path: str, answer: Answer):
        self._service, self._path, self._answer = service, path, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with self._service.budget.hold(_client(request)) as held:
            response = await self._respond(request, held)
            self._service.metrics.answers.labels(self._path, str(response.status_code)).inc()
            await response(scope, receive, send)

    async def _respond(self, request: Request, held: Held) -> Response:
        read = False
        try:
            _check_origin(request)
            body = await read_body(request, held)
            read = True
            answer = await unless_gone(
                request.receive, self._answer(requests.parse(body), _client(request))
            )
            text = dumps(answer, ensure_ascii=False)
            data = text.encode("utf-8", "replace")
            held.take(len(data))
            return Paced(data, media_type="application/json")
        except Refused as refused:
            if not read:
                return Refusal(_told(refused), refused.status, held)
            return Paced(_told(refused), refused.status, media_type="application/json")
        except UserError as error:
            return Paced(_told(error), 400, media_type="application/json")
        except Exception:
            _log.exception("%s failed", self._path)
            return Paced(b'{"error": "the service failed; see its log"}', 500)


def _client(request: Request) -> str:
    """Whose turn a request takes. The socket's address: X-Forwarded-For is what anybody writes."""
    return client_of(request.client.host if request.client else "")


def _check_origin(request: Request) -> None:
    """Refuses what a page of another site sends from the user's browser."""
    origin = request.headers.get("origin", "")
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        raise Refused(403, "Origin: another site's page may not search here")


def _told(error: Exception) -> bytes:
    return dumps({"error": " ".join(str(error).split())}).encode()


async def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse({"error": str(error)}, error.status)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the service failed; see its log"}, 500)


def _of_pictures(parts: Sequence[Part], found: Found) -> dict[str, list[float]]:
    """{number of a part: float[E]} of the parts that came as pictures."""
    came = [i for i, part in enumerate(parts) if part.kind in ("image", "url")]
    return {str(i): [round(float(x), 5) for x in found.vectors[i]] for i in came}


def _kind(data: bytes) -> str:
    """The type of a thumbnail by its first bytes."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    return "image/webp" if data[8:12] == b"WEBP" else "image/jpeg"


def _digest(index: Any) -> str:
    """Changes when the index does."""
    said = dumps([dict(index.manifest), index.rows, index.width, os.fspath(index.folder)])
    return hashlib.sha256(said.encode()).hexdigest()[:12]
