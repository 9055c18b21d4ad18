"""The contract of methods/base.py, held against every method that is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FIELDS, SIZE, tiny_batch, tiny_config, tiny_method

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import Method, make_method

B = 8
METHODS = ("clip", "siglip", "align", "frozen_clip", *FIELDS)
RANDOM = dict(
    image={"dropout": 0.1, "patch_dropout": 0.5, "num_layers": 1},
    text={"dropout": 0.1, "num_layers": 1},
    augment={"crop_scale": (0.5, 1.0), "flip": 0.5},
)
OWN = {"mae": {"image": {"dropout": 0.1, "num_layers": 1}}}  # its mask is its patch dropout


@pytest.fixture(scope="module", params=METHODS)
def made(request):
    """(method, params, extra, batch, key -> first weights) of every method, all randomness on."""
    method = tiny_method(request.param, **(RANDOM | OWN.get(request.param, {})))
    batch = jax.tree.map(jnp.asarray, tiny_batch(B))
    fresh = jax.jit(method.fresh)
    return method, *fresh(jax.random.key(0)), batch, fresh


def test_shapes_are_known_without_running(made):
    method, params, extra, batch, _ = made
    spec = method.batch_spec(B)
    assert {k: (v.shape, v.dtype) for k, v in spec.items()} == {
        k: (batch[k].shape, batch[k].dtype) for k in spec
    }
    abstract = jax.eval_shape(method.fresh, jax.random.key(0))
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, extra))
    assert jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tuple(abstract)) == wanted
    assert params.keys() <= method.parts().keys()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_init_depends_on_the_seed_alone(made):
    _, params, _, _, fresh = made
    again, moved = (flatten(fresh(jax.random.key(seed)).params) for seed in (0, 1))
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    changed = [path for path, leaf in flatten(params).items() if (moved[path] != leaf).any()]
    wanted = {"image/patch_embed/kernel", "text/token_embed/embedding"} & set(moved)
    assert wanted and wanted <= set(changed)


def test_loss_is_objective_of_encode_and_has_a_gradient_everywhere(made):
    method, params, extra, batch, _ = made
    x = Inputs.of(batch, example_keys(step_key(0, 1), B), step=1, train=True)

    @jax.jit
    def run(params):
        v = Vars(params, extra)
        loss_fn = lambda p: method.loss(Vars(p, extra), x)  # noqa: E731
        rows, aux = method.encode(v, x)
        value, more = method.objective(v, rows, x)
        return jax.value_and_grad(loss_fn, has_aux=True)(params), value, more.metrics, rows, aux

    ((loss, aux), gradient), value, metrics, rows, encoded = run(params)
    assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss)
    assert float(loss) == pytest.approx(float(value), rel=1e-6)
    assert aux.metrics.keys() == {**encoded.metrics, **metrics}.keys()
    assert all(np.shape(v) == () and np.isfinite(v) for v in aux.metrics.values())
    assert jax.tree.structure(lay(aux.extra, extra)) == jax.tree.structure(extra)
    for path, leaf in flatten(aux.extra).items():
        assert (leaf != flatten(extra)[path]).any(), f"{path} was handed back unchanged"
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(rows))
    for path, leaf in flatten(gradient).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, f"no gradient reaches {path}"


def test_representations_of_a_micro_batch_are_those_of_the_batch(made):
    """Keys go by example, so splitting a batch is invisible with all randomness on."""
    method, params, extra, batch, _ = made
    v = Vars(params, extra)
    encode = jax.jit(lambda batch, keys: method.encode(v, Inputs.of(batch, keys, train=True))[0])
    keys = example_keys(step_key(0, 0), B)
    whole, rows = encode(batch, keys), jnp.array([5, 1, 2, 0, 5, 1, 2, 0])  # one program for both
    part = encode(jax.tree.map(lambda x: x[rows], batch), keys[rows])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(np.asarray(a)[rows], b, atol=1e-5)
    other = encode(batch, example_keys(step_key(0, 1), B))
    assert any(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True)
    ), "the key changed nothing"


def test_functions_are_deterministic_and_unit_norm(made):
    method, params, extra, batch, _ = made
    functions = method.functions()
    assert {"features", "pixels"} <= functions.keys()
    assert "text" not in method.parts() or {"embed_image", "embed_text"} <= functions.keys()
    for name, function in functions.items():
        read = function.reads.keys() & batch.keys()
        run = jax.jit(
            lambda params, extra, batch, fn=function: fn(Vars(params, extra), Inputs.of(batch))
        )
        told = {array: batch[array] for array in read}
        rows = np.asarray(run(params, extra, told))
        assert rows.shape[0] == B and rows.dtype == np.float32
        np.testing.assert_array_equal(rows, run(params, extra, told))
        moved = jax.tree.map(lambda x: jnp.roll(x, 1, 0), told)  # no row sees another
        np.testing.assert_allclose(run(params, extra, moved)[1:], rows[:-1], atol=1e-5)
        if name.startswith("embed"):
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_projection_clamps_and_touches_nothing_else(made):
    method, params, _, _, _ = made
    if "logit_scale" not in params:
        assert method.project(params) is params
        return
    for value, wanted in ((99.0, method.max_logit_scale), (-3.0, 0.0), (1.25, 1.25)):
        moved = method.project({**params, "logit_scale": jnp.float32(value)})
        assert float(moved["logit_scale"]) == pytest.approx(wanted)
        assert all(moved[k] is params[k] for k in params if k != "logit_scale")
    locked = {k: v for k, v in params.items() if k != "logit_scale"}
    assert method.project(locked) == locked  # the temperature may be frozen


def test_what_follows_an_update_is_extra_state(made):
    method, params, extra, _, _ = made
    moved = method.follow(Vars(params, extra), jnp.int32(1))
    assert jax.tree.structure(lay(moved, extra)) == jax.tree.structure(extra)
    assert method.flops() > 0


def test_temperatures_start_as_published():
    clip, siglip = tiny_method("clip"), tiny_method("siglip")
    assert np.exp(clip.init_logit_scale) == pytest.approx(1 / 0.07)
    assert np.exp(clip.max_logit_scale) == pytest.approx(100)
    assert np.exp(siglip.init_logit_scale) == pytest.approx(10)
    assert siglip.init_logit_bias == -10


def test_bad_sections_are_refused():
    for config, message in (
        (tiny_config(name="cilp"), "method.name: unknown 'cilp'; did you mean 'clip'"),
        (tiny_config(init_logit_scal=1.0), "method.init_logit_scal: unknown key"),
        ({"name": "clip", "embed_dim": 3}, "method: .*missing"),
    ):
        with pytest.raises(UserError, match=message):
            make_method(config)
    assert not Method.coupled


def test_resnet_towers_carry_their_statistics():
    image = dict(name="resnet", image_size=SIZE, layers=(1, 1, 1, 1), width=8)
    config = tiny_config("clip")
    method = make_method({**config, "image": image})
    x = Inputs.of(jax.tree.map(jnp.asarray, tiny_batch(4)), train=True)
    params, extra = jax.jit(method.fresh)(jax.random.key(0))
    aux = jax.jit(lambda extra: method.loss(Vars(params, extra), x)[1])(extra)
    before, after = flatten(extra), flatten(aux.extra)
    assert before.keys() == after.keys() and all(p.startswith("batch_stats/image/") for p in before)
    assert all((before[path] != after[path]).any() for path in before)


def test_what_a_method_leaves_unsaid_is_as_published():
    """Context encoders 3.2 and 4.3; OBoW 4.1; MAE A.1; SimCLR 2; Zhang et al. 3.1."""
    values = dict(
        inpainting=dict(hole=16, widths=(512, 256, 128), critic_widths=(64, 128, 256, 512)),
        bow=dict(words=2048, momentum=0.99),
        mae=dict(mask_ratio=0.75, norm_pix=True),
        simclr=dict(temperature=0.1, loss_scale="sum"),
        colorization=dict(bin_size=10, neighbours=5, sigma=5.0, rebalance=0.5, temperature=0.38),
        denoising=dict(amount=0.25, alpha=1.0, beta=1.0),
    )
    for name, wanted in values.items():
        image = tiny_config(name)["image"]
        needed = {"hole": 16} if name == "inpainting" else {}
        method = make_method({"name": name, "image": image, **needed})
        assert {key: getattr(method, key) for key in wanted} == wanted, name


def test_batch_statistics_that_move_are_taken_or_the_call_is_an_error():
    method = tiny_method("simclr", head={"num_layers": 2})
    v = jax.eval_shape(method.fresh, jax.random.key(0))
    x = Inputs.of({"image": jnp.zeros((4, 64))}, train=True)
    run = lambda v, **how: method.apply("head", v, x, x.batch["image"], **how)  # noqa: E731
    _, moved = jax.eval_shape(lambda v: run(v, moves=True), v)
    assert moved["batch_stats"].keys() == {"head"}
    with pytest.raises(TypeError, match="head has batch statistics, which move in training"):
        jax.eval_shape(run, v)
