"""P18 and R21: the search service on a real port, its latency and what hostile clients do to it.

python experiments/benchmarks/p18_search_service.py --index=DIR [--checkpoint=DIR] [--json]

The service is a process of its own, as `serve` starts it, over an index such as million_rows.py
keeps with --out. P18: milliseconds from request to JSON (40 results with metadata) of one client
that asks by vector (without the encoder) and by ever new texts (with it), and of 8 clients. R21:
the same client asks by text while another process attacks for some seconds from another address, at
last from its own; told are the answers that the attack got, its slowest answer, the good client's
99 % beside that of a quiet service, and the most memory that the service took. The attacking
process has the lowest priority, since hostile clients bring machines of their own.
"""

import argparse
import base64
import collections
import contextlib
import http.client
import io
import itertools
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("red", "blue", "old", "new", "small", "large", "happy", "sad", "running", "wooden")
THINGS = ("cat", "dog", "car", "house", "tree", "face", "heart", "flag", "hand", "clock")
SECONDS = 6.0


def texts(seed):
    """Ever new texts."""
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        yield f"a {rng.choice(WORDS)} {rng.choice(THINGS)} and {rng.choice(THINGS)} {number}"


def body(**part):
    """A request of `/knn-service`."""
    return {"modality": "image", "num_images": 40, "indice_name": None, **part}


def post(port, asked, source="127.0.0.1", timeout=30.0):
    """(status, seconds, length of the answer); source: the client's address."""
    data = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout, (source, 0))
    try:
        connection.request("POST", "/knn-service", data)
        answer = connection.getresponse()
        return answer.status, time.perf_counter() - start, len(answer.read())
    except OSError:
        return 0, time.perf_counter() - start, 0
    finally:
        connection.close()


def client(port, asked, seconds, source="127.0.0.2"):
    """[(status, seconds)] of one client that asks without pause."""
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        found.append(post(port, next(asked), source)[:2])
    return found


def by_text(seed):
    """Requests by ever new texts."""
    return (body(text=text) for text in texts(seed))


def by_vector(width, seed=0):
    """Requests by vectors of unit norm."""
    rng = np.random.default_rng(seed)
    while True:
        row = rng.standard_normal(width)
        yield body(embedding_input=(row / np.linalg.norm(row)).tolist())


def percent(found, share):
    """Milliseconds that a share of the answers took at most."""
    return 1e3 * float(np.quantile([seconds for _, seconds in found], share))


def announce(port, lines, sent=b"", wait=5.0):
    """(status, seconds): sends a head and some of a body, then reads."""
    start = time.perf_counter()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), wait) as sock:
        head = ["POST /knn-service HTTP/1.1", "Host: localhost", *lines]
        sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent and time.perf_counter() - start < wait:
                sock.sendall(sent)
        line = sock.recv(200).split(b" ")
        return int(line[1]) if len(line) > 1 else 0, time.perf_counter() - start
    return 0, time.perf_counter() - start


def picture(side):
    """A request by an almost empty PNG of side x side pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return json.dumps(body(image=base64.b64encode(file.getvalue()).decode())).encode()


def drip(port):
    """(status, seconds since the first byte): a body of a byte every half second."""
    start = time.perf_counter()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{")
        sock.settimeout(0.5)
        while time.perf_counter() - start < 8:
            try:
                line = sock.recv(200).split(b" ")
                return int(line[1]) if len(line) > 1 else 0, time.perf_counter() - start
            except TimeoutError:
                sock.sendall(b" ")
    return 0, time.perf_counter() - start


def attacks():
    """{name: (threads, f(port) -> (status, seconds))}."""
    nan = b'{"modality":"image","num_images":1,"indice_name":null,"embedding_input":[NaN]}'
    megabyte = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    bombs = {side: picture(side) for side in (8000, 7000)}
    fixed = {
        "100,000 characters": body(text="x" * 100_000),
        "k of a million": body(text="x", num_result_ids=10**6),
        "NaN": nan,
        "deep JSON": b"[" * 15_000_000,
        "64 M pixels": bombs[8000],
        "49 M pixels": bombs[7000],
        "private URL": body(image_url="http://169.254.169.254/latest"),
    }
    found = {name: (4, lambda port, x=x: post(port, x)[:2]) for name, x in fixed.items()}
    length = ["Content-Length: 1000000000"]
    found["1 GB announced"] = 4, lambda port: announce(port, length, bytes(1 << 20))
    chunked = ["Transfer-Encoding: chunked"]
    found["1 GB in chunks"] = 4, lambda port: announce(port, chunked, megabyte)
    found["500 slow clients"] = 500, drip
    number = itertools.count()
    found["500 parallel"] = 500, lambda port: post(port, body(text=f"cat {next(number)}"))[:2]
    return found


def attack(port, name, queue):
    """A process: one attack by its threads for some seconds; {status: count} and slowest."""
    os.nice(19)
    threads, one = attacks()[name]
    found, end, lock = [], time.perf_counter() + SECONDS, threading.Lock()

    def work():
        while time.perf_counter() < end:
            answer = one(port)
            with lock:
                found.append(answer)
            time.sleep(0.5 if threads == 500 else 0.05)

    queue.put("ready")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(work)
    statuses = collections.Counter(status for status, _ in found)
    queue.put((dict(statuses), max(seconds for _, seconds in found)))


def under(port, name, source):
    """(a good client's answers, {status: count} of the attack, its slowest answer)."""
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=attack, args=(port, name, queue))
    process.start()
    queue.get()
    time.sleep(0.3)
    good = client(port, by_text(7 + hash(name) % 1000), SECONDS - 1, source)
    statuses, slowest = queue.get()
    process.join()
    return good, statuses, slowest


@contextlib.contextmanager
def service(index, checkpoint):
    """(port, pid) of `serve`."""
    words = [sys.executable, "-m", "vlp_jax", "serve", f"--index={index}", "--port=0", "--json"]
    words += [f"--checkpoint={checkpoint}"] if checkpoint else []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stdout if line.startswith("{"))
            yield int(json.loads(line)["url"].rpartition(":")[2]), process.pid
        finally:
            process.terminate()


def memory(pid, what="RssAnon"):
    """MB of a process that belong to no file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def p18(port, width):
    """Latencies of one client and of eight."""
    found = {}
    for name, asked in {"vector": by_vector(width), "text": by_text(1)}.items():
        client(port, asked, 3)
        one = client(port, asked, SECONDS)
        with ThreadPoolExecutor(8) as pool:
            makers = [by_vector(width, i) if name == "vector" else by_text(i) for i in range(8)]
            eight = [
                x
                for some in pool.map(
                    lambda m: client(port, m[1], SECONDS, f"127.0.0.{m[0] + 2}"), enumerate(makers)
                )
                for x in some
            ]
        wrong = sum(status != 200 for status, _ in one + eight)
        found[name] = {"p50": percent(one, 0.5), "p95": percent(one, 0.95), "wrong": wrong}
        found[name] |= {"p95_of_8": percent(eight, 0.95), "per_second_8": len(eight) / SECONDS}
    return found


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--attack", default="", help="those whose name holds this; none: P18 alone")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    files = sorted(Path(args.index, "img_emb").glob("*.npy"))
    width = int(np.load(files[0], mmap_mode="r").shape[1])
    with service(os.path.abspath(args.index), args.checkpoint) as (port, pid):
        client(port, by_text(5), 10)  # while it warms up
        report = {"p18": p18(port, width), "r21": {}}
        for name, row in report["p18"].items():
            print(name, {key: round(value, 1) for key, value in row.items()}, flush=True)
        quiet = percent(client(port, by_text(6), SECONDS), 0.99)
        print(f"quiet p99 {quiet:.1f} ms, {memory(pid):.0f} MB", flush=True)
        cases = [(name, name, "127.0.0.2") for name in attacks()]
        cases.append(("500 from its address", "500 parallel", "127.0.0.1"))
        for name, attack_name, source in [case for case in cases if args.attack in case[0]]:
            good, statuses, slowest = under(port, attack_name, source)
            p99, wrong = percent(good, 0.99), sum(status != 200 for status, _ in good)
            row = {"answers": statuses, "slowest": slowest, "p99": p99, "times": p99 / quiet}
            report["r21"][name] = row | {"wrong": wrong, "mb": memory(pid)}
            print(f"{name:>20}  {statuses}, slowest {slowest:.2f} s; good p99 {p99:.0f} ms "
                  f"({p99 / quiet:.1f} x), {wrong} of {len(good)} refused, "
                  f"{memory(pid):.0f} MB", flush=True)  # fmt: skip
        report["most_mb"] = memory(pid, "VmHWM")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
