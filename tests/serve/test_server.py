"""The service on a real port under hostile clients: all are told within a second, others are
served, memory stays bounded."""

import concurrent.futures
import contextlib
import http.client
import json
import socket
import time

import pytest
from small_service import make_service, running, write_index

pytest.importorskip("uvicorn", reason="the service is of the extra `search`")
from vlp_jax.core.errors import UserError
from vlp_jax.serve import batching, bodies, server

BODY = {"modality": "image", "num_images": 1, "indice_name": None, "text": "red"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "squares"
    write_index(folder)
    service = make_service(folder)
    found = running(service)
    found.service = service
    found.port = int(found.url.rpartition(":")[2])
    yield found
    found.stop()


@contextlib.contextmanager
def raw(served, head, *more):
    """An open connection that has sent some bytes."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        lines = [head, "Host: localhost", *more]
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        yield sock


def status(sock):
    """The status of an answer; 0 where the connection was closed without."""
    line = sock.recv(4096).split(b"\r\n")[0].split()
    return int(line[1]) if line else 0


def query(served, body=BODY, source="127.0.0.1", headers=None):
    """(status, seconds) of a good request from an address."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, 20, (source, 0))
    connection.request("POST", "/knn-service", json.dumps(body), headers or {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, time.perf_counter() - start


def test_a_gigabyte_is_refused_before_it_is_sent(served):
    start = time.perf_counter()
    with raw(served, "POST /knn-service HTTP/1.1", "Content-Length: 1000000000") as sock:
        assert status(sock) == 413
    for wrong in ("-1", "1e3", "9" * 30):
        with raw(served, "POST /search HTTP/1.1", f"Content-Length: {wrong}") as sock:
            assert 400 <= status(sock) < 500
    assert time.perf_counter() - start < 1


def test_a_gigabyte_that_does_not_say_so_is_cut(served):
    start, chunk = time.perf_counter(), b"10000\r\n" + bytes(65536) + b"\r\n"
    with raw(served, "POST /search HTTP/1.1", "Transfer-Encoding: chunked") as sock:
        sock.settimeout(5)
        with contextlib.suppress(OSError):
            for _ in range(16_000):
                sock.sendall(chunk)
                if time.perf_counter() - start > 4:
                    break
        assert status(sock) == 413
    assert query(served)[0] == 200


def test_bodies_that_drip_are_told_and_closed(served, monkeypatch):
    monkeypatch.setattr(bodies, "GRACE", 0.3)
    start = time.perf_counter()
    with raw(served, "POST /search HTTP/1.1", "Content-Length: 1000") as sock:
        sock.sendall(b"{")
        assert status(sock) == 408
    assert time.perf_counter() - start < 1


def test_heads_that_drip_are_closed(served, monkeypatch):
    monkeypatch.setattr(server, "HEADERS", 0.3)
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert status(sock) == 0
    with raw(served, "GET /health HTTP/1.1") as sock:  # the second request of a connection too
        assert status(sock) == 200
        sock.sendall(b"GET /health HTTP/1.1\r\n")
        sock.settimeout(3)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
    assert time.perf_counter() - start < 3
    assert query(served)[0] == 200


def test_what_is_no_http_is_told_so_in_json(served):
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(b"GARBAGE\r\n\r\n")
        with sock.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    assert b" 400 " in head and f"content-length: {len(body)}".encode() in head
    assert json.loads(body) == {"error": "no request of HTTP/1.1 could be read."}


def test_many_at_once_are_served_or_told(served):
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda i: query(served), range(200)))
    assert {status for status, _ in answers} <= {200, 429}
    assert sum(status == 200 for status, _ in answers) > 100
    assert query(served)[0] == 200


def test_large_bodies_share_a_budget():
    from vlp_jax.serve.requests import Refused

    budget = bodies.Budget(1_000_000)
    with budget.hold("a") as first, budget.hold("b") as second, budget.hold("c") as third:
        first.take(450_000)
        second.take(bodies.SMALL)  # small ones pass
        with budget.hold("a") as more, pytest.raises(Refused, match="too many large requests"):
            more.take(250_000)  # half of all is one client's
        with budget.hold("a") as gone:
            gone.take(bodies.SMALL + 40_000)
        first.take(100_000)  # has its place
        second.take(350_000)
        with pytest.raises(Refused, match="too many large requests"):
            third.take(300_000)
    assert budget.used == 0 and not budget._shares


def test_a_port_in_use_and_ports_that_are_none(served):
    with pytest.raises(UserError, match=f"--port={served.port}: is in use; take another"):
        server.bind("127.0.0.1", served.port)
    for port in (-1, 65536):
        with pytest.raises(UserError, match="must be from 0 to 65535"):
            server.bind("127.0.0.1", port)
    with pytest.raises(UserError, match="--host=nowhere: no such address"):
        server.bind("nowhere", 0)


def test_one_address_has_so_many_connections_and_others_theirs(served, monkeypatch):
    monkeypatch.setattr(server, "OF_ONE", 2)
    monkeypatch.setattr(server, "LINGER", 0.1)
    with raw(served, "GET /health HTTP/1.1") as one, raw(served, "GET /health HTTP/1.1") as two:
        assert status(one) == status(two) == 200  # both are kept open
        assert query(served, headers={"X-Forwarded-For": "10.1.1.1"})[0] == 429
        assert query(served, source="127.0.0.2")[0] == 200
        with raw(served, "POST /search HTTP/1.1", "Content-Length: 99") as refused:
            assert status(refused) == 429
            with pytest.raises(OSError):  # it is not read for long
                for _ in range(200):
                    refused.sendall(b"x")
                    time.sleep(0.01)
    for _ in range(50):  # until it has seen them close
        if (answer := query(served)[0]) == 200:
            break
        time.sleep(0.02)
    assert answer == 200


def test_a_flood_of_one_address_waits_for_itself(served, monkeypatch):
    """While all places of one client are taken, another's query is the next."""
    lookup = served.service.engine._lookup
    batches, run = [], lookup.run

    def slowly(queries):
        batches.append([query.parts[0].value for query in queries])
        time.sleep(0.03)
        return run(queries)

    monkeypatch.setattr(served.service.engine._batch, "_run", slowly)
    monkeypatch.setattr(batching, "PATIENCE", 60.0)  # however slow this machine is
    with concurrent.futures.ThreadPoolExecutor(25) as pool:
        flood = [pool.submit(query, served, {**BODY, "text": f"red {i}"}) for i in range(24)]
        while not batches:
            time.sleep(0.005)
        time.sleep(0.05)
        before = len(batches)
        assert query(served, {**BODY, "text": "blue"}, "127.0.0.2")[0] == 200
        assert any("blue" in batch for batch in batches[before : before + 2])
        assert all(each.result()[0] == 200 for each in flood)
