"""Errors name what is wrong and the nearest valid name: errors, dispatch, schema."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import build, plain


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int
    layers: tuple[int, ...] = (1,)
    name: str = ""


def test_nearest_suggests_or_lists():
    assert nearest("bacth", ["batch", "steps"]) == "; did you mean 'batch'?"
    assert nearest("zzz", ["b", "a"]) == "; valid: a, b"
    assert nearest("zzz", []) == ""
    assert nearest("zzz", [f"option{i}" for i in range(20)]).endswith(", ...")


def test_dispatch_finds_files_and_refuses_others():
    assert {"clip", "siglip"} <= set(dispatch.names("methods"))
    assert "base" not in dispatch.names("methods")
    assert dispatch.load("methods", "clip", "method.name").CLIP
    with pytest.raises(UserError, match=r"method\.name: unknown 'clpi'; did you mean 'clip'"):
        dispatch.load("methods", "clpi", "method.name")
    with pytest.raises(UserError):
        dispatch.load("methods", "..core.errors", "method.name")


def test_build_takes_config_dicts_and_makes_tuples():
    built = build(Sizes, ConfigDict({"width": 3, "layers": [1, 2]}), "method.image")
    assert built == Sizes(3, (1, 2))
    assert plain(ConfigDict({"a": {"b": [1, {"c": [2]}]}})) == {"a": {"b": (1, {"c": (2,)})}}


@pytest.mark.parametrize(
    "config, message",
    [
        ({"width": 1, "layer": 2}, "method.image.layer: unknown key; did you mean 'layers'"),
        ({}, "method.image: .*missing.*'width'"),
    ],
)
def test_build_refuses_what_is_no_field(config, message):
    with pytest.raises(UserError, match=message):
        build(Sizes, config, "method.image")
