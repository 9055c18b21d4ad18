"""A picture by its URL, from public addresses only (server-side request forgery, OWASP).

Off unless the service is told otherwise. A name is resolved once, every address that it has must be
public, and the connection goes to one of those very addresses, so a second answer of the name's
server (DNS rebinding) is never asked for; a redirect is a new URL with the same checks. No proxy of
the environment is used. A clock beside it cuts the
connection, whatever drips. The file exists because a search service must not be a door into the
network that it stands in.
"""

import contextlib
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, urljoin, urlsplit

from vlp_jax.serve.requests import Refused

MAX_BYTES = 12 << 20
SECONDS = 5.0  # for all of it
REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
# What of IANA's special-purpose registries Python may count as global, in any of its versions;
# tunnels to IPv4, of which the inside cannot be seen from here; Azure's address of its host.
_SPECIAL = tuple(
    ipaddress.ip_network(net)
    for net in (
        *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that IANA gives to the open internet


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet; of IPv6 no form of an IPv4 address is."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if (ip.version == 6 and ip not in _UNICAST) or any(ip in net for net in _SPECIAL):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def public_address(host: str, port: int, seconds: float = SECONDS) -> str:
    """The address to connect to. Raises Refused: the name has none, or one that is not public."""
    addresses = _looked_up(host, port, seconds)
    if not addresses or not all(map(is_public, addresses)):
        raise Refused(403, "image_url: its host is not on the public internet")
    return addresses[0]


def _looked_up(host: str, port: int, seconds: float) -> list[str]:
    """Addresses of a name. Its servers may be as slow as they like: the look-up, which nothing can
    interrupt, is left behind in a thread of its own."""
    answer: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = None
        answer.put(found)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        found = None
    if found is None:
        raise Refused(400, "image_url: no such host") from None
    return [entry[4][0] for entry in found]


def fetch(url: str) -> bytes:
    """The bytes behind a URL, which blocks for at most a few seconds.

    Raises:
      Refused: no http(s) URL, a host or redirect that is not public, an answer that is late, too
        long or not 200.
    """
    deadline = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        found = _get(_split(url), deadline)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise Refused(400, f"image_url: more than {REDIRECTS} redirects")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in PORTS and parts.hostname and not (parts.username or parts.password)
        standard = parts.port in (None, PORTS.get(parts.scheme))
    except ValueError:
        good = standard = False
    if not good or any(ord(c) < 33 or ord(c) > 126 for c in url):
        raise Refused(400, "image_url: must be an http or https URL")
    if not standard:
        raise Refused(403, "image_url: only the ports 80 and 443 are asked")
    return parts


def _get(parts: SplitResult, deadline: float) -> bytes | str:
    """A body, or where it redirects to."""
    connection = _connect(parts, deadline)
    sock = connection.sock  # http.client forgets it where the answer ends it
    try:
        with _cut_at(deadline, sock):
            found = _answer(connection, parts)
        if time.monotonic() >= deadline:  # what was cut may look whole
            raise TimeoutError
        return found
    except (OSError, http.client.HTTPException, ValueError):
        raise Refused(400, "image_url: its host does not answer as HTTP, or too slowly") from None
    finally:
        _cut(sock)  # an answer that is held somewhere would keep it open
        connection.close()


def _answer(connection: http.client.HTTPConnection, parts: SplitResult) -> bytes | str:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "vlp_jax"})
    response = connection.getresponse()
    if response.status in (301, 302, 303, 307, 308):
        return response.getheader("Location", "")
    if response.status != 200:
        raise Refused(400, f"image_url: its host answers {response.status}")
    body = bytearray()
    while chunk := response.read1(1 << 16):
        body += chunk
        if len(body) > MAX_BYTES:
            raise Refused(413, f"image_url: more than {MAX_BYTES:,} bytes")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)


@contextlib.contextmanager
def _cut_at(deadline: float, sock: socket.socket) -> Iterator[None]:
    """Ends a connection at a time from outside: a socket's own limit is of each piece, and a host
    that sends one byte a second is never late."""
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # also of TLS, whose own method waits


def _connect(parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
    """Connected to the address that was checked; certificate and Host are those of the name."""
    host, port = parts.hostname or "", PORTS[parts.scheme]
    address = public_address(host, port, _left(deadline))
    connection = http.client.HTTPConnection(host, port)
    try:
        sock = socket.create_connection((address, port), timeout=_left(deadline))
        connection.sock = sock  # set: http.client connects nowhere by itself
        if parts.scheme == "https":
            with _cut_at(deadline, sock):
                context = ssl.create_default_context()
                connection.sock = context.wrap_socket(sock, server_hostname=host)
        connection.sock.settimeout(_left(deadline))
    except (OSError, ValueError):
        connection.close()
        raise Refused(400, "image_url: its host does not answer") from None
    return connection


def _left(deadline: float) -> float:
    """Seconds that are left. Raises Refused: none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise Refused(400, "image_url: its host does not answer as HTTP, or too slowly")
    return left
