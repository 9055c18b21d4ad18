"""R27: what is frozen is frozen to the last bit, statistics too, and runs as in evaluation.

Most of it is read from the traced program, which costs no compilation: how often it draws, and
which statistics it hands on untouched.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FIELDS, SIZE, tiny_batch, tiny_config, tiny_method

from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import flatten, partition
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import make_method, run
from vlp_jax.models.projection import ProjectionHead
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
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
    first = jax.jit(lambda: init_state(method, tx, recipe))()
    factors = lr_factors(optim, first["params"])
    step = jax.jit(make_step(method, tx, lambda k: jnp.float32(1e-2), factors, recipe))
    last = first
    for number in range(10):
        last, _ = step(last, batch(number))
    before, after = flatten(first), flatten(last)
    moved = {path for path in before if (np.asarray(before[path]) != after[path]).any()}
    assert sum(path.startswith("extra/") for path in before) == 38
    assert not any(path.startswith(("frozen/", "extra/")) for path in moved)
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
