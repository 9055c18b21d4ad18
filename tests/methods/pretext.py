"""The smallest pretext tasks and what every test of them needs.

The file exists so that the tests of the tasks share shapes, and with them the compilation cache.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import make_method
from vlp_jax.train.gradient import loss_and_gradient

B = 8


def tower(size=16, **changes):
    """A ViT of one layer, width 32, patches of 8, mean pooling."""
    sizes = dict(patch_size=8, width=32, num_layers=1, head_width=32, pool="gap", pre_norm=False)
    return dict(name="vit", image_size=size, **sizes) | changes


def build(name, size=16, image=None, **fields):
    """The task `name` on `tower(size)`."""
    return make_method(dict(name=name, image=tower(size, **(image or {})), unroll=True, **fields))


def batch_of(method, count=B, seed=0):
    """Random pictures uint8[count, S, S, 3]."""
    shape = method.batch_spec(count)["image"].shape
    pictures = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return {"image": jnp.asarray(pictures)}


def made(method, seed=0):
    """(params, extra) of a method."""
    return jax.jit(method.fresh)(jax.random.key(seed))


def gradients(method, params, extra, batch, accumulate=1):
    """(loss, Aux, flat gradient) of one step at fixed keys."""
    count = len(batch["image"])
    x = Inputs.of(batch, example_keys(step_key(0, 3), count), step=3, train=True)
    run = jax.jit(lambda p: loss_and_gradient(method, p, {}, extra, x, accumulate))
    loss, aux, gradient = run(params)
    return loss, aux, flatten(gradient)


def jitted(function):
    """f(params, extra, batch) of a function, outside training."""
    return jax.jit(lambda params, extra, batch: function(Vars(params, extra), Inputs.of(batch)))


def followed(method, params, extra):
    """The extra state after an update."""
    return lay(method.follow(Vars(params, extra), jnp.int32(1)), extra)


def check_accumulation(method, seed=0):
    """Loss, metrics, extra state and gradient of four micro-batches are those of the batch."""
    (params, extra), batch = made(method), batch_of(method, seed=seed)
    one, four = (gradients(method, params, extra, batch, k) for k in (1, 4))
    np.testing.assert_allclose(four[0], one[0], rtol=1e-5)
    for name, value in one[1].metrics.items():
        np.testing.assert_allclose(four[1].metrics[name], value, rtol=1e-4, atol=1e-6)
    after = [flatten(followed(method, params, lay(aux.extra, extra))) for _, aux, _ in (one, four)]
    for path, leaf in after[0].items():
        np.testing.assert_allclose(after[1][path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)
    scale = max(float(jnp.abs(g).max()) for g in one[2].values())
    for path, exact in one[2].items():
        assert np.abs(exact).max() > 0, f"no gradient reaches {path}"
        np.testing.assert_allclose(four[2][path], exact, atol=2e-5 * scale, err_msg=path)
    return one


def check_functions(method, panels, extra=None):
    """features, task and show are deterministic and no row sees another."""
    (params, fresh), batch = made(method), batch_of(method)
    extra = fresh if extra is None else extra
    rolled = {"image": jnp.roll(batch["image"], 1, axis=0)}
    found = {}
    for name, function in method.functions().items():
        run = jitted(function)
        rows = found[name] = np.asarray(run(params, extra, batch))
        assert rows.shape[0] == B and rows.dtype == np.float32 and np.isfinite(rows).all(), name
        np.testing.assert_allclose(run(params, extra, rolled)[1:], rows[:-1], atol=1e-4)
    assert found["features"].ndim == 2 and found["task"].shape[::2] == (B, 3)
    assert found["show"].shape[1] == panels and found["show"].shape[-1] == 3
    assert found["show"].min() >= 0 and found["show"].max() <= 1
    return found
