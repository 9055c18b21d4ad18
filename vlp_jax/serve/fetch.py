"""A picture by its URL, from public addresses only (server-side request forgery, OWASP).

Off unless the service is told otherwise. A name is resolved once, every address that it has must be
public, and the connection goes to one of those very addresses, so a second answer of the name's
server (DNS rebinding) is never asked for; a redirect is a new URL with the same checks. No proxy of
the environment is used. The file exists because a search service must not be a door into the
network that it stands in.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from vlp_jax.serve.requests import Refused

MAX_BYTES = 12 << 20
SECONDS = 5.0  # for all of it
REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
_NAT64 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48")))


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, also behind the IPv6 forms of IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if any(ip in net for net in _NAT64) or any(x and not x.is_global for x in inner):
            return False
    odd = ip.is_multicast or ip.is_reserved or ip.is_link_local or ip.is_unspecified
    return ip.is_global and not odd


def public_address(host: str, port: int) -> str:
    """The address to connect to. Raises Refused: the name has none, or one that is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused(400, "image_url: no such host") from None
    addresses = [entry[4][0] for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise Refused(403, "image_url: its host is not on the public internet")
    return addresses[0]


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
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "vlp_jax"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            return response.getheader("Location", "")
        if response.status != 200:
            raise Refused(400, f"image_url: its host answers {response.status}")
        return _read(connection, response, deadline)
    except (OSError, http.client.HTTPException, ValueError):
        raise Refused(400, "image_url: its host does not answer as HTTP, or too slowly") from None
    finally:
        connection.close()


def _connect(parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
    """Connected to the address that was checked; certificate and Host are those of the name."""
    host, port = parts.hostname or "", PORTS[parts.scheme]
    address = public_address(host, port)
    left = max(0.1, deadline - time.monotonic())
    connection = http.client.HTTPConnection(host, port, timeout=left)
    try:
        sock = socket.create_connection((address, port), timeout=left)
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except OSError:
        raise Refused(400, "image_url: its host does not answer") from None
    connection.sock = sock  # set: http.client connects nowhere by itself
    return connection


def _read(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float
) -> bytes:
    body = bytearray()
    while chunk := response.read1(1 << 16):
        body += chunk
        if len(body) > MAX_BYTES:
            raise Refused(413, f"image_url: more than {MAX_BYTES:,} bytes")
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)
