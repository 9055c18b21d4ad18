"""What a search finds: sums of queries, conditions, near duplicates, safe mode, faiss."""

import numpy as np
import pytest
from serve.conftest import unit

from vlp_jax.core.errors import UserError
from vlp_jax.serve import ann, duplicates, safety
from vlp_jax.serve.duplicates import first_of_each
from vlp_jax.serve.index import Index
from vlp_jax.serve.search import Options, Searcher, combine


@pytest.fixture
def searcher(foreign):
    return Searcher(Index.open(str(foreign)))


def test_the_nearest_rows(searcher, rows):
    ids, scores = searcher.search(rows[[4, 30]], 5)
    stored = unit(rows.astype(np.float16).astype(np.float64))
    wanted = np.argsort(-(rows[[4, 30]] @ stored.T), axis=1)[:, :5]
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_allclose(
        scores, np.take_along_axis(rows[[4, 30]] @ stored.T, ids, 1), atol=1e-6
    )
    ids, scores = searcher.search(rows[:1], 2**40)  # k above n costs no memory
    assert sorted(ids[0]) == list(range(50)) and scores.shape == (1, 50)
    hits = searcher.find(rows[4], 60)
    assert len(hits) == 50 and hits[0].id == 4
    assert searcher.find(rows[4], 1, Options("text"))[0].id != 4  # captions of other rows


def test_results_have_key_and_caption(searcher, rows):
    (found,) = searcher.results(searcher.find(rows[7], 1))
    assert found.pop("score") == pytest.approx(1, abs=1e-3)
    assert found == {"id": 7, "key": "/data/07", "caption": "picture 7"}


def test_conditions_are_fulfilled_by_all_of_k(searcher, rows):
    hits = searcher.find(rows[4], 10, Options(where=("style=noto", "width>20")))
    assert len(hits) == 10 and all(hit.id % 2 and hit.id > 20 for hit in hits)
    scores = rows[4] @ rows[21::2].T
    assert hits[0].id == 21 + 2 * int(scores.argmax())


def test_a_weighted_sum(rows):
    found = combine(rows[:3], (1, 0.5, -1))
    np.testing.assert_allclose(found, unit((rows[0] + 0.5 * rows[1] - rows[2])[None])[0], atol=1e-6)
    assert not combine(rows[[0, 0]], (1, -1)).any()


def on_a_circle(*degrees):
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_near_duplicates_go_in_chains(monkeypatch):
    """15 degrees are a cosine of .966, 30 of .866: the chain is one picture."""
    assert first_of_each(on_a_circle(0, 15, 30, 90), 0.94).tolist() == [0, 3]
    assert first_of_each(on_a_circle(0, 30, 15), 0.94).tolist() == [0]  # joined by a later one
    assert first_of_each(on_a_circle(0, 30, 60), 0.94).tolist() == [0, 1, 2]
    assert first_of_each(on_a_circle(0, 0), 1.0 + 1e-6).tolist() == [0, 1]
    assert first_of_each(on_a_circle(), 0.94).tolist() == []
    monkeypatch.setattr(duplicates, "_CELLS", 7)  # a row at a time
    assert first_of_each(on_a_circle(0, 30, 15, 90), 0.94).tolist() == [0, 3]
    chain = on_a_circle(*range(0, 180, 10))
    order = np.random.default_rng(0).permutation(len(chain))
    assert first_of_each(chain[order], 0.94).tolist() == [0]


def test_duplicates_are_removed_after_the_search(foreign, rows):
    part = foreign / "img_emb" / "img_emb_0.npy"
    some = np.load(part)
    some[3] = some[0] + np.float16(0.01)
    np.save(part, some)
    searcher = Searcher(Index.open(str(foreign)))
    assert [hit.id for hit in searcher.find(rows[0], 2)] == [0, 3]
    assert [hit.id for hit in searcher.find(rows[0], 2, Options(deduplicate=True))] == [0]


@pytest.mark.parametrize(
    "query, k, options, message",
    [
        (np.zeros(8), 3, Options(), "has vectors of 16 numbers"),
        (np.full(16, np.nan), 3, Options(), "not finite"),
        (np.ones(16), 0, Options(), "k=0: must be at least 1"),
        (np.ones(16), 1.5, Options(), "k=1.5: must be a whole number"),
        (np.ones(16), True, Options(), "k=True: must be a whole number"),
        (np.ones(16), "3", Options(), "k='3': must be a whole number"),
        (np.ones(16), 3, Options("sound"), "holds no 'sound' vectors, only image, text"),
        (np.ones(16), 3, Options(where=("x=1",)), "no column 'x'"),
        (np.ones(16), 3, Options(safe=True), "safe mode needs .*safety.npz or a model"),
    ],
)
def test_what_cannot_be_asked(searcher, query, k, options, message):
    with pytest.raises(UserError, match=message):
        searcher.find(query, k, options)


def test_no_model_no_words(searcher):
    with pytest.raises(UserError, match="give --checkpoint=DIR"):
        searcher.encode(texts=["a cat"])


def test_a_trained_classifier_leaves_out(foreign, rows):
    unsafe = rows[:, 0] > 0.1
    safety.fit(rows, unsafe, str(foreign / "safety.npz"), decay=1e-5)
    searcher = Searcher(Index.open(str(foreign)))
    hits = {hit.id for hit in searcher.find(rows[0], 50, Options(safe=True))}
    assert hits == set(np.flatnonzero(~unsafe))
    assert "trained" in searcher.safety.told
    np.savez(foreign / "safety.npz", weight=np.zeros(3, np.float32), bias=0.0)
    with pytest.raises(UserError, match=r"weight \[3\], the vectors are \[16\]"):
        Searcher(Index.open(str(foreign))).safety  # noqa: B018
    path = foreign / "safety.npz"
    np.savez(path, weight=np.zeros(16, np.float32), bias=np.nan)
    for data in (path.read_bytes(), path.read_bytes()[:90], b""):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"safety.npz: holds n"):
            Searcher(Index.open(str(foreign))).safety  # noqa: B018


def test_sentences_judge_by_their_sum():
    """p = sum exp(s u) / (sum exp(s u) + sum exp(s v)) of both lists."""
    unsafe, safe, row = on_a_circle(0, 10), on_a_circle(90), on_a_circle(50)
    found = safety.Safety(unsafe, safe, 3.0, 0.0, "").probability(row)
    against, for_it = np.exp(3 * row @ unsafe.T).sum(), np.exp(3 * row @ safe.T).sum()
    assert found[0] == pytest.approx(against / (against + for_it), rel=1e-5)
    far = safety.Safety(unsafe, safe, 1e4, 0.0, "")  # e^-60 is the least that is told
    assert far.probability(on_a_circle(90))[0] == pytest.approx(np.exp(-60), rel=1e-3, abs=0)


@pytest.mark.parametrize("kind", ann.KINDS)
def test_faiss_finds_nearly_the_same(tmp_path, kind):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu (extra `search`) is not installed")
    faiss.omp_set_num_threads(1)  # on a busy machine its threads wait for each other
    from vlp_jax.serve.nearest import Nearest
    from vlp_jax.serve.vectors import Vectors

    rows = unit(np.random.default_rng(0).normal(size=(500, 16))).astype(np.float32)
    vectors, path = Vectors([rows]), str(tmp_path / "image.index")
    ann.build_ann(kind, vectors, path)
    ids, scores = ann.Ann(path, vectors).search(rows[:20], 10)
    wanted, exact = Nearest(vectors).search(rows[:20], 10)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, wanted, strict=True)])
    assert share >= 0.9 and (ids[:, 0] == np.arange(20)).all()
    np.testing.assert_allclose(scores[:, 0], exact[:, 0], atol=1e-6)
    if kind == "flat":
        np.testing.assert_array_equal(ids, wanted)
    other = Vectors([rows[:100]])
    with pytest.raises(UserError, match="500 rows of 16 numbers, the vectors are 100"):
        ann.Ann(path, other)


@pytest.mark.parametrize("count, probes", [(64, 32), (500, 80), (9000, 1440), (90000, 5000)])
def test_lists_that_are_looked_at(count, probes):
    """At least 32; of more lists four times the share that so many rows have; never above all."""
    from types import SimpleNamespace

    found = object.__new__(ann.Ann)
    found._index, found._usual = SimpleNamespace(nprobe=1, nlist=5000, ntotal=125000), 1
    found._widen(125000)  # another query's
    found._widen(count)
    assert found._index.nprobe == probes


def test_what_faiss_cannot_do_is_said_in_a_line(tmp_path, rows):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu (extra `search`) is not installed")
    from vlp_jax.serve.vectors import Vectors

    path = str(tmp_path / "image.index")
    with pytest.raises(UserError, match="--ann=ivfpq: faiss cannot make it of 1 rows"):
        ann.build_ann("ivfpq", Vectors([rows[:1]]), path)
    for kind in ("flat", "ivfpq"):
        with pytest.raises(UserError, match="row 3 of the vectors is not finite"):
            broken = rows.copy()
            broken[3, 0] = np.nan
            ann.build_ann(kind, Vectors([broken]), path)
    index = faiss.IndexIDMap(faiss.IndexFlatIP(16))
    index.add_with_ids(rows, np.arange(50) + 7)
    faiss.write_index(index, path)
    with pytest.raises(UserError, match=r"image\.index: an IndexIDMap"):
        ann.reconstructed(path)


def test_a_lone_condition_is_no_list_of_letters(foreign, rows):
    searcher = Searcher(Index.open(str(foreign)))
    both = [searcher.search(rows[:1], 3, where=w)[0].tolist() for w in ("width<3", ["width<3"])]
    assert both[0] == both[1] and sorted(both[0][0]) == [0, 1, 2]


def test_clip_retrieval_leaves_a_faiss_index_alone(foreign, rows):
    """Its index folder holds image.index and metadata, no vectors."""
    import shutil

    faiss = pytest.importorskip("faiss", reason="faiss-cpu (extra `search`) is not installed")
    index = faiss.IndexHNSWFlat(16, 8, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    faiss.write_index(index, str(foreign / "image.index"))
    shutil.rmtree(foreign / "img_emb"), shutil.rmtree(foreign / "text_emb")
    searcher = Searcher(Index.open(str(foreign)))
    np.testing.assert_allclose(searcher.index.vectors([9]), rows[[9]], atol=1e-6)
    assert searcher.find(rows[9], 3)[0].id == 9
    (foreign / "image.index").write_bytes(b"no index")
    with pytest.raises(UserError, match="is no index of faiss"):
        Index.open(str(foreign))


def test_without_faiss_it_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        UserError, match=r"--ann=hnsw: needs faiss: pip install 'vlp_jax\[search\]'"
    ):
        ann.check_kind("hnsw")
    with pytest.raises(UserError, match="--ann=hnws: unknown; did you mean 'hnsw'"):
        ann.check_kind("hnws")


def test_what_is_a_weight_and_what_is_none():
    from vlp_jax.serve.query import split_weight

    wanted = {
        **{"2*x": (2, "x"), "2 * x": (2, "x"), "1e3*x": (1000, "x"), "-.5 *a b": (-0.5, "a b")},
        **{"+1.E-2*x*y": (0.01, "x*y"), "a*b": (1, "a*b"), "a 5* hotel": (1, "a 5* hotel")},
        **{"5*": (1, "5*"), "*": (1, "*"), "nano*x": (1, "nano*x"), "2x*y": (1, "2x*y")},
    }
    assert {text: split_weight(text) for text in wanted} == wanted
    for text in ("nan*x", "-inf * x", "--1*x", "+-1*x", "0*x", "1e-30*x", "1e999*x", "1e7*x"):
        with pytest.raises(UserError, match="must be one number from"):
            split_weight(text)


def test_a_lone_text_is_no_list_of_letters():
    from pathlib import Path

    from vlp_jax.serve.query import Query

    query = Query("i", text="cat", image=Path("a.png"), vector=["v.npy", "w.npy"])
    assert (query.text, query.image, query.vector) == (("cat",), ("a.png",), ("v.npy", "w.npy"))
    with pytest.raises(UserError, match="vector: must be a file or several, not float"):
        Query("i", vector=np.ones(3))
    with pytest.raises(UserError, match="--k=3: must be a whole number"):
        Query("i", "cat", k="3").check()


@pytest.mark.parametrize(
    "array, message",
    [
        (np.ones(3, complex), "must be real numbers, holds complex128"),
        (np.array(["a"] * 3), "must be real numbers, holds <U1"),
        (np.array(["2020-01-01"] * 3, "M8[D]"), "must be real numbers, holds datetime64"),
        (np.ones((3, 1)), r"must be 3 numbers, has shape \[3, 1\]"),
        (np.full(3, np.inf), "not finite"),
    ],
)
def test_vectors_that_are_none(tmp_path, array, message):
    from vlp_jax.serve.query import _read_vector

    np.save(tmp_path / "v.npy", array)
    with pytest.raises(UserError, match=message):
        _read_vector(str(tmp_path / "v.npy"), 3)


@pytest.mark.parametrize("scale", [1, 1e300, 1e-300])
def test_vectors_of_any_norm(tmp_path, scale):
    from vlp_jax.serve.query import _read_vector

    np.save(tmp_path / "v.npy", np.array([[3, 4]]) * scale)
    np.testing.assert_allclose(_read_vector(str(tmp_path / "v.npy"), 2), [[0.6, 0.8]], rtol=1e-6)
