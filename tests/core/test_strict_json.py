"""JSON that every reader takes: nothing that is not finite, nothing but plain values."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.cli.output import print_json
from vlp_jax.core.strict_json import dumps, plain

NAN, INF = float("nan"), float("inf")


def strict(text):
    return json.loads(text, parse_constant=lambda word: pytest.fail(word))


@pytest.mark.parametrize(
    "value, expected",
    [
        (NAN, None),
        ([INF, (-INF, 1.5)], [None, [None, 1.5]]),
        ({"a": {"b": NAN}, 3: True}, {"a": {"b": None}, "3": True}),
        (np.float32("nan"), None),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.0, np.inf]]), [[1.0, None]]),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (jnp.float32(0.5), 0.5),
        (jnp.bfloat16(jnp.nan), None),
        ("NaN", "NaN"),
        (None, None),
        (object, str(object)),
    ],
)
def test_what_is_not_finite_is_null(value, expected):
    found = strict(dumps({"x": value}))["x"]
    assert found == expected and type(found) is type(expected)
    assert plain(value) == expected


def test_options_are_those_of_json():
    assert (
        dumps({"b": "é", "a": NAN}, sort_keys=True, ensure_ascii=False) == '{"a": null, "b": "é"}'
    )


def test_the_last_line_of_a_command_is_strict(capsys):
    print_json({"loss": NAN, "eval": {"r": np.float32(0.25)}, "n": jnp.int32(3)})
    assert strict(capsys.readouterr().out) == {"loss": None, "eval": {"r": 0.25}, "n": 3}
