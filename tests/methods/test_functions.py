"""What a method can do: options, keys, and that none of it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.options import options
from vlp_jax.methods.base import Function
from vlp_jax.train.functions import compiled


@options
class Sampling:
    guidance: float = 2.0
    steps: int = 3
    name: str = "ddim"


def sampled(traces=None):
    """A Function that tells of its options and draws a number for every row."""

    def run(v, x, how):
        if traces is not None:
            traces.append(how.steps)
        assert not x.train and x.keys is None
        drawn = jax.vmap(jax.random.normal)(x.rng)
        return {"scaled": how.guidance * x.batch["a"] + how.steps, "drawn": drawn}

    return Function(run, {}, Sampling)


V, X = Vars({}, {}), Inputs.of({"a": jnp.arange(3.0)}, train=True)


def test_one_program_serves_every_float_and_no_other_choice():
    traces = []
    run = jax.jit(sampled(traces))
    for how, wanted in (
        (Sampling(), [3, 5, 7]),
        (Sampling(guidance=0.5), [3, 3.5, 4]),
        (Sampling(steps=1), [1, 3, 5]),
    ):
        np.testing.assert_allclose(run(V, X, how)["scaled"], wanted)
    assert traces == [3, 1]


def test_who_asks_a_method_again_gets_the_program_that_there_is():
    """As `Model.generate` does in every call; another object has one of its own."""

    class Said:
        def __init__(self):
            self.traces = []

        def fields(self):
            return {}

        def totals(self, x):
            return {}

        def functions(self):
            def run(v, x, how):
                self.traces.append(how.steps)
                return how.guidance * x.index

            return {"scaled": Function(run, {}, Sampling)}

    first, other = Said(), Said()
    for method in (first, first, other):
        run = compiled(method, "scaled")
        for steps in (3, 1):
            run({}, {}, {}, np.arange(2), {"steps": steps, "guidance": 0.1 * steps})
    assert first.traces == other.traces == [3, 1]


@options
class Filled:
    fill: float | None = None


def test_an_optional_float_is_traced_and_its_absence_a_choice():
    traces = []

    def run(v, x, how):
        traces.append(how.fill is None)
        return x.batch["a"] if how.fill is None else jnp.full(3, how.fill)

    run = jax.jit(Function(run, {}, Filled))
    for fill, wanted in ((None, [0, 1, 2]), (4.0, [4] * 3), (5.0, [5] * 3)):
        np.testing.assert_allclose(run(V, X, Filled(fill)), wanted)
    assert traces == [True, False]


def test_what_may_be_a_word_is_a_choice():
    @options
    class Mixed:
        cut: str | float = 0.5
        length: int | float | None = 2

    leaves, shape = jax.tree.flatten(Mixed())
    assert leaves == [2] and shape != jax.tree.structure(Mixed(cut="best"))


def test_options_come_from_their_defaults_and_from_keys():
    function = sampled()
    np.testing.assert_allclose(function(V, X)["scaled"], [3, 5, 7])
    np.testing.assert_allclose(function(V, X, {"guidance": 1, "steps": 0})["scaled"], [0, 1, 2])
    assert isinstance(function.options({"guidance": 1}).guidance, float)
    with pytest.raises(UserError, match=r"--set\.guidence: unknown key; did you mean 'guidance'"):
        function.options({"guidence": 1.0}, "--set")
    for wrong in ({"steps": 1.5}, {"guidance": "7"}, {"name": 3}, {"steps": True}):
        (key,) = wrong
        with pytest.raises(UserError, match=rf"how\.{key} is .*, it must be of type"):
            function(V, X, wrong)
    for wrong in ("guidance=1", 3, ["guidance"], V):
        with pytest.raises(UserError, match=r"how is .*, it must be a mapping, \{option: value\}"):
            function.options(wrong)
    plain = Function(lambda v, x, _: x.batch["a"], {})
    assert plain.options() is None and plain.options({}) is None
    with pytest.raises(UserError, match="how: this function takes no options"):
        plain(V, X, {"steps": 1})
