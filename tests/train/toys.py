"""Methods of a few numbers, and one gradient of them.

The file exists so that what the contract promises of micro-batches is tested where each term of a
loss can be counted, on one device and on eight.
"""

import contextlib
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.fields import Numbers
from vlp_jax.core.inputs import Aux, Inputs
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.losses.mining import draw_negatives
from vlp_jax.methods.base import Leaf, Method, Part
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.optim.schedules import make_schedule
from vlp_jax.parallel.mesh import batch_sharding, replicated
from vlp_jax.parallel.rows import take_rows
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

B, T, D, QUEUE = 16, 6, 5, 12


def draw(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def noise(x):
    """One number per row, of its own key. float32[b]"""
    return jax.vmap(lambda key: jax.random.normal(key, ()))(x.rng)


def start(rng):
    return jax.random.normal(rng, (D,))


@dataclasses.dataclass(frozen=True)
class Tokens(Method):
    """Mean squared error of all tokens that count; rows have from one to T of them."""

    def fields(self):
        return {"x": Numbers((T, D)), "y": Numbers((T,)), "counts": Numbers((T,), "bool")}

    def parts(self):
        return {"w": Part(Leaf(start)), "bias": Part(Leaf(0.5))}

    def totals(self, x):
        return {**super().totals(x), "tokens": jnp.float32(x.batch["counts"].sum())}

    def encode(self, v, x):
        found = x.batch["x"] @ v.params["w"] + v.params["bias"]  # [b, T]
        place = x.index / x.totals["rows"]
        drawn = noise(x)
        found = found + 0.1 * drawn[:, None] + place[:, None]
        return {"found": found, "counts": x.batch["counts"]}, Aux({"noise": x.share(drawn)})

    def objective(self, v, rows, x):
        miss = (rows["found"] - x.batch["y"]) * rows["counts"]
        loss = x.share(jnp.square(miss).sum(1), "tokens")
        return loss, Aux({"miss": x.share(jnp.abs(miss).sum(1), "tokens")})


@dataclasses.dataclass(frozen=True)
class Queue(Method):
    """A coupled loss over rows and a queue of earlier ones: those of one group attract each other,
    as far as they learn, at a temperature of the step; the first four rows are enqueued.
    """

    coupled: ClassVar[bool] = True

    def fields(self):
        whole = {name: Numbers((), "int32") for name in ("group", "learn")}
        return {"x": Numbers((D,)), "weight": Numbers(()), **whole}

    def parts(self):
        return {"w": Part(Leaf(start)), "scale": Part(Leaf(1.5))}

    def state(self, v, rng):
        return {"queue": draw(QUEUE, D, seed=5), "groups": jnp.arange(QUEUE) % 3}

    def encode(self, v, x):
        z = jnp.tanh(x.batch["x"] * v.params["w"] + 0.1 * noise(x)[:, None])
        rows = {"z": z, "group": x.batch["group"], "learn": x.batch["learn"] > 0}
        return rows, Aux({"noise": x.share(noise(x))})

    def objective(self, v, rows, x):
        z, groups = rows["z"], jnp.concatenate([rows["group"], v.extra["groups"]])
        others = jnp.concatenate([z, v.extra["queue"]])
        logits = v.params["scale"] * z @ others.T / (1 + x.step)  # [B, B + QUEUE]
        same = rows["group"][:, None] == groups
        log_p = jax.nn.log_softmax(logits)
        each = -(log_p * same).sum(1) / same.sum(1) * x.batch["weight"]
        loss = (each * rows["learn"]).sum() / rows["learn"].sum()
        queue, groups = jnp.roll(v.extra["queue"], 4, axis=0), jnp.roll(v.extra["groups"], 4)
        moved = {"queue": queue.at[:4].set(z[:4]), "groups": groups.at[:4].set(rows["group"][:4])}
        return loss, Aux({"right": log_p.max(1).mean()}, moved)


@dataclasses.dataclass(frozen=True)
class Partners(Method):
    """Every row against one of another group that is drawn from the whole batch: a second stage
    whose gradient flows to both, with noise of its own.
    """

    coupled: ClassVar[bool] = True

    def fields(self):
        return {"x": Numbers((D,)), "group": Numbers((), "int32")}

    def parts(self):
        return {"w": Part(Leaf(start)), "judge": Part(Leaf(start))}

    def encode(self, v, x):
        z = jnp.tanh(x.batch["x"] * v.params["w"] + 0.1 * noise(x)[:, None])
        return {"z": z, "group": x.batch["group"]}, Aux({"noise": x.share(noise(x))})

    def match(self, v, rows, others, x):
        key, wide = x.fold("partner"), 2 * others["z"]
        ids = rows["group"], others["group"]
        pick, found = draw_negatives(rows["z"], wide, 0.7, key.rng, *ids)
        other, group = take_rows((others["z"], others["group"]), pick)
        judged = rows["z"] * other @ v.params["judge"] + 0.1 * noise(x.fold("match"))
        rows = {"judged": judged, "other": group, "found": found}
        return rows, Aux({"picked": x.share(pick)}, {"seen": v.extra["seen"] + judged.mean()})

    def state(self, v, rng):
        return {"seen": jnp.float32(0.5)}

    def objective(self, v, rows, x):
        apart = rows["other"] != rows["group"]
        loss = jnp.square(rows["judged"] - rows["z"].sum(1)).mean() + rows["judged"].max()
        return loss, Aux({"apart": (apart == rows["found"]).mean()})


@dataclasses.dataclass(frozen=True)
class Memory(Method):
    """State that changes at every stage: `seen/mean` in encode, `seen/times` in objective, `last`
    in both, `end` in these and after the update; `kept` never.

    counter: dtype of `seen/times`.
    """

    counter: str = "float32"

    def fields(self):
        return {"x": Numbers((D,))}

    def parts(self):
        return {"w": Part(Leaf(start))}

    def state(self, v, rng):
        seen = {"mean": jnp.float32(0.5), "times": jnp.asarray(3, self.counter)}
        return {"seen": seen, **{name: jnp.float32(7) for name in ("last", "end", "kept")}}

    def encode(self, v, x):
        mean = v.extra["seen"]["mean"] + x.batch["x"].mean()
        moved = {"seen": {"mean": mean}, "last": jnp.float32(1), "end": jnp.float32(1)}
        return x.batch["x"] @ v.params["w"], Aux({}, moved)

    def objective(self, v, rows, x):
        times = v.extra["seen"]["times"] + 1
        moved = {"seen": {"times": times}, "last": jnp.float32(2), "end": jnp.float32(2)}
        return x.share(rows), Aux({}, moved)

    def follow(self, v, step):
        return {"end": v.extra["last"] + 10.0 * step}


@dataclasses.dataclass(frozen=True)
class CoupledMemory(Memory):
    """The same under gradient caching."""

    coupled: ClassVar[bool] = True


def tokens_batch():
    """Rows of 1, 2, ..., T tokens, turn by turn: micro-batches have unequal numbers of them."""
    lengths = np.arange(B) % T + 1
    return {"x": draw(B, T, D), "y": draw(B, T, seed=1), "counts": np.arange(T) < lengths[:, None]}


def queue_batch(seed=0):
    rng = np.random.default_rng(seed)
    whole = {"group": rng.integers(0, 3, B), "learn": rng.integers(0, 2, B)}
    whole = {name: jnp.int32(value) for name, value in whole.items()}
    return {"x": draw(B, D), "weight": jnp.abs(draw(B, seed=2)), **whole}


def partners_batch():
    return {"x": draw(B, D), "group": jnp.int32(np.arange(B) % 5)}


def inputs(method, batch, step=3):
    """A whole batch in training."""
    x = Inputs.of(batch, example_keys(step_key(0, 3), B), step=step, train=True)
    return x.replace(totals=method.totals(x))


def gradient(method, batch, accumulate, step=3, mesh=None):
    """(loss, metrics, entries of extra that changed, {path: gradient}); mesh: devices that share
    the batch.
    """

    def run(params, extra, batch):
        x = inputs(method, batch, step)
        return loss_and_gradient(method, params, {}, extra, x, accumulate)

    v = method.fresh(jax.random.key(0))
    if mesh is not None:
        batch = jax.device_put(batch, batch_sharding(mesh))
        v = jax.device_put(v, replicated(mesh))
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        loss, aux, slope = jax.jit(run)(*v, batch)
    return float(loss), dict(aux.metrics), aux.extra, flatten(slope)


def check_equal(found, wanted, tolerance=1e-6):
    """Two answers of `gradient`."""
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    assert found[1].keys() == wanted[1].keys()
    for name, value in wanted[1].items():
        assert float(found[1][name]) == pytest.approx(float(value), rel=tolerance, abs=tolerance)
    moved, slope = flatten(wanted[2]), wanted[3]
    assert flatten(found[2]).keys() == moved.keys() and found[3].keys() == slope.keys()
    scale = max(float(jnp.abs(g).max()) for g in slope.values())
    for path, leaf in moved.items():
        np.testing.assert_allclose(flatten(found[2])[path], leaf, atol=tolerance, err_msg=path)
    for path, leaf in slope.items():
        np.testing.assert_allclose(found[3][path], leaf, atol=tolerance * scale, err_msg=path)


def stepper(method, accumulate):
    """(first state, jitted (state, batch) -> (state, metrics)) of plain gradient descent."""
    config = {"name": "sgd", "momentum": 0.0, "clip_norm": 0.0}
    recipe, tx = Recipe(0, B, accumulate), make_optimizer(config)
    state, frozen = init_state(method, tx, recipe)
    schedule, factors = make_schedule("constant", 0.1, 10, 0), lr_factors(config, state["params"])
    step = jax.jit(make_step(method, tx, schedule, factors, recipe))
    return state, lambda state, batch: step(state, frozen, batch)
