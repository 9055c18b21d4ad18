"""Every rule against an oracle: optax where it has the rule, one layer at a time where we stack."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import tiny_method

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.optim.optimizer import (
    DIRECTIONS,
    NO_DECAY,
    _decay_mask,
    check_paths,
    learning,
    lr_factors,
    make_optimizer,
)

RNG = np.random.default_rng(0)
SHAPES = {
    "image/pos_embed": (5, 4),
    "image/cls_token": (4,),
    "image/blocks/mlp/fc1/kernel": (3, 4, 6),
    "image/blocks/mlp/fc1/bias": (3, 6),
    "image/blocks/norm1/scale": (3, 4),
    "image/blocks/attn/qkv/kernel": (3, 4, 2, 3, 2),
    "image/head/kernel": (4, 2),
    "text/token_embed/embedding": (7, 4),
    "logit_scale": (),
}


def tensors(path):
    """Places of what the papers call one weight: a layer; query, key and value each."""
    layers = range(3) if "blocks/" in path else (...,)
    if "qkv" not in path:
        return list(layers)
    whole = slice(None)
    return [(layer, whole, whole, part) for layer in layers for part in range(3)]


def draw(seed):
    rng = np.random.default_rng(seed)
    return unflatten({k: jnp.float32(rng.normal(size=s)) for k, s in SHAPES.items()})


def walk(tx, params, steps=3, lr=0.1):
    """Parameters after some steps of p -= lr * direction, gradients by seed."""
    state = tx.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return jax.tree.map(lambda p, u: p - lr * u, params, updates), state

    for number in range(steps):
        params, state = step(params, state, draw(10 + number))
    return {k: np.asarray(v) for k, v in flatten(params).items()}


def assert_equal(found, wanted, tolerance=1e-6):
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, atol=tolerance, err_msg=path)


DECAYED = {
    path: any(end in path for end in ("kernel", "embedding", "pos_embed")) for path in SHAPES
}


def test_decay_goes_by_path_although_layers_are_stacked():
    """A stacked bias has two axes; open_clip's rule `ndim <= 1` would decay it."""
    mask = flatten(_decay_mask(NO_DECAY)(draw(0)))
    assert mask == DECAYED


def test_decay_mask_of_real_towers_matches_one_axis_per_layer():
    method = tiny_method("siglip", image={"pool": "map", "conv_bias": True})
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    heads = ("attn/qkv/bias", "attn/query/bias", "attn/key_value/bias")  # axes of one vector
    for path, decayed in flatten(_decay_mask(NO_DECAY)(params)).items():
        axes = len(flatten(params)[path].shape) - ("blocks/" in path)
        assert decayed == (axes > 1 and not path.endswith(heads)), path


ORACLES = {
    "adamw": lambda mask: optax.adamw(0.1, 0.9, 0.95, 1e-7, weight_decay=0.3, mask=mask),
    "lion": lambda mask: optax.lion(0.1, 0.9, 0.95, weight_decay=0.3, mask=mask),
    "sgd": lambda mask: optax.chain(
        optax.trace(0.8), optax.add_decayed_weights(0.3, mask), optax.scale(-0.1)
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_rules_that_optax_has(name):
    config = dict(name=name, b2=0.95, eps=1e-7, weight_decay=0.3, momentum=0.8, clip_norm=0.0)
    reference = ORACLES[name](lambda params: unflatten({k: DECAYED[k] for k in flatten(params)}))
    flipped = optax.chain(reference, optax.scale(-10.0))  # back to a direction: -(-lr d) / lr
    assert_equal(walk(make_optimizer(config), draw(0)), walk(flipped, draw(0)), 1e-5)


def numpy_layer(name, p, decayed, gradients, coefficient, lr=0.1, b1=0.9, b2=0.999, eps=1e-8):
    """One unstacked weight under LARS or LAMB, in float64, as in the papers' algorithms."""
    p = np.float64(p)
    m, v, buffer = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(np.float64(gradients), 1):
        if name == "lamb":
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        else:
            u = g
        if decayed:
            u = u + 0.3 * p
            u = coefficient * np.linalg.norm(p) / np.linalg.norm(u) * u
        if name == "lars":
            buffer = 0.9 * buffer + u
            u = buffer
        p = p - lr * u
    return p


@pytest.mark.parametrize("name, coefficient", [("lamb", 1.0), ("lars", 1e-3)])
def test_trust_ratios_are_those_of_single_layers(name, coefficient):
    config = dict(name=name, weight_decay=0.3, clip_norm=0.0)
    found = walk(make_optimizer(config), draw(0))
    start = flatten(draw(0))
    gradients = [flatten(draw(10 + number)) for number in range(3)]
    for path in SHAPES:
        for place in tensors(path):
            steps = [g[path][place] for g in gradients]
            wanted = numpy_layer(name, start[path][place], DECAYED[path], steps, coefficient)
            np.testing.assert_allclose(found[path][place], wanted, rtol=2e-5, atol=1e-6)


def test_lars_sums_steps_under_a_changing_rate():
    """v <- m v + lr trust (g + wd w), w <- w - v; gains and biases without decay and trust."""
    rates = (0.1, 0.4, 0.05, 0.0)
    config = dict(name="lars", weight_decay=0.3, clip_norm=0.0, lr_in_momentum=True)
    tx, params = make_optimizer(config), draw(0)
    state, wanted = tx.init(params), flatten(draw(0))
    buffer = {path: np.zeros_like(leaf) for path, leaf in wanted.items()}
    for number, lr in enumerate(rates):
        updates, state = tx.update(draw(10 + number), state, params, lr=jnp.float32(lr))
        params = jax.tree.map(lambda p, u, lr=lr: p - lr * u, params, updates)
        for path, g in flatten(draw(10 + number)).items():
            for place in tensors(path):
                w, u = np.asarray(wanted[path])[place], np.asarray(g)[place]
                if DECAYED[path]:
                    u = u + 0.3 * w
                    u = 1e-3 * np.linalg.norm(w) / np.linalg.norm(u) * u
                buffer[path][place] = 0.9 * buffer[path][place] + lr * u
            if lr:
                wanted[path] = wanted[path] - buffer[path]
    for path, leaf in flatten(params).items():
        np.testing.assert_allclose(leaf, wanted[path], rtol=2e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["adafactor", "lamb", "lars"])
def test_a_stack_is_optimised_like_its_layers(name):
    """With as many layers as a large tower: 32 or more rows would count as a matrix."""
    shapes = {"norm1/scale": (40, 48), "attn/qkv/bias": (40, 3, 2, 40), "fc1/kernel": (40, 48, 64)}
    rng = np.random.default_rng(0)
    sizes = np.logspace(-3, 3, 40)  # the layers' gradients differ
    stack = {path: np.float32(rng.normal(size=shape)) for path, shape in shapes.items()}
    gradients = [
        {path: np.float32((rng.normal(size=shape).T * sizes).T) for path, shape in shapes.items()}
        for _ in range(3)
    ]
    tx = make_optimizer(dict(name=name, weight_decay=0.1, clip_norm=0.0))

    def directions(prefix, layer=...):
        tree = lambda leaves: unflatten({f"{prefix}/{k}": v[layer] for k, v in leaves.items()})  # noqa: E731
        params = tree(stack)
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(tree(gradient), state, params)
        return {path.split("/", 1)[1]: np.asarray(leaf) for path, leaf in flatten(updates).items()}

    whole = directions("blocks")
    for layer in (0, 17, 39):
        for path, wanted in directions("single", layer).items():
            limit = 1e-5 * np.abs(wanted).max()
            np.testing.assert_allclose(whole[path][layer], wanted, atol=limit, err_msg=path)


def test_a_zero_weight_has_trust_ratio_one():
    tx = make_optimizer(dict(name="lamb", clip_norm=0.0))
    params = {"blocks": {"kernel": jnp.stack([jnp.zeros((2, 2)), jnp.ones((2, 2))])}}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["blocks"]["kernel"], 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_every_rule_descends_and_keeps_dtypes(name):
    tx = make_optimizer(dict(name=name, weight_decay=0.01))
    params = draw(0)
    loss = lambda p: sum(jnp.square(x - 1).sum() for x in jax.tree.leaves(p))  # noqa: E731
    lr = 5.0 if name == "lars" else 0.03

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(lambda p, u: p - lr * u, params, updates), state

    state, first = tx.init(params), float(loss(params))
    for _ in range(40):
        params, state = step(params, state)
    assert float(loss(params)) < 0.8 * first
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_clipping_acts_on_the_global_norm_before_the_rule():
    tx = make_optimizer(dict(name="sgd", clip_norm=2.0, momentum=0.0))
    gradient, params = jax.tree.map(lambda g: 100 * g, draw(1)), draw(0)
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert float(optax.tree.norm(updates)) == pytest.approx(2.0, rel=1e-5)
    off = make_optimizer(dict(name="sgd", clip_norm=0.0, momentum=0.0))
    updates, _ = off.update(gradient, off.init(params), params)
    assert float(optax.tree.norm(updates)) > 100


def test_first_moments_may_be_bfloat16():
    state = make_optimizer(dict(name="adamw", mu_dtype="bfloat16")).init(draw(0))
    moments = {p.split("/")[1]: leaf.dtype for p, leaf in flatten(state).items() if "/mu/" in p}
    assert set(moments.values()) == {jnp.dtype("bfloat16")}
    assert all(leaf.dtype == jnp.float32 for p, leaf in flatten(state).items() if "/nu/" in p)


def test_layer_decay_needs_a_tower_with_blocks():
    params = {"image": {"stage1_block0": {"conv1": {"kernel": jnp.ones((2, 2))}}}}
    with pytest.raises(UserError, match=r"optim\.layer_decay=0\.5: no ViT or text tower"):
        lr_factors(dict(layer_decay=0.5), params)


def test_layer_decay_and_groups():
    config = dict(layer_decay=0.5, lr_groups=(("text/.*", 0.1), ("image/head/.*", 3.0)))
    factors = flatten(lr_factors(config, draw(0)))
    np.testing.assert_allclose(
        factors["image/blocks/mlp/fc1/kernel"].ravel(), [0.125, 0.25, 0.5]
    )  # the last block one step below the head
    assert factors["image/blocks/mlp/fc1/kernel"].shape == (3, 1, 1)
    assert factors["image/blocks/mlp/fc1/bias"].shape == (3, 1)
    assert factors["image/pos_embed"] == factors["image/cls_token"] == pytest.approx(0.0625)
    assert factors["image/head/kernel"] == pytest.approx(3.0)
    assert factors["text/token_embed/embedding"] == pytest.approx(0.1)
    assert factors["logit_scale"] == 1.0
    assert set(map(float, flatten(lr_factors({}, draw(0))).values())) == {1.0}


def test_the_first_matching_group_counts():
    groups = (("image/head/.*", 3.0), ("image/.*", 0.0))
    factors = flatten(lr_factors(dict(lr_groups=groups), draw(0)))
    assert factors["image/head/kernel"] == 3.0 and factors["image/pos_embed"] == 0.0


@pytest.mark.parametrize(
    "config, message",
    [
        ({"name": "adam"}, "optim.name: unknown 'adam'; did you mean 'adamw'"),
        ({"lrr": 3}, "optim.lrr: unknown key; did you mean 'lr'"),
    ],
)
def test_refusals(config, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(config)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"no_decay": (*NO_DECAY, "image/blocks/bias")}, "optim.no_decay: 'image/blocks/bias'"),
        ({"no_decay": ("image",)}, "optim.no_decay: 'image' matches no parameter; paths start wi"),
        ({"lr_groups": (("text/.*", 1.0), ("txt/.*", 0.0))}, "optim.lr_groups: 'txt/.*' matches"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(config, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_paths(config, draw(0))
    check_paths({"no_decay": ("image/.*",), "lr_groups": (("logit_scale", 2.0),)}, draw(0))
    check_paths({}, {"w": jnp.ones(2)})  # the default may match nothing


def test_blocks_that_do_not_learn_have_no_gradient():
    factors = lr_factors({"train_blocks": 1, "lr_groups": (("text/.*", 0.0),)}, draw(0))
    gradient = draw(1)
    gradient["text"]["token_embed"]["embedding"] *= jnp.nan
    kept = {
        path: (0 if path.startswith(("text", "image/pos", "image/cls")) else 1) * np.ones(shape)
        for path, shape in SHAPES.items()
    }
    for path in SHAPES:
        if "blocks/" in path:
            kept[path][:2] = 0
    for path, leaf in flatten(learning(gradient, factors)).items():
        wanted = np.where(kept[path] > 0, flatten(draw(1))[path], 0)
        np.testing.assert_array_equal(leaf, wanted, err_msg=path)
        assert leaf.dtype == jnp.float32


def test_more_blocks_than_there_are_cannot_learn():
    params = {"image": {"blocks": {"kernel": jnp.ones((3, 2))}}}
    with pytest.raises(UserError, match=r"optim\.train_blocks=4: at most 3"):
        lr_factors({"train_blocks": 4}, params)
    with pytest.raises(UserError, match=r"optim\.train_blocks=1: no ViT or text tower"):
        lr_factors({"train_blocks": 1}, {"image": {"stage": jnp.ones(2)}})
    lr_factors({"train_blocks": 3}, params)
