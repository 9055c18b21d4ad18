"""The step against its recipe written out: optax, schedule, moving average, locked leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import tiny_batch, tiny_method

from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, matches
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.optim.optimizer import NO_DECAY, lr_factors, make_optimizer
from vlp_jax.optim.schedules import make_schedule
from vlp_jax.parallel.mesh import batch_sharding, make_mesh
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

B = 16
OPTIM = dict(name="adamw", b2=0.98, weight_decay=0.2, clip_norm=0.5, lr_groups=(("text/.*", 0.5),))
SHALLOW = dict(image={"num_layers": 1, "dropout": 0.1}, text={"num_layers": 1})
SCHEDULE = make_schedule("cosine", 1e-2, 10, 3)


def parts(name="clip", **recipe):
    """(method, first state and frozen weights, step) of the tiny method."""
    method, tx = tiny_method(name, **SHALLOW), make_optimizer(OPTIM)
    recipe = Recipe(3, B, **recipe)
    init = lambda: init_state(method, tx, recipe)  # noqa: E731
    factors = lr_factors(OPTIM, jax.eval_shape(init).state["params"])
    return method, init, make_step(method, tx, SCHEDULE, factors, recipe)


def batches(count):
    return [jax.tree.map(jnp.asarray, tiny_batch(B, seed)) for seed in range(count)]


def plain(tree):
    return {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}


def test_three_steps_are_the_recipe_written_out():
    method, init, step = parts(ema_decay=0.25)
    (state, frozen), run = jax.jit(init)(), jax.jit(step)
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam(0.9, 0.98))
    params = ema = state["params"]
    opt = tx.init(params)

    @jax.jit
    def gradient(params, batch, number):
        x = Inputs.of(batch, example_keys(step_key(3, number), B), step=number, train=True)
        loss = lambda p: method.loss(Vars(p, {}), x)[0]  # noqa: E731
        return jax.value_and_grad(loss)(params)

    for number, batch in enumerate(batches(3)):
        value, slope = gradient(params, batch, number)
        direction, opt = tx.update(slope, opt)
        old, moved, lr = flatten(params), {}, 1e-2 * (number + 1) / 3  # the warm-up
        for path, d in flatten(direction).items():
            decay = 0.0 if matches(path, NO_DECAY) else 0.2
            factor = 0.5 if path.startswith("text/") else 1.0
            moved[path] = old[path] - lr * factor * (d + decay * old[path])
        params = jax.tree.unflatten(jax.tree.structure(params), list(moved.values()))
        rate = min(0.25, (1 + number) / (10 + number))
        ema = jax.tree.map(lambda e, p, r=rate: r * e + (1 - r) * p, ema, params)
        state, metrics = run(state, frozen, batch)
        assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
        assert float(metrics["lr"]) == pytest.approx(lr)
        assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(slope)), rel=1e-4)
    assert int(state["step"]) == 3
    for found, wanted in ((state["params"], params), (state["ema"], ema)):
        wanted = plain(wanted)
        for path, leaf in plain(found).items():
            other = wanted[path]
            if path.endswith("qkv/bias"):
                # A softmax ignores the keys' bias: its gradient is rounding that Adam scales up.
                leaf, other = (x[:, :, [0, 2]] for x in (leaf, other))  # [L, H, 3, K]
            np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=2e-5, err_msg=path)


def test_locked_towers_stay_as_they_are_to_the_last_bit():
    """LiT: decay, momentum and the moving average must not reach them either."""
    _, init, step = parts(freeze=("image/(?!head).*",), ema_decay=0.9)
    (state, locked), run = jax.jit(init)(), jax.jit(step)
    frozen, trained = plain(locked), plain(state["params"])
    assert set(trained) & set(frozen) == set() and "image/head/kernel" in trained
    assert "frozen" not in state
    assert not any("patch_embed" in path for path in flatten(state["opt"]) | flatten(state["ema"]))
    for batch in batches(3):
        state, _ = run(state, locked, batch)
    for path, leaf in plain(locked).items():
        np.testing.assert_array_equal(leaf, frozen[path], err_msg=path)
    moved = plain(state["params"])
    unused = {"text/pos_embed", "text/token_embed/embedding"}  # some rows are never read
    assert all((moved[p] != trained[p]).all() for p in trained if p not in unused)


def test_a_locked_temperature_needs_no_clamp():
    _, init, step = parts(freeze=("logit_scale",))
    start = jax.jit(init)()
    _, metrics = jax.jit(step)(*start, batches(1)[0])
    assert np.isfinite(metrics["loss"]) and "logit_scale" in start.frozen


def placed_step(axes, preset, accumulate, name="clip"):
    """Parameters and loss after two steps on a mesh."""
    _, init, step = parts(name, accumulate=accumulate)
    mesh = make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values())))])
    sharding = param_sharding(jax.eval_shape(init), mesh, preset)
    with jax.set_mesh(mesh):
        state, frozen = jax.jit(init, out_shardings=sharding)()
        split = batch_sharding(mesh)
        places = dict(in_shardings=(*sharding, split), out_shardings=(sharding.state, None))
        run = jax.jit(step, **places)
        for batch in batches(2):
            state, metrics = run(state, frozen, jax.device_put(batch, split))
    return plain(state["params"]), float(metrics["loss"])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_accumulation_and_sharding_together_change_nothing(name):
    wanted, loss = placed_step({"data": 1}, "replicated", 1, name)
    axes = {"data": 2, "fsdp": 2, "tensor": 2}
    found, sharded = placed_step(axes, "fsdp_tensor", 4, name)
    assert sharded == pytest.approx(loss, rel=1e-5)
    for path, leaf in wanted.items():
        # Adam divides by the gradient's size, so rounding moves weights by a share of lr = 1e-2.
        np.testing.assert_allclose(found[path], leaf, atol=2e-4, err_msg=path)


def test_a_bad_gradient_in_one_leaf_alone_skips_the_step():
    _, init, step = parts(ema_decay=0.9)
    (state, frozen), run = jax.jit(init)(), jax.jit(step)
    state, _ = run(state, frozen, batches(1)[0])
    poisoned = jax.tree.map(lambda x: x, state)
    poisoned["params"]["logit_scale"] = jnp.float32(jnp.nan)
    before = plain({key: poisoned[key] for key in ("params", "opt", "ema", "extra")})
    after, metrics = run(poisoned, frozen, batches(1)[0])
    assert int(after["skipped"]) == int(after["skipped_in_row"]) == 1 == int(metrics["skipped"])
    for path, leaf in plain({k: after[k] for k in ("params", "opt", "ema", "extra")}).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)
