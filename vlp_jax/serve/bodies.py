"""Bodies in and answers out under a bound on bytes and on patience.

A client may announce a gigabyte, drip one byte a second or never read its answer. The file exists
so that every route reads and writes through one gate: memory of all requests together has a limit,
and a connection that falls behind a modem's pace is told so and closed.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Coroutine, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vlp_jax.serve.requests import Refused, Shape

MAX_BODY = 16 << 20  # a picture of 12 MB in base64
MAX_UNTOLD = 1 << 20  # of a body that comes without its length
SMALL = 64 << 10  # what a request without a picture needs; neither counted nor paced
TOTAL = 256 << 20  # of all requests at work, half of it of one client
RATE = 128 << 20  # bytes/s of a client's large bodies: reading them leaves time for the others
GRACE, PACE = 0.5, 32 << 10  # seconds, then bytes/s
LINGER = 0.8  # seconds in which a refused body is still read
CHUNK = 64 << 10


class Budget:
    """Bytes that all requests may hold together, and how fast those of one client may come."""

    def __init__(self, total: int = TOTAL):
        self.total, self.used = total, 0
        self._shares: dict[str, Share] = {}

    @contextlib.contextmanager
    def hold(self, client: str) -> Iterator["Held"]:
        """What one request of a client holds until its end."""
        share = self._shares.setdefault(client, Share())
        share.requests += 1
        held = Held(self, share)
        try:
            yield held
        finally:
            self.used -= held.counted
            share.used -= held.counted
            share.requests -= 1
            if not share.requests:
                del self._shares[client]


@dataclasses.dataclass
class Share:
    """What one client has at work. free_at: when its next bytes may come."""

    requests: int = 0
    used: int = 0
    free_at: float = 0.0


class Held:
    """The bytes of one request; `counted` of them are the budget's. whole: its body has come."""

    def __init__(self, budget: Budget, share: Share):
        self._budget, self._share = budget, share
        self._seen, self.counted, self.whole = 0, 0, False

    def take(self, count: int) -> None:
        """Adds bytes.

        Raises:
          Refused: 429, all requests together, or those of this client, hold too many.
        """
        self._seen += count
        more, total = max(0, self._seen - SMALL) - self.counted, self._budget.total
        if self._budget.used + more > total or self._share.used + more > total // 2:
            raise Refused(429, "busy: too many large requests at once; try again")
        self._budget.used += more
        self._share.used += more
        self.counted += more

    async def turn(self, count: int) -> float:
        """Waits until so many bytes more are within `RATE`; the seconds that it waited."""
        now, share = time.monotonic(), self._share
        share.free_at = max(share.free_at, now) + count / RATE
        await asyncio.sleep(share.free_at - now)
        return share.free_at - now


async def read_body(request: Request, held: Held) -> bytes:
    """The whole body.

    Raises:
      Refused: 413 too long, as announced or as sent; 408 too slow; 400 a wrong length, or more
        structure than any query has.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18:
        raise Refused(400, "Content-Length: must be a number")
    if int(length) > MAX_BODY:
        raise Refused(413, f"body: {int(length):,} bytes; at most {MAX_BODY:,}")
    most = MAX_BODY if int(length) else MAX_UNTOLD
    body, deadline, shape = bytearray(), time.monotonic() + GRACE, Shape()
    while not held.whole:
        try:
            async with asyncio.timeout(deadline + len(body) / PACE - time.monotonic()):
                message = await request.receive()
        except TimeoutError:
            raise Refused(408, "body: came too slowly") from None
        if message["type"] != "http.request":
            raise Refused(400, "body: cut")
        chunk, held.whole = message.get("body", b""), not message.get("more_body")
        if len(body) + len(chunk) > most:
            raise Refused(413, f"body: more than {most:,} bytes")
        shape.add(chunk)
        held.take(len(chunk))
        body += chunk
        if len(body) > SMALL:
            deadline += await held.turn(len(chunk))
    return bytes(body)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """What work returns; it is dropped, with all that it waits for, where its client leaves before.

    Raises:
      Refused: 499, the client has gone.
    """

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refused(499, "the client has gone")
    finally:
        task.cancel()
        gone.cancel()


class Refusal(Response):
    """The answer to a request whose body may still be under way: sent at once, then the rest of
    the body is read for a moment and the connection closed. A client that writes its whole body
    before it reads would else meet a reset instead of the answer.
    """

    def __init__(self, content: bytes, status: int, held: Held):
        super().__init__(content, status, {"connection": "close"}, "application/json")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not self._held.whole:
                    message = await receive()
                    self._held.whole = not message.get("more_body")
                    await self._held.turn(len(message.get("body", b"")))
        await send({"type": "http.response.body", "body": b""})


class Paced(Response):
    """An answer in chunks that its reader must take at `PACE` at least; else it is cut."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= CHUNK:
            return await super().__call__(scope, receive, send)
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        deadline = time.monotonic() + 10 * GRACE
        for at in range(0, len(self.body), CHUNK):
            more = at + CHUNK < len(self.body)
            message = {"type": "http.response.body", "more_body": more}
            try:
                async with asyncio.timeout(deadline + at / PACE - time.monotonic()):
                    await send({**message, "body": self.body[at : at + CHUNK]})
            except TimeoutError:
                return None
        return None
