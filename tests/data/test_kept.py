"""Arrays kept between runs: of the form that is asked for, or none."""

import logging

import numpy as np
import pytest

from vlp_jax.data import kept


@pytest.mark.parametrize(
    "count, dtype, found", [(3, np.int32, True), (4, np.int32, False), (3, np.uint32, False)]
)
def test_only_the_same_form_is_taken(tmp_path, count, dtype, found):
    path = str(tmp_path / "deep" / "a.npy")
    kept.save(np.arange(3, dtype=np.int32), path, "numbers")
    array = kept.read(path, count, dtype)
    assert (array is not None) == found
    assert array is None or array.tolist() == [0, 1, 2]
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.npy"]


def test_what_is_no_array_or_cannot_be_kept_is_no_failure(tmp_path, caplog, monkeypatch):
    (tmp_path / "b.npy").write_bytes(b"no array")
    assert kept.read(str(tmp_path / "b.npy"), 3, np.int32) is None
    assert kept.read(str(tmp_path / "none.npy"), 3, np.int32) is None
    monkeypatch.setattr(logging.getLogger("vlp_jax"), "propagate", True)
    kept.save(np.arange(3), str(tmp_path / "b.npy" / "c.npy"), "numbers")
    assert "numbers are not kept" in caplog.text
