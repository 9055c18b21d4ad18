"""A mapping against its dataclass: typos and impossible numbers are refused by their key, in the
sections within it too."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest

from configs import common
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Amount, Chance, Range, Rate, Size, build
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.clip import small_arch


@dataclasses.dataclass(frozen=True)
class Inner:
    chance: Chance = 0.5
    pair: tuple[float, float] = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Outer:
    width: Size
    rate: Rate = 0.0
    amount: Amount = 0.0
    near: Annotated[float, Range(-1, 1)] = 0.0
    free: float = 0.0
    inner: Annotated[Mapping[str, Any] | None, Inner] = None


@pytest.mark.parametrize(
    "change",
    [
        {"width": 1},
        {"rate": 0.0},
        {"amount": 1e9},
        {"near": -1},
        {"near": 1},
        {"free": -7.5},
        {"inner": {"chance": 0}},
        {"inner": {"chance": 1.0, "pair": [0, 5]}},
    ],
)
def test_what_lies_within_is_built(change):
    assert build(Outer, {"width": 2, **change}, "here").width >= 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 0}, "here.width=0 is out of range; it must be at least 1"),
        ({"rate": 1.0}, "here.rate=1.0 is out of range; it must be from 0 to 0.99999"),
        ({"amount": -0.1}, "here.amount=-0.1 is out of range; it must be at least 0"),
        ({"amount": math.inf}, "here.amount=inf is out of range; it must be finite"),
        ({"near": 1.01}, "here.near=1.01 is out of range; it must be from -1 to 1"),
        ({"near": math.nan}, "here.near=nan is out of range; it must be from -1 to 1"),
        ({"inner": {"chance": 2}}, "here.inner.chance=2 is out of range; it must be from 0 to 1"),
        ({"inner": {"chanse": 1}}, "here.inner.chanse: unknown key; did you mean 'chance'?"),
        ({"widht": 1}, "here.widht: unknown key; did you mean 'width'?"),
    ],
)
def test_what_does_not_is_refused_by_its_key(change, message):
    with pytest.raises(UserError, match="^" + re.escape(message)):
        build(Outer, {"width": 2, **change}, "here")


@dataclasses.dataclass(frozen=True)
class Kinds:
    kind: Literal["l1", "l2"] = "l1"
    pair: tuple[float, int] = (0.0, 0)
    sizes: tuple[Size, ...] = ()
    names: tuple[tuple[str, float], ...] = ()
    maybe: Rate | None = None
    either: int | str = 0


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"kind": "l2"}, "l2"),
        ({"pair": [1, 2]}, (1.0, 2)),
        ({"sizes": [3, 4, 5]}, (3, 4, 5)),
        ({"names": [["a", 1], ["b", 0.5]]}, (("a", 1.0), ("b", 0.5))),
        ({"maybe": None}, None),
        ({"maybe": 0}, 0.0),
        ({"either": "a"}, "a"),
        ({"either": 7}, 7),
    ],
)
def test_members_choices_and_alternatives(change, wanted):
    ((key, _),) = change.items()
    found = getattr(build(Kinds, change, "here"), key)
    assert found == wanted and repr(found) == repr(wanted)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "l3"}, "here.kind is 'l3'; valid: l1, l2"),
        ({"pair": [1.5]}, "here.pair is (1.5,), it must be of type tuple[float, int]"),
        ({"pair": [1.5, 2.5]}, "here.pair is (1.5, 2.5), it must be of type tuple[float, int]"),
        ({"pair": [1.5, True]}, "here.pair is (1.5, True), it must be"),
        ({"names": [["a"]]}, "here.names is (('a',),), it must be"),
        ({"maybe": "x"}, "here.maybe is 'x', it must be of type float"),
        ({"maybe": 1.0}, "here.maybe=1.0 is out of range"),
        ({"either": 1.5}, "here.either is 1.5, it must be of type int or str"),
        ({"either": None}, "here.either is None, it must be of type int or str"),
    ],
)
def test_members_choices_and_alternatives_are_held(change, message):
    with pytest.raises(UserError, match="^" + re.escape(message)):
        build(Kinds, change, "here")


@pytest.mark.parametrize(
    "key, value",
    [
        ("image.width", 0),
        ("text.num_heads", 0),
        ("text.dropout", 1.0),
        ("image.patch_dropout", -0.1),
        ("augment.flip", 1.5),
        ("text.vocab_size", 0),
        ("embed_dim", 0),
    ],
)
def test_networks_and_sections_of_a_method_say_their_ranges(key, value):
    config = common.clip_method("clip", small_arch(32, 16, 32, 1))
    make_method(config).parts()
    *parents, last = key.split(".")
    node = config[parents[0]] if parents else config
    node[last] = value
    with pytest.raises(UserError, match=f"^method.{key}={value} is out of range"):
        make_method(config).parts()
