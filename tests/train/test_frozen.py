"""R27: what is frozen is frozen to the last bit, statistics too, and runs as in evaluation.

Most of it is read from the traced program, which costs no compilation: how often it draws, and
which statistics it hands on untouched.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import FIELDS, SIZE, tiny_batch, tiny_config, tiny_method

from vlp_jax.core.fields import Numbers
from vlp_jax.core.inputs import Aux, Inputs, Vars, lay
from vlp_jax.core.pytree import flatten, partition
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import Leaf, Method, Part, make_method, run
from vlp_jax.models.projection import ProjectionHead
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

B = 4
LIT = (r"image/(?!head).*",)
DROPS = dict(dropout=0.3, drop_path=0.3)
RESNET = dict(name="resnet", image_size=SIZE, layers=(1, 1, 1, 1), width=8)
RESNET_V1 = dict(name="resnet_v1", image_size=SIZE, depth=18, width_multiplier=0.125, stem="cifar")
KEYS = example_keys(step_key(0, 1), B)


def clip(image):
    return make_method({**tiny_config("clip", text={"num_layers": 1}), "image": image})


def batch(seed=0):
    return jax.tree.map(jnp.asarray, tiny_batch(B, seed))


def test_ten_steps_beside_a_locked_resnet_move_none_of_its_bits():
    """In two micro-batches each, with a head that learns."""
    method = make_method({**tiny_config("classify"), "image": {**RESNET, "embed_dim": 8}})
    optim = {"name": "adamw", "lr": 1e-2}
    recipe, tx = Recipe(0, B, accumulate=2, freeze=("image/.*",)), make_optimizer(optim)
    first, frozen = jax.jit(lambda: init_state(method, tx, recipe))()
    factors = lr_factors(optim, first["params"])
    step = jax.jit(make_step(method, tx, lambda k: jnp.float32(1e-2), factors, recipe))
    last = first
    for number in range(10):
        last, _ = step(last, frozen, batch(number))
    before, after = flatten(first), flatten(last)
    moved = {path for path in before if (np.asarray(before[path]) != after[path]).any()}
    assert sum(path.startswith("extra/") for path in before) == 38
    assert set(frozen) == {"image"} and not any(path.startswith("extra/") for path in moved)
    assert {path for path in moved if path.startswith("params/")} == {
        "params/head/out/kernel",
        "params/head/out/bias",
    }


def draws(program):
    """How often a traced program draws."""
    inner = [x for eqn in program.eqns for v in eqn.params.values() for x in jax.tree.leaves(v)]
    inner = [getattr(x, "jaxpr", x) for x in inner]
    own = sum(eqn.primitive.name == "random_bits" for eqn in program.eqns)
    return own + sum(draws(x) for x in inner if hasattr(x, "eqns"))


def traced(method, freeze, keys=KEYS):
    """(how often a training pass draws, names of the norms whose statistics it moves)."""
    params, extra = jax.eval_shape(method.fresh, jax.random.key(0))

    def encode(params, extra, keys):
        frozen, trained = partition(params, freeze)
        x = Inputs.of(batch(), keys, step=1, train=True)
        _, aux = run(method.encode, trained, frozen, extra, x)
        return lay(aux.extra, extra)

    program, after = jax.make_jaxpr(encode, return_shape=True)(params, extra, keys)
    given = set(map(id, program.jaxpr.invars))
    moved = {
        path.removeprefix("batch_stats/").rsplit("/", 1)[0]
        for path, out in zip(flatten(after), program.jaxpr.outvars, strict=True)
        if id(out) not in given
    }
    return draws(program.jaxpr), moved


@pytest.mark.parametrize(
    "image, freeze, count",
    [
        ({**DROPS, "patch_dropout": 0.5, "remat": "full", "unroll": False}, LIT, 0),
        ({**DROPS, "patch_dropout": 0.5}, LIT, 0),
        ({**DROPS, "patch_dropout": 0.5}, ("image/.*",), 0),
        (DROPS, ("image/blocks/.*",), 0),
        (DROPS, ("image/blocks/attn/.*",), 4),
        (DROPS, ("text/.*", "image/head/.*"), 4),
        ({**DROPS, "patch_dropout": 0.5}, ("image/blocks/.*",), 1),
        ({"patch_dropout": 0.5}, ("image/patch_embed/.*",), 0),
        ({**DROPS, "patch_dropout": 0.5}, (), 5),
    ],
)
def test_what_is_frozen_of_a_vit_drops_nothing(image, freeze, count):
    """Two branches of a block drop by entry and by example, the patches once before them."""
    assert traced(tiny_method("clip", image={"num_layers": 1, **image}), freeze)[0] == count


def test_a_frozen_text_tower_drops_nothing():
    method = tiny_method("siglip", text={"dropout": 0.3})
    assert traced(method, ())[0] == 2 and traced(method, ("text/.*",))[0] == 0


def test_a_frozen_norm_in_a_trained_tower_keeps_its_statistics():
    """As do all norms below a trained projection; norms that learn move theirs."""
    method, first = clip(RESNET_V1), {"image/stem1/bn"}
    norms = traced(method, ())[1]
    assert len(norms) == 20 and first < norms
    for freeze, still in (
        ((r"image/stem1/bn/.*",), first),
        ((r"image/stem1/.*",), first),
        ((r"image/stem1/(conv/kernel|bn/scale)",), set()),
        (LIT, norms),
        (("text/.*",), set()),
    ):
        assert traced(method, freeze)[1] == norms - still, freeze


def test_a_frozen_norm_normalises_as_in_evaluation():
    """Alone and below a layer that learns; statistics and input are far from 0 and 1."""
    net, x = ProjectionHead(num_layers=2, embed_dim=4), jnp.arange(24.0).reshape(6, 4)
    made = net.init(jax.random.key(0), x)
    stats = jax.tree.map(lambda leaf: leaf + 2, made["batch_stats"])

    def stages(v, rng):
        variables = {"params": v.params["head"], "batch_stats": stats}
        return net.apply(variables, x, rng, mutable=["batch_stats"])[0]

    params, keys = {"head": made["params"]}, example_keys(step_key(0, 1), 6)
    evaluated, trained = (stages(Vars(params, {}), rng) for rng in (None, keys))
    for freeze, found in (((".*",), evaluated), (("head/layer1_bn/.*",), [x, evaluated[1], None])):
        frozen, free = partition(params, freeze)
        seen = run(stages, free, frozen, {}, keys)
        for one, wanted, other in zip(seen[1:], found[1:], trained[1:], strict=True):
            assert np.abs(one - other).max() > 1e-3
            assert wanted is None or (one == wanted).all()


HEAD, NORMED = {"head": dict(num_layers=2, embed_dim=8)}, {"head_norm": "batch"}
LAYERS = {"head/layer1_bn", "head/layer2_bn"}


@pytest.mark.parametrize(
    "name, fields, freeze, moved",
    [
        ("simclr", HEAD, ("head/.*",), set()),
        ("simclr", HEAD, ("head/layer1_bn/.*",), {"head/layer2_bn"}),
        ("simclr", HEAD, ("image/.*",), LAYERS),
        ("classify", NORMED, ("head/.*",), set()),
        ("classify", NORMED, ("image/.*",), {"head/norm"}),
    ],
)
def test_heads_with_norms(name, fields, freeze, moved):
    """MAE's norm has no parameters of its own: it goes with the classifier that it belongs to."""
    assert traced(tiny_method(name, **fields), freeze)[1] == moved


@pytest.mark.parametrize("name", FIELDS)
def test_a_frozen_trunk_drops_nothing_in_any_method(name):
    """Augmentation, masks and questions are drawn as ever."""
    method = tiny_method(name, image={"num_layers": 1, **DROPS})
    assert traced(method, ("image/.*",))[0] == traced(method, ())[0] - 4


def test_dropout_of_frozen_heads():
    loud, usual = tiny_method("jigsaw", dropout=0.5), traced(tiny_method("jigsaw"), ())[0]
    heads = ("head/.*", "tile_head/.*")
    for freeze, more in (((), 2), (heads, 0), (heads[:1], 1), (("head/fc1/.*",), 1)):
        assert traced(loud, freeze)[0] == usual + more, freeze


@dataclasses.dataclass(frozen=True)
class Through(Method):
    """A trained scale below a frozen network with BatchNorm and dropout, a trained one above it."""

    dtype: str = "float32"
    own: bool = True

    def fields(self):
        return {"x": Numbers((6,))}

    def parts(self):
        shape = jax.ShapeDtypeStruct((1, 6), jnp.float32)
        net = Part(Mixed(), (shape,), frozen=self.own, dtype=self.dtype)
        ends = {
            name: Part(Leaf(lambda rng: 1 + jnp.arange(6.0) / 7)) for name in ("below", "above")
        }
        return {"net": net, **ends}

    def encode(self, v, x):
        out, moved = self.apply("net", v, x, x.batch["x"] * v.params["below"], moves=True)
        return (out * v.params["above"]).sum(1), Aux({}, moved)

    def objective(self, v, rows, x):
        return x.share(jnp.square(rows)), Aux()


class Mixed(nn.Module):
    """float[B, 6] -> float[B, 6]."""

    @nn.compact
    def __call__(self, x, rng=None):
        x = nn.BatchNorm(use_running_average=rng is None, name="bn")(nn.Dense(6, name="fc1")(x))
        if rng is not None:
            x = x * jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (6,)))(rng)
        return nn.Dense(6, name="fc2")(jnp.tanh(x))


@pytest.mark.parametrize("freeze", [(), ("net/.*",)], ids=["part", "config"])
def test_gradients_flow_through_a_frozen_part_to_its_inputs(freeze):
    """Those of the network as in evaluation, in one piece or four, whoever freezes it."""
    method = Through(own=not freeze)
    recipe = Recipe(0, B, accumulate=1, freeze=freeze)
    state, frozen = init_state(method, optax.sgd(1.0), recipe)
    stats = jax.tree.map(lambda leaf: leaf + 0.5, state["extra"])
    rows = jnp.float32(np.random.default_rng(0).normal(size=(B, 6)))
    x = Inputs.of({"x": rows}, KEYS, step=1, train=True)

    def loss(ends):
        variables = {"params": frozen["net"], "batch_stats": stats["batch_stats"]["net"]}
        out = Mixed().apply(variables, rows * ends["below"])
        return jnp.square((out * ends["above"]).sum(1)).mean()

    wanted = jax.grad(loss)(state["params"])
    assert float(jnp.abs(wanted["below"]).min()) > 1e-3
    for count in (1, 4):
        _, aux, found = loss_and_gradient(method, state["params"], frozen, stats, x, count)
        assert found.keys() == {"below", "above"}
        for name, slope in wanted.items():
            np.testing.assert_allclose(found[name], slope, atol=1e-6, err_msg=name)
        jax.tree.map(np.testing.assert_array_equal, lay(aux.extra, stats), stats)


@pytest.mark.parametrize("freeze", [(), ("net/.*",)], ids=["part", "config"])
def test_frozen_weights_are_kept_in_the_dtype_of_their_part(freeze):
    method = Through("bfloat16", own=not freeze)
    recipe = Recipe(0, B, freeze=freeze)
    state, frozen = jax.eval_shape(lambda: init_state(method, make_optimizer({}), recipe))
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
    learns = jax.tree.leaves((state["params"], state["extra"]))
    assert {leaf.dtype for leaf in learns} == {jnp.dtype("float32")}
    assert not any("net" in path for path in flatten(state["opt"]))

    def slope(state, frozen, rows):
        x = Inputs.of({"x": rows}, KEYS, step=1, train=True)
        return loss_and_gradient(method, state["params"], frozen, state["extra"], x, 2)[2]

    rows = jax.ShapeDtypeStruct((B, 6), jnp.float32)
    found = jax.eval_shape(slope, state, frozen, rows)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    open_, none = jax.eval_shape(
        lambda: init_state(Through("bfloat16", own=False), make_optimizer({}), Recipe(0, B))
    )
    assert not none and open_["params"]["net"]["fc1"]["kernel"].dtype == jnp.float32
