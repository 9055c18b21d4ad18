"""Listens: a socket, uvicorn on it, and patience with what is slow to say what it wants.

uvicorn (uvicorn.org) waits for a request's first lines without end; here a connection that does not
finish them in `HEADERS` seconds is closed. The file exists so that a port in use is one line before
a model is loaded, and that the URL is told when it answers.
"""

import collections
import contextlib
import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlp_jax.core.errors import UserError
from vlp_jax.serve.bodies import LINGER
from vlp_jax.serve.fair import client_of

CONNECTIONS, OF_ONE = 2_000, 128  # of all clients, of one address
REFUSAL = (
    b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b'content-length: 51\r\n\r\n{"error": "busy: too many connections; try again"}\n'
)
BROKEN = REFUSAL.replace(b"429 Too Many Requests", b"400 Bad Request").replace(
    b"busy: too many connections; try again", b"no request of HTTP/1.1 could be read."
)
HEADERS = 5.0  # seconds for a request's first lines
SWITCH = 5e-4  # seconds after which a busy thread hands on Python's lock, which each chunk needs
IDLE = 30  # seconds between two requests of a connection


class Impatient(H11Protocol):
    """HTTP/1.1 that closes connections whose request does not begin or does not get on, and refuses
    those of a client that has many.
    """

    _late = None
    _client = None  # whose connection this is, once it counts
    _open: collections.Counter[str] = collections.Counter()  # connections of each client

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        client = client_of((transport.get_extra_info("peername") or ("",))[0])
        if self._open[client] >= OF_ONE:
            transport.write(REFUSAL)
            transport.write_eof()  # and what it says is read for a moment, else it meets a reset
            self._late = self.loop.call_later(LINGER, transport.abort)
            return
        self._client = client
        self._open[client] += 1
        self._late = self.loop.call_later(HEADERS, transport.abort)

    def connection_lost(self, exc) -> None:
        self._on_time()
        if self._client is not None:
            self._open[self._client] -= 1
            if not self._open[self._client]:
                del self._open[self._client]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._client is None:
            return
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(HEADERS, self.transport.abort)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._on_time()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in JSON, too."""
        self.transport.write(BROKEN)
        self.transport.close()

    def _on_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Told(uvicorn.Server):
    """uvicorn that says when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]):
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens as soon as it is served; port 0 takes a free one.

    Raises:
      UserError: the port is in use or not ours to take, or there is no such host.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port={port}: must be from 0 to 65535; 0 takes a free one")
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host={host}: no such address of this machine") from error
    sock = socket.socket(kind, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port={port}: is in use; take another, 0 is a free one") from error
        raise UserError(f"--port={port}: {error.strerror} on {host}") from error
    return sock


def url_of(host: str, sock: socket.socket) -> str:
    """Where a browser finds a bound socket."""
    port = sock.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def config_of(app: Starlette) -> uvicorn.Config:
    """How uvicorn serves an application here."""
    return uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is the socket's other end (fair.py)
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=2,
        backlog=1024,
    )


def serve(app: Starlette, sock: socket.socket, listening: Callable[[], None]) -> None:
    """Serves until Ctrl-C. listening: called once requests are answered."""
    _more_files()
    sys.setswitchinterval(SWITCH)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # is how it ends
    with contextlib.suppress(KeyboardInterrupt):
        Told(config_of(app), listening).run(sockets=[sock])


def _more_files() -> None:
    """As many open connections as the system lets us have."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
