"""Exact search against a plain one in float64: order, ties, sizes, devices."""

import jax
import numpy as np
import pytest

from vlp_jax.serve import nearest
from vlp_jax.serve.nearest import Nearest, chunk_size, merge
from vlp_jax.serve.vectors import Vectors


def parts_of(rows, cuts):
    return Vectors([part.astype(np.float16) for part in np.split(rows, cuts)])


def plainly(vectors, queries, k, mask=None):
    """(ids, scores) in float64; of equal scores the lowest id first."""
    rows = np.concatenate([np.asarray(part, np.float64) for part in vectors.parts])
    norms = np.linalg.norm(rows, axis=1)
    scores = queries.astype(np.float64) @ (rows / np.where(norms > 0, norms, 1)[:, None]).T
    scores[:, norms == 0] = -np.inf
    if mask is not None:
        scores[:, ~mask] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.fixture
def small(monkeypatch):
    """Chunks of 64 rows, so that a small set has many."""
    monkeypatch.setattr(nearest, "LARGEST", 64)
    monkeypatch.setattr(nearest, "SMALLEST", 64)
    monkeypatch.setattr(nearest, "_PENDING", 3)


@pytest.mark.parametrize("count", [1, 3, 70])
def test_ids_and_scores(small, count):
    rng = np.random.default_rng(count)
    vectors = parts_of(rng.normal(size=(1000, 8)) * rng.uniform(1, 9, (1000, 1)), [130, 131, 700])
    queries = rng.normal(size=(count, 8)).astype(np.float32)
    ids, scores = Nearest(vectors).search(queries, 20)
    wanted, exact = plainly(vectors, queries, 20)
    assert ids.dtype == np.int64 and scores.dtype == np.float32
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_ties_go_to_the_lowest_id_on_any_number_of_devices(small, devices):
    rng = np.random.default_rng(0)
    few = rng.normal(size=(7, 16))
    vectors = parts_of(few[rng.integers(0, 7, 500)], [60, 333])
    queries = few[:4].astype(np.float32)
    ids, scores = Nearest(vectors, jax.devices()[:devices]).search(queries, 300)
    assert (np.diff(scores, axis=1) <= 0).all()
    same = np.diff(scores, axis=1) == 0
    assert same.sum() > 1000 and (np.diff(ids, axis=1)[same] > 0).all()
    alone = Nearest(vectors, jax.devices()[:1]).search(queries, 300)
    np.testing.assert_array_equal(ids, alone[0])
    np.testing.assert_array_equal(scores, alone[1])


def test_devices_share_the_rows(small):
    vectors = parts_of(np.random.default_rng(0).normal(size=(64 * 32, 8)), [64 * 11])
    held = {}
    for chunk in Nearest(vectors, jax.devices()).chunks:
        held[chunk.device] = held.get(chunk.device, 0) + chunk.rows.nbytes
    assert len(held) == 8 and set(held.values()) == {64 * 4 * 8 * 2}


def test_a_mask_zeros_and_too_large_a_k(small):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 8))
    rows[[3, 150]] = 0
    vectors, queries = parts_of(rows, [90]), rng.normal(size=(2, 8)).astype(np.float32)
    mask = rng.random(200) < 0.3
    ids, scores = Nearest(vectors).search(queries, 200, mask)
    wanted = plainly(vectors, queries, 200, mask)[0]
    count = int((mask & rows.any(axis=1)).sum())
    np.testing.assert_array_equal(ids[:, :count], wanted[:, :count])
    assert (ids[:, count:] == -1).all() and (scores[:, count:] == 0).all()
    assert not np.isin([3, 150], Nearest(vectors).search(queries, 300)[0]).any()
    assert (Nearest(vectors).search(queries, 10, np.zeros(200, bool))[0] == -1).all()


def test_the_mapped_memory_is_not_copied(tmp_path):
    np.save(tmp_path / "v_0.npy", np.random.default_rng(0).normal(size=(4096, 64)).astype("f2"))
    vectors = Vectors.open(str(tmp_path))
    (chunk,) = Nearest(vectors, jax.devices()[:1]).chunks
    assert chunk.rows.unsafe_buffer_pointer() == vectors.parts[0].ctypes.data


def test_sizes_of_chunks():
    """A last chunk reaches back into the one before, by no more than an eighth of the part."""
    for rows in (1024, 1025, 16384, 16383, 20000, 65536, 10**6, 10**7 + 1):
        size = chunk_size(rows)
        assert size & (size - 1) == 0 and 1024 <= size <= 65536
        assert -rows % size <= rows // 8 or size == 1024
    assert (chunk_size(16384), chunk_size(10**6), chunk_size(20000)) == (16384, 65536, 4096)


def test_merging_by_hand():
    found = [(np.array([[1, 0]]), np.float32([[0.9, 0.5]])), (np.array([[7]]), np.float32([[0.9]]))]
    ids, scores = merge(found, 2)
    assert ids.tolist() == [[1, 7]] and np.allclose(scores, 0.9)
    assert merge(found, 4)[0].tolist() == [[1, 7, 0, -1]]
