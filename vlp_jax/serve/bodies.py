"""Bodies in and answers out under a bound on bytes and on patience.

A client may announce a gigabyte, drip one byte a second or never read its answer. The file exists
so that every route reads and writes through one gate: memory of all requests together has a limit,
and a connection that falls behind a modem's pace is told so and closed.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vlp_jax.serve.requests import Refused

MAX_BODY = 16 << 20  # a picture of 12 MB in base64
SMALL = 64 << 10  # what a request without a picture needs; not counted
TOTAL = 256 << 20  # of all requests at work
GRACE, PACE = 1.0, 32 << 10  # seconds, then bytes/s
LINGER, LINGER_BYTES = 1.0, 32 << 20  # in which a refused body is still read
CHUNK = 64 << 10


class Budget:
    """Bytes that all requests may hold together."""

    def __init__(self, total: int = TOTAL):
        self.total, self.used = total, 0

    @contextlib.contextmanager
    def hold(self) -> Iterator["Held"]:
        """What one request holds until its end."""
        held = Held(self)
        try:
            yield held
        finally:
            self.used -= held.counted


class Held:
    """The share of one request; `counted` bytes of it are the budget's."""

    def __init__(self, budget: Budget):
        self._budget, self._seen, self.counted = budget, 0, 0

    def take(self, count: int) -> None:
        """Adds bytes.

        Raises:
          Refused: 429, all requests together hold too many.
        """
        self._seen += count
        more = max(0, self._seen - SMALL) - self.counted
        if self._budget.used + more > self._budget.total:
            raise Refused(429, "busy: too many large requests at once; try again")
        self._budget.used += more
        self.counted += more


async def read_body(request: Request, held: Held) -> bytes:
    """The whole body.

    Raises:
      Refused: 413 too long, as announced or as sent; 408 too slow; 400 a wrong length.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18:
        raise Refused(400, "Content-Length: must be a number")
    if int(length) > MAX_BODY:
        raise Refused(413, f"body: {int(length):,} bytes; at most {MAX_BODY:,}")
    body, deadline, stream = bytearray(), time.monotonic() + GRACE, request.stream()
    while True:
        try:
            async with asyncio.timeout(deadline + len(body) / PACE - time.monotonic()):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Refused(408, "body: came too slowly") from None
        except ClientDisconnect:
            raise Refused(400, "body: cut") from None
        if chunk is None:
            return bytes(body)
        if len(body) + len(chunk) > MAX_BODY:
            raise Refused(413, f"body: more than {MAX_BODY:,} bytes")
        held.take(len(chunk))
        body += chunk


class Refusal(Response):
    """The answer to a request whose body may still be under way: sent at once, then the rest of
    the body is read for a moment and the connection closed. A client that writes its whole body
    before it reads would else meet a reset instead of the answer.
    """

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.headers["connection"] = "close"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                left = LINGER_BYTES
                while left > 0 and (message := await receive()).get("more_body"):
                    left -= len(message.get("body", b""))
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
