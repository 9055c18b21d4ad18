"""Fixtures over the shards and pictures of `generated`."""

import pytest
from generated import write_shards


@pytest.fixture
def shards(tmp_path) -> str:
    """Three tars of ten samples, numbered 0..29."""
    return write_shards(tmp_path)
