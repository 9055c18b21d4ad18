"""The service in process: clip-retrieval's routes and the page's, and every way to ask wrongly."""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from small_service import COLOURS, SHADES, encoded, make_service, unit, write_index

pytest.importorskip("starlette", reason="the service is of the extra `search`")
from starlette.testclient import TestClient

KNN = {"modality": "image", "num_images": 3, "indice_name": "squares"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service") / "squares"
    return folder, write_index(folder)


@pytest.fixture(scope="module")
def client(colours):
    with TestClient(make_service(colours[0]).app(), base_url="http://localhost:8000") as client:
        yield client


def best(colours, query, k):
    """Rows by brute force, for vectors as the index stores them."""
    rows = unit(colours[1]).astype(np.float16).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.argsort(-(rows @ query), kind="stable")[:k].tolist()


def in_base64(data):
    return base64.b64encode(data).decode()


def test_names_health_and_metadata(client, colours):
    assert client.get("/indices-list").json() == ["squares"]
    assert client.get("/health").json()["status"] == "ok"
    (row,) = client.post("/metadata", json={"indice_name": "squares", "ids": [13]}).json()
    assert row["id"] == 13 and row["metadata"]["caption"] == "green square 3"
    assert base64.b64decode(row["metadata"]["image"]) == encoded(colours[1][13], kind="JPEG")
    info = client.get("/info").json()
    assert info["rows"] == len(COLOURS) * SHADES and len(info["sample"]) == 24


def test_texts_pictures_and_vectors_find_their_rows(client, colours):
    blue = unit([COLOURS["blue"]])
    asked = [{"text": "blue"}, {"image": in_base64(encoded(COLOURS["blue"]))}]
    for body in [*asked, {"embedding_input": blue[0].tolist()}]:
        answer = client.post("/knn-service", json={**KNN, "num_result_ids": 5, **body})
        assert [row["id"] for row in answer.json()] == best(colours, blue[0], 5)
        assert [("caption" in row, "image" in row) for row in answer.json()] == [
            *[(True, True)] * 3,
            *[(False, False)] * 2,
        ]
    assert answer.json()[0]["similarity"] == pytest.approx(1, abs=1e-2)
    twice = {**KNN, "embedding_input": (blue[0] * 2).tolist()}  # as it is, not normalised
    assert client.post("/knn-service", json=twice).json()[0]["similarity"] > 1.9


def test_k_above_the_rows_gives_all_of_them(client):
    body = {**KNN, "text": "red", "num_result_ids": 999}
    assert len(client.post("/knn-service", json=body).json()) == len(COLOURS) * SHADES


def test_weighted_sums(client, colours):
    query = [{"text": "red"}, {"text": "yellow", "weight": -0.5}, {"id": 20, "weight": 0.25}]
    rows = unit([COLOURS["red"], COLOURS["yellow"], colours[1][20]])
    total = np.array([1, -0.5, 0.25]) @ rows
    found = client.post("/search", json={"query": query, "k": 4}).json()
    assert [row["id"] for row in found["results"]] == best(colours, total, 4)
    picture = {"image": in_base64(encoded(COLOURS["green"]))}
    found = client.post("/search", json={"query": [picture], "k": 4}).json()
    vector = found["vectors"]["0"]  # what a link keeps of a picture
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)
    again = client.post("/search", json={"query": [{"vector": vector}], "k": 4}).json()
    assert again["results"] == [
        {**row, "score": pytest.approx(row["score"], abs=1e-4)} for row in found["results"]
    ]
    sides = {"query": [{"text": "red"}], "modality": "text", "k": 1}
    assert client.post("/search", json=sides).json()["results"][0]["id"] < SHADES


def test_what_the_model_sees(client):
    found = client.post("/words", json={"query": [{"id": 0}], "k": 2}).json()["words"]
    assert [word["text"] for word in found] == ["red", "a red and yellow fire"]
    assert found[0]["score"] > found[1]["score"]


def test_one_mistake_of_a_batch_is_its_own(colours):
    from vlp_jax.core.errors import UserError
    from vlp_jax.serve.requests import Part, Query

    service = make_service(colours[0])
    model, lookup = service.engine.searcher.model, service.engine._lookup
    whole = model.embed_texts

    def embed_texts(texts, how=None):
        if "bad" in texts:
            raise UserError("bad words")
        return whole(texts)

    model.embed_texts = embed_texts
    asked = ["red", "bad", "blue", "red"]
    found = lookup.run([Query((Part("text", text),), 1, 1) for text in asked])
    assert str(found[1]) == "bad words" and found[1].status == 400
    assert [found[i].hits[0].id // SHADES for i in (0, 2, 3)] == [0, 2, 0]
    model.calls.clear()
    lookup.run([Query((Part("text", f"red {i}"),), 1, 1) for i in range(5)])
    assert model.calls == [("texts", 8)]  # filled up, and only once
    lookup.run([Query((Part("text", "red 3"),), 1, 1)])
    assert len(model.calls) == 1


def test_a_condition_that_fails_is_its_own(colours, monkeypatch):
    from vlp_jax.serve.requests import Part, Query

    service = make_service(colours[0])
    table, lookup = service.index.table, service.engine._lookup
    whole = table.where

    def where(conditions):
        if "shade=9" in conditions:
            raise OverflowError("date value out of range")
        return whole(conditions)

    monkeypatch.setattr(table, "where", where)
    asked = [(), ("shade=9",), ("shade=1",), ("nope=1",)]
    found = lookup.run([Query((Part("text", "red"),), 1, 1, where=one) for one in asked])
    assert [type(one).__name__ for one in found] == ["Found", "OverflowError", "Found", "Refused"]
    assert found[2].hits[0].id % SHADES == 1 and found[3].status == 400


LONG = "x" * 100_000
NAN = '{"modality": "image", "num_images": 1, "indice_name": null, "embedding_input": [NaN,0,0,0]}'
BAD = [
    ("/knn-service", b"", "body: not JSON"),
    ("/knn-service", b"[" * 100_000, "body: more lists"),
    ("/knn-service", b"[" * 1_500, "body: not JSON"),
    ("/knn-service", b"[1" + b",1" * 50_000 + b"]", "body: more lists and values"),
    ("/knn-service", b"\xff\xfe\x00", "body: not JSON"),
    ("/knn-service", "[]", "body: must be a JSON object"),
    ("/knn-service", NAN, "embedding_input: must be a list of finite numbers"),
    ("/knn-service", {"text": "x"}, "modality: is missing"),
    ("/knn-service", {**KNN}, "one of text, image, image_url, embedding_input"),
    ("/knn-service", {**KNN, "text": LONG}, "text: 100,000 characters; at most 2,000"),
    ("/knn-service", {**KNN, "text": 3}, "text: must be a text"),
    ("/knn-service", {**KNN, "text": "a\0b"}, "text: holds a NUL"),
    ("/knn-service", {**KNN, "text": "\ud800"}, "text: holds a NUL or half"),
    ("/knn-service", {**KNN, "text": "x", "num_result_ids": 10**6}, "num_result_ids: must be"),
    ("/knn-service", {**KNN, "text": "x", "num_images": 10**6}, "num_images: must be a whole"),
    ("/knn-service", {**KNN, "text": "x", "num_images": -1}, "num_images: must be a whole"),
    ("/knn-service", {**KNN, "text": "x", "num_images": 1.5}, "num_images: must be a whole"),
    ("/knn-service", {**KNN, "text": "x", "num_images": True}, "num_images: must be a whole"),
    ("/knn-service", {**KNN, "text": "x", "modality": "sound"}, "modality: must be one of image"),
    ("/knn-service", {**KNN, "text": "x", "modality": ["image"]}, "modality: must be one of"),
    ("/knn-service", {**KNN, "text": "x", "indice_name": "laion"}, "no index 'laion'; there is"),
    ("/knn-service", {**KNN, "text": "x", "use_mclip": True}, "use_mclip: this index"),
    ("/knn-service", {**KNN, "text": "x", "deduplicate": "yes"}, "deduplicate: must be true"),
    ("/knn-service", {**KNN, "embedding_input": [1.0]}, "1 numbers; this index has 4"),
    ("/knn-service", {**KNN, "embedding_input": [0, 0, 0, 0]}, "its norm is 0"),
    ("/knn-service", {**KNN, "embedding_input": [1e30] * 4}, "its norm is 2e+30"),
    ("/knn-service", {**KNN, "embedding_input": ["a"] * 4}, "must be a list of finite numbers"),
    ("/knn-service", {**KNN, "embedding_input": "a"}, "must be a list of finite numbers"),
    ("/knn-service", {**KNN, "image": "%%%"}, "image: not base64"),
    ("/knn-service", {**KNN, "image": ""}, "image: is empty"),
    ("/knn-service", {**KNN, "image": in_base64(b"no picture")}, "image: unreadable picture"),
    ("/knn-service", {**KNN, "image": in_base64(b"\x89PNG\r\n\x1a\n")}, "image: unreadable"),
    ("/knn-service", {**KNN, "image_url": "http://example.org/a.png"}, "fetches no URLs"),
    ("/metadata", {"ids": "all"}, "ids: must be a list of at most 1000 rows"),
    ("/metadata", {"ids": [60]}, "ids: 60: no row; the index has 0 to 59"),
    ("/metadata", {"ids": [-1]}, "ids: -1: no row"),
    ("/metadata", {"ids": [1.0]}, "ids: 1.0: no row"),
    ("/search", {"query": []}, "query: must be a list of 1 to 16 parts"),
    ("/search", {"query": [{"text": "x"}] * 17}, "query: must be a list of 1 to 16"),
    ("/search", {"query": ["x"]}, "query[0]: must hold one of text, image"),
    ("/search", {"query": [{"text": "x", "id": 1}]}, "query[0]: must hold one of"),
    ("/search", {"query": [{"id": 60}]}, "query[0].id: must be a whole number from 0 to 59"),
    ("/search", {"query": [{"text": "x", "weight": 0}]}, "query[0].weight: must be a number"),
    ("/search", {"query": [{"text": "x", "weight": "a"}]}, "query[0].weight: must be a number"),
    ("/search", {"query": [{"text": "x"}], "kk": 3}, "kk: unknown key; did you mean 'k'?"),
    ("/search", {"query": [{"text": "x"}, {"text": "x", "weight": -1}]}, "cancel each other"),
    ("/search", {"query": [{"text": "x"}], "where": {"a": 1}}, "where: must be a list"),
    ("/words", {"query": [{"id": 1}], "k": 0}, "k: must be a whole number from 1 to 100"),
]


@pytest.mark.parametrize("path, body, message", BAD)
def test_mistakes_are_one_line(client, path, body, message):
    content = json.dumps(body) if isinstance(body, dict) else body
    answer = client.post(path, content=content)
    assert 400 <= answer.status_code < 500, answer.text
    assert message in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_bomb_pictures_end_at_their_header(client):
    file = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    answer = client.post("/knn-service", json={**KNN, "image": in_base64(file.getvalue())})
    assert answer.status_code == 400 and "too many pixels" in answer.json()["error"]


def test_a_service_without_a_model_searches_by_rows(colours):
    with TestClient(make_service(colours[0], model=False).app(), "http://localhost") as client:
        found = client.post("/search", json={"query": [{"id": 7}], "k": 1}).json()
        assert found["results"][0]["id"] == 7
        for part in ({"text": "red"}, {"image": in_base64(encoded((1, 2, 3)))}):
            answer = client.post("/search", json={"query": [part]})
            assert answer.status_code == 400 and "--checkpoint=DIR" in answer.json()["error"]


def test_other_sites_may_not_ask(client):
    """Neither by a name that is made to point here nor from a user's browser."""
    for host in ("evil.example", "localhost.evil.example:80", "", "[::2]:80"):
        answer = client.get("/health", headers={"host": host})
        assert answer.status_code == 400 and answer.json()["error"].startswith("Host: ")
    for host in ("LOCALHOST", "127.0.0.1:8000", "[::1]:8000", "[::1]"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    body = {**KNN, "text": "red"}
    for origin, status in {"https://evil.example": 403, "http://localhost:8000": 200}.items():
        headers = {"origin": origin, "host": "localhost:8000"}
        assert client.post("/knn-service", json=body, headers=headers).status_code == status


def test_thumbnails_pages_and_wrong_addresses(client, colours):
    picture = client.get("/thumbnail/31")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == encoded(colours[1][31], kind="JPEG")
    assert "immutable" in picture.headers["cache-control"]
    for path in (
        "/thumbnail/" + 5000 * "1",
        "/thumbnail/60",
        "/thumbnail/-1",
        "/thumbnail/x",
        "/../../etc/passwd",
        "/nope",
    ):
        answer = client.get(path)
        assert answer.status_code == 404 and set(answer.json()) == {"error"}
    told = answer.json()["error"]
    assert told.startswith("GET /nope: no such route; there are /, ") and "/knn-service" in told
    assert client.get("/knn-service").status_code == 405
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    text = page.text
    assert not [word for word in ("http:", "https:", "//cdn") if f'src="{word}' in text]


def test_work_of_a_client_that_leaves_is_dropped():
    import asyncio
    import threading

    from vlp_jax.serve.bodies import unless_gone
    from vlp_jax.serve.fair import Pool
    from vlp_jax.serve.requests import Refused

    done = []

    async def go():
        pool, gone, hold = Pool("test", 1, "things", 8), asyncio.Event(), threading.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        first = asyncio.create_task(pool("a", hold.wait))
        asked = [unless_gone(receive, pool("a", done.append, item)) for item in (1, 2)]
        asked = [asyncio.create_task(one) for one in asked]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        hold.set()
        await first
        gone.clear()
        await unless_gone(receive, pool("a", done.append, 3))
        pool.close()
        return found

    found = asyncio.run(go())
    assert [type(one) for one in found] == [Refused] * 2 and found[0].status == 499
    assert done == [3]


def test_pictures_that_the_metadata_names(tmp_path):
    """As clip-retrieval's folders do; one is gone, one is none."""
    colours = write_index(tmp_path / "squares", files=True)
    (tmp_path / "squares" / "squares" / "0001.png").unlink()
    (tmp_path / "squares" / "squares" / "0002.png").write_text("no picture")
    with TestClient(make_service(tmp_path / "squares").app(), "http://localhost") as client:
        rows = client.post("/metadata", json={"indice_name": None, "ids": [0, 1, 2]}).json()
        assert ["image" in row["metadata"] for row in rows] == [True, False, False]
        seen = Image.open(io.BytesIO(base64.b64decode(rows[0]["metadata"]["image"])))
        assert np.abs(np.asarray(seen).astype(int) - colours[0]).max() < 4
        assert [client.get(f"/thumbnail/{row}").status_code for row in range(3)] == [200, 404, 404]


def test_metrics_count_what_was_asked(colours):
    with TestClient(make_service(colours[0]).app(), "http://localhost") as client:
        assert client.post("/knn-service", json={**KNN, "text": "red"}).status_code == 200
        assert client.post("/knn-service", content=b"").status_code == 400
        text = client.get("/metrics").text
        for line in (
            "full_knn_request_time_count 1.0",
            'answers_total{route="/knn-service",status="200"} 1.0',
            'answers_total{route="/knn-service",status="400"} 1.0',
            "index_rows 60.0",
        ):
            assert line in text.splitlines(), line
        assert "knn_index_time" in client.get("/metrics-summary").text


def test_a_body_without_its_length_is_a_small_one(client):
    pieces = [b" " * (1 << 16)] * 17  # 64 kB more than a megabyte
    answer = client.post("/search", content=iter(pieces))
    assert answer.status_code == 413 and "more than 1,048,576 bytes" in answer.json()["error"]
    answer = client.post("/search", content=b"".join(pieces))
    assert answer.status_code == 400 and "not JSON" in answer.json()["error"]


def test_as_many_conditions_as_parts(client):
    for count, status in {16: 200, 17: 400}.items():
        body = {"query": [{"text": "red"}], "where": ["shade>=5"] * count, "k": 3}
        assert client.post("/search", json=body).status_code == status


def test_what_is_told_of_a_clients_words():
    from vlp_jax.serve.requests import printed

    assert printed("x" * 40) == "x" * 40 and printed("x" * 41) == "x" * 40 + "..."
    assert printed("a\nb") == "a\\nb"


def test_warming_up_runs_every_size_and_reads_the_metadata(colours):
    import asyncio

    service = make_service(colours[0])
    model, table = service.engine.searcher.model, service.index.table
    asyncio.run(service.engine.warm_up(("key", "caption")))
    assert model.calls == [(kind, n) for n in (1, 4, 8) for kind in ("pictures", "texts")]
    assert [sorted(group) for group in table._kept.values()] == [["caption", "key"]]


def test_bounds_hold_to_the_last_one(client):
    from vlp_jax.serve import bodies
    from vlp_jax.serve.requests import MAX_BRACKETS, MAX_COMMAS, Refused, Shape

    for piece, most in ((b",", MAX_COMMAS), (b"[{", MAX_BRACKETS // 2)):
        shape = Shape()
        shape.add(piece * most)
        with pytest.raises(Refused, match="more lists and values"):
            shape.add(piece[:1])
    for length, status in {bodies.MAX_BODY: 400, bodies.MAX_BODY + 1: 413}.items():
        assert client.post("/search", content=b" " * length).status_code == status
