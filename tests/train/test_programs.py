"""Functions as programs: a row's numbers are its own, whatever batch and devices it comes in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Numbers
from vlp_jax.core.options import options
from vlp_jax.evals.base import EvalContext, Evaluator, embed_some
from vlp_jax.methods.base import Function, Method
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.train import evaluate
from vlp_jax.train.functions import Embedder, compiled, share_options

TRACES = []


@options
class Noise:
    scale: float = 1.0
    kind: str = "normal"


@dataclasses.dataclass(frozen=True)
class Sampler(Method):
    """Draws from a row's key; its `share` needs a total of its own."""

    def totals(self, x):
        return {**super().totals(x), "tokens": x.batch["a"].sum()}

    def functions(self):
        def draw(v, x, how):
            TRACES.append(how.kind)
            noise = how.scale * jax.vmap(getattr(jax.random, how.kind))(x.rng)
            return {"noise": noise, "half": {"a": x.batch["a"].astype(jnp.bfloat16)}}

        def share(v, x, _):
            return x.batch["a"] / x.totals["tokens"]

        reads = {"a": Numbers(())}
        return {"draw": Function(draw, reads, Noise), "share": Function(share, reads)}


def batches(size, rows):
    """The rows 0 to `rows` in batches of `size`, the last ones first, padded with index -1."""
    starts = range(0, rows, size)
    for start in reversed(starts):
        index = np.arange(start, start + size, dtype=np.int32)
        yield {"a": index.astype(np.float32), "index": np.where(index < rows, index, -1)}


def drawn(fns, size, how):
    rows, seen = embed_some(lambda batch: fns["draw"](batch, how), batches(size, 11), 11)
    assert seen.all()
    return rows


def test_draws_depend_on_the_row_alone():
    found = []
    for devices, sizes in ((1, (4, 11)), (8, (8,))):
        mesh = make_mesh({"data": devices}, jax.devices()[:devices])
        fns = Embedder(Sampler(), mesh).bind({}, {})
        found += [drawn(fns, size, {"scale": 2}) for size in sizes]
    for other in found[1:]:
        np.testing.assert_array_equal(other["noise"], found[0]["noise"])
    half = found[0]["half"]["a"]
    assert half.dtype == jnp.bfloat16 and half.tolist() == list(range(11))
    assert len(np.unique(found[0]["noise"])) == 11


def test_one_program_for_every_float_option_and_totals_of_the_method():
    TRACES.clear()
    draw, batch = compiled(Sampler(), "draw"), {"a": jnp.arange(1.0, 5.0)}
    one, two, other = (
        draw({}, {}, batch, None, how)["noise"] for how in (None, {"scale": 2}, {"kind": "uniform"})
    )
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert TRACES == ["normal", "uniform"] and (other >= 0).all()
    share = compiled(Sampler(), "share")
    np.testing.assert_allclose(share({}, {}, batch), [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    with pytest.raises(UserError, match="Sampler has no function 'drew'; did you mean 'draw'"):
        compiled(Sampler(), "drew")


@dataclasses.dataclass(frozen=True)
class Spread(Evaluator):
    requires = ("draw", "share")

    def measure(self, fns):
        batch = next(batches(4, 4))
        return [fns[name](batch)[0] for name in self.requires]


def test_an_evaluators_section_fills_the_options_of_its_functions(monkeypatch):
    monkeypatch.setattr(
        evaluate, "make_evaluator", lambda name, cfg, context: Spread(context, **cfg)
    )

    def run(how):
        made = evaluate.make_evaluators({"x": {"how": how}}, EvalContext(None, 8, 4), Sampler())
        return made["x"](
            Embedder(Sampler(), make_mesh({"data": 1}, jax.devices()[:1])).bind({}, {})
        )

    (one, share), (three, same) = run({}), run({"scale": 3})
    np.testing.assert_allclose(three["noise"], 3 * one["noise"], rtol=1e-6)
    np.testing.assert_array_equal(share, same)
    with pytest.raises(
        UserError, match=r"evals\.x\.how\.scalee: unknown key; did you mean 'scale'"
    ):
        run({"scalee": 3})
    with pytest.raises(
        UserError, match=r"evals\.x\.how\.scale is 'much', it must be of type float"
    ):
        run({"scale": "much"})
    assert share_options(Sampler().functions(), {}, "how") == {"draw": Noise()}
