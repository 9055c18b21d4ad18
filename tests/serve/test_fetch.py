"""Pictures by URL: public addresses alone, whatever a name, a redirect or a second answer says."""

import contextlib
import http.server
import socket
import threading
import time

import pytest

from vlp_jax.serve import fetch as module
from vlp_jax.serve.fetch import fetch, is_public
from vlp_jax.serve.requests import Refused

INSIDE = [
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::1",
    "::",
    "fc00::1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2001:db8::1",
    "fec0::1",
    "feff::1",
    "192.0.0.9",
    "192.88.99.1",
    "168.63.129.16",
    "100::1",
    "2001:20::1",
    "2001:0:808:808::1",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    "::8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::808:808",
]
OUTSIDE = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946"]


def test_which_addresses_are_public():
    assert [address for address in INSIDE if is_public(address)] == []
    assert [address for address in OUTSIDE if not is_public(address)] == []


@pytest.fixture
def names(monkeypatch):
    """{host: addresses}, the only names there are; every look-up is counted."""
    known, asked = {}, []

    def getaddrinfo(host, port, *args, **how):
        asked.append(host)
        if host not in known:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)
    known["asked"] = asked
    return known


@pytest.fixture
def host(monkeypatch, names):
    """A server that `pictures.example` names, at an address that counts as public; what it has:
    {path: (status, headers, body)}. Connections go where they were told, and are noted.
    """
    answers, went = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answers.setdefault("hosts", []).append(self.headers["Host"])  # before anyone can look
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                time.sleep(0.6 if self.path == "/slow" else 0)
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    connect = socket.socket.connect

    def create_connection(address, timeout=None):
        went.append(address)
        sock = socket.socket()
        sock.settimeout(timeout)
        connect(sock, server.server_address)
        return sock

    monkeypatch.setattr(module.socket, "create_connection", create_connection)
    names["pictures.example"] = ["93.184.216.34"]
    answers["went"] = went
    yield answers
    server.shutdown()
    server.server_close()


def test_a_picture_and_a_redirect_to_it(host, names):
    host["/a.png?x=1"] = (302, {"Location": "/b.png"}, b"")
    host["/b.png"] = (200, {}, b"picture")
    assert fetch("http://pictures.example/a.png?x=1") == b"picture"
    assert host["went"] == [("93.184.216.34", 80)] * 2  # the address that was checked, no name
    assert names["asked"] == ["pictures.example"] * 2 and host["hosts"] == ["pictures.example"] * 2


def test_a_name_that_points_inside_is_never_connected_to(host, names):
    names |= {"inside.example": ["10.0.0.1"], "both.example": ["93.184.216.34", "127.0.0.1"]}
    names["169.254.169.254"] = ["169.254.169.254"]
    for name in ("inside.example", "both.example", "169.254.169.254"):
        with pytest.raises(Refused, match="not on the public internet") as refused:
            fetch(f"http://{name}/latest/meta-data")
        assert refused.value.status == 403
    host["/to"] = (302, {"Location": "http://inside.example/secret"}, b"")
    with pytest.raises(Refused, match="not on the public internet"):
        fetch("http://pictures.example/to")
    assert host["went"] == [("93.184.216.34", 80)]


def test_a_name_that_changes_its_mind(host, names, monkeypatch):
    """Public when it is asked first, loopback ever after: it is asked once."""
    whole = module.socket.getaddrinfo

    def rebinding(*args, **how):
        found = whole(*args, **how)
        names["pictures.example"] = ["127.0.0.1"]
        return found

    monkeypatch.setattr(module.socket, "getaddrinfo", rebinding)
    host["/b.png"] = (200, {}, b"picture")
    assert fetch("http://pictures.example/b.png") == b"picture"
    assert host["went"] == [("93.184.216.34", 80)]
    with pytest.raises(Refused, match="not on the public internet"):
        fetch("http://pictures.example/b.png")


@pytest.mark.parametrize(
    "url, message",
    [
        ("file:///etc/passwd", "must be an http or https URL"),
        ("gopher://pictures.example/", "must be an http or https URL"),
        ("http://", "must be an http or https URL"),
        ("http://user:word@pictures.example/", "must be an http or https URL"),
        ("http://pictures.example/a b", "must be an http or https URL"),
        ("http://pictures.example/\r\nX: y", "must be an http or https URL"),
        ("http://[::1", "must be an http or https URL"),
        ("http://pictures.example:22/", "only the ports 80 and 443"),
        ("http://pictures.example:99999/", "must be an http or https URL"),
        ("http://nowhere.example/", "no such host"),
        ("http://pictures.example/loop", "more than 3 redirects"),
        ("http://pictures.example/lost", "answers 404"),
        ("http://pictures.example/huge", "more than 12,582,912 bytes"),
        ("http://pictures.example/odd", "must be an http or https URL"),
    ],
)
def test_refused(host, url, message):
    host["/loop"] = (302, {"Location": "/loop"}, b"")
    host["/odd"] = (302, {"Location": "ftp://pictures.example/"}, b"")
    host["/lost"] = (404, {}, b"")
    host["/huge"] = (200, {}, bytes(13 << 20))
    with pytest.raises(Refused, match=message):
        fetch(url)


def test_a_host_that_takes_its_time_or_stops(host, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.3)
    host["/slow"] = (200, {"Content-Length": "7"}, b"picture")
    host["/cut"] = (200, {"Content-Length": "100"}, b"only a part")
    for path in ("slow", "cut"):
        with pytest.raises(Refused, match="does not answer as HTTP, or too slowly"):
            fetch(f"http://pictures.example/{path}")


DRIPS = {
    "status": (b"HTTP/1.1 ", b"2"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "redirect": (b"HTTP/1.1 302 Found\r\n", b"Location: /b\r\n"),
    "name": (b"", b""),
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_host_that_drips_is_cut(names, monkeypatch, where):
    """Every piece comes in time, all of them never."""
    monkeypatch.setattr(module, "SECONDS", 0.25)
    ours, theirs = socket.socketpair()
    start, piece = DRIPS[where]
    sent = []

    def drip():
        with contextlib.suppress(OSError):
            theirs.sendall(start)
            for _ in range(100):
                theirs.sendall(piece)
                sent.append(piece)
                time.sleep(0.05)

    def look_up(*args, **how):
        time.sleep(5 if where == "name" else 0)
        return [(socket.AF_INET, 1, 6, "", ("93.184.216.34", 80))]

    monkeypatch.setattr(module.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(module.socket, "create_connection", lambda address, timeout: ours)
    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    with pytest.raises(Refused, match="no such host" if where == "name" else "or too slowly"):
        fetch("http://pictures.example/")
    if where != "name":
        thread.join()
        assert len(sent) < 50
    theirs.close()
