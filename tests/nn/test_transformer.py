"""The stack against a float64 numpy oracle; scan, unrolling and remat change nothing but speed."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.core.rng import example_keys
from vlp_jax.nn.init import block_init
from vlp_jax.nn.layer_norm import layer_norm
from vlp_jax.nn.precision import REMAT_POLICIES
from vlp_jax.nn.transformer import StackConfig, run_blocks

B, T, D, H, L = 3, 5, 16, 2, 2
BASE = StackConfig(width=D, num_layers=L, num_heads=H, hidden=24, dropout=0.2, drop_path=0.2)
CAUSAL = np.tril(np.ones((T, T), bool))
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)


class Body(nn.Module):
    config: StackConfig

    @nn.compact
    def __call__(self, x, mask=None, rng=None):
        return run_blocks(self.config, x, mask, rng)


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(Body(BASE).init)(jax.random.key(0), X)["params"]
    rng = np.random.default_rng(1)  # biases and gains away from 0 and 1, or they would not count
    return jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), fresh)


def value_and_gradient(params, rng=None, mask=None, **changes):
    body = Body(dataclasses.replace(BASE, **changes))
    weights = np.random.default_rng(2).normal(size=(B, T, D)).astype(np.float32)
    loss = lambda p: (body.apply({"params": p}, X, mask, rng) * weights).sum()  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), {k: np.asarray(v) for k, v in flatten(gradient).items()}


def assert_same(found, wanted, tolerance=2e-5):
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    for path, exact in wanted[1].items():
        limit = tolerance * max(1.0, np.abs(exact).max())
        np.testing.assert_allclose(found[1][path], exact, atol=limit, err_msg=path)


def normal(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + BASE.norm_eps) * p["scale"] + p["bias"]


def oracle(params, x, mask):
    """Pre-norm blocks in float64, one layer and one head at a time."""
    erf = np.vectorize(math.erf)
    for layer in range(L):
        p = jax.tree.map(lambda leaf: np.asarray(leaf[layer], np.float64), params)["blocks"]
        h, attn = normal(x, p["norm1"]), p["attn"]
        out = np.zeros_like(x) + attn["out"]["bias"]
        for head in range(H):
            w, b = attn["qkv"]["kernel"][:, :, head], attn["qkv"]["bias"][:, head]
            if w.shape[1] != 3:  # [D, 3, H, K] or [D, H, 3, K]
                w, b = attn["qkv"]["kernel"][:, head], attn["qkv"]["bias"][head]
            q, k, v = (h @ w[:, i] + b[i] for i in range(3))
            z = q @ k.transpose(0, 2, 1) / np.sqrt(D / H)
            z = np.where(mask, z, -np.inf)
            z = np.exp(z - z.max(-1, keepdims=True))
            out += (z / z.sum(-1, keepdims=True)) @ v @ attn["out"]["kernel"][head]
        x = x + out
        h = normal(x, p["norm2"]) @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
        h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
        x = x + h @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]
    return x


@pytest.mark.parametrize("mask", [np.ones((T, T), bool), CAUSAL], ids=["full", "causal"])
def test_stack_equals_the_oracle(params, mask):
    found = jax.jit(Body(BASE).apply)({"params": params}, X, mask)
    np.testing.assert_allclose(found, oracle(params, X.astype(np.float64), mask), atol=2e-5)


def test_no_mask_is_the_full_mask_and_causal_hides_the_future(params):
    apply = jax.jit(Body(BASE).apply)
    whole = np.ones((T, T), bool)
    full = apply({"params": params}, X, None)
    np.testing.assert_allclose(full, apply({"params": params}, X, whole), atol=1e-6)
    moved = X.copy()
    moved[:, 3:] += 1
    before, after = (apply({"params": params}, x, CAUSAL) for x in (X, moved))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 0.1


def test_scan_equals_unrolled_with_dropout_on(params):
    keys = example_keys(jax.random.key(5), B)
    scanned = value_and_gradient(params, keys, unroll=False)
    assert_same(value_and_gradient(params, keys, unroll=True), scanned)
    assert abs(scanned[0] - value_and_gradient(params)[0]) > 1e-2, "dropout was off"
    shapes = [
        jax.eval_shape(Body(dataclasses.replace(BASE, unroll=u)).init, jax.random.key(0), X)
        for u in (True, False)
    ]
    assert shapes[0] == shapes[1]


def one_block(params, layer=1):
    """Parameters of one block of the stack, as a stack of their own."""
    return jax.tree.map(lambda leaf: leaf[layer : layer + 1], params)


@pytest.mark.parametrize("branch", ["attn/out", "mlp/fc2"])
def test_dropout_alone_zeroes_entries_of_either_branch(params, branch):
    """With the other branch silent, what a block adds is the clean sum's entries or nothing, twice
    as large at rate 0.5, by masks of their own for every example.
    """
    silent = "mlp/fc2" if branch == "attn/out" else "attn/out"
    flat = flatten(one_block(params))
    quiet = {k: jnp.zeros_like(v) if f"/{silent}/" in k else v for k, v in flat.items()}
    body = Body(dataclasses.replace(BASE, num_layers=1, dropout=0.5, drop_path=0.0))
    run = jax.jit(lambda x, rng: body.apply({"params": unflatten(quiet)}, x, None, rng) - x)
    x = np.repeat(X[:1], 32, 0)
    clean, noisy = run(x, None), run(x, example_keys(jax.random.key(5), 32))
    kept = np.abs(noisy) > 1e-6
    np.testing.assert_allclose(noisy, np.where(kept, 2 * clean, 0), atol=1e-5)
    assert kept.mean() == pytest.approx(0.5, abs=0.05)
    assert len({mask.tobytes() for mask in kept}) == 32


def test_drop_path_alone_grows_with_depth_and_takes_either_branch(params):
    """Of two layers at rate 0.5 the first is never dropped; an example's second layer has neither,
    one or both of its branches, twice as large.
    """
    body = Body(dataclasses.replace(BASE, dropout=0.0, drop_path=0.5))
    x = np.repeat(X[:1], 64, 0)
    keys = example_keys(jax.random.key(5), 64)
    found = np.asarray(jax.jit(body.apply)({"params": params}, x, None, keys))
    one = jax.jit(
        lambda p, x: Body(dataclasses.replace(BASE, num_layers=1)).apply({"params": p}, x)
    )
    first, second = one(one_block(params, 0), X[:1]), flatten(one_block(params))

    def scaled(attn, mlp):
        factor = lambda path: attn if "/attn/out/" in path else mlp if "/fc2/" in path else 1  # noqa: E731
        return unflatten({path: leaf * factor(path) for path, leaf in second.items()})

    ways = [np.asarray(one(scaled(attn, mlp), first)) for attn in (0, 2) for mlp in (0, 2)]
    alike = [np.abs(found - wanted).max((1, 2)) < 1e-4 for wanted in ways]
    shares = np.mean(alike, axis=1)
    assert sum(map(np.sum, alike)) == 64, "some example is none of the four"
    np.testing.assert_allclose(shares, 0.25, atol=0.15)


@pytest.mark.parametrize("rule", ["clip", "torch", "xavier", "mae"])
def test_kernels_start_with_the_spread_of_their_own_rule(rule):
    """Xavier's and torch's numbers are in test_layers.py; here, that each kernel of a block takes
    its own.
    """
    width, hidden, layers = 64, 256, 4
    config = StackConfig(width, layers, num_heads=2, hidden=hidden, init=rule)
    drawn = flatten(
        jax.jit(Body(config).init)(jax.random.key(0), np.zeros((1, 2, width)))["params"]
    )
    inits = block_init(rule, width, hidden, layers)
    shapes = {"qkv": (width, 3 * width), "out": (width, width)}
    shapes |= {"fc1": (width, hidden), "fc2": (hidden, width)}
    for name, shape in shapes.items():
        part = "attn" if name in ("qkv", "out") else "mlp"
        kernel = np.asarray(drawn[f"blocks/{part}/{name}/kernel"])
        wanted = np.std(np.asarray(getattr(inits, name)(jax.random.key(1), shape, jnp.float32)))
        assert kernel.std() == pytest.approx(wanted, rel=0.04), name
        assert len({layer.tobytes() for layer in kernel}) == layers, "layers share a draw"


@pytest.mark.parametrize(
    "policy, unroll", [("full", True), ("full", False), ("dots", False), ("weight_dots", True)]
)
def test_remat_changes_no_number(params, policy, unroll):
    assert set(REMAT_POLICIES) == {"none", "full", "dots", "weight_dots"}
    changes = {"dropout": 0.0, "drop_path": 0.2, "unroll": unroll}
    keys = example_keys(jax.random.key(5), B)
    wanted = value_and_gradient(params, keys, **changes)
    assert_same(value_and_gradient(params, keys, **changes, remat=policy), wanted)


def test_remat_saves_less():
    def kept(policy):
        body = Body(dataclasses.replace(BASE, remat=policy, unroll=True))
        shapes = jax.eval_shape(body.init, jax.random.key(0), X)
        residuals = lambda p: jax.vjp(lambda p: body.apply(p, X), p)[1]  # noqa: E731
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(residuals, shapes)))

    assert kept("full") < kept("weight_dots") < kept("none")


def eqns(jaxpr):
    """Every equation of a jaxpr, inner ones included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from eqns(inner)


def test_bfloat16_runs_products_only(params):
    body = Body(dataclasses.replace(BASE, dtype="bfloat16"))
    fresh = jax.eval_shape(body.init, jax.random.key(0), X)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    assert jax.eval_shape(body.apply, {"params": params}, X).dtype == jnp.bfloat16
    loss = lambda p: body.apply({"params": p}, X).astype(jnp.float32).sum()  # noqa: E731
    gradient = jax.eval_shape(jax.grad(loss), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    dtypes = {}
    for eqn in eqns(jax.make_jaxpr(lambda p: body.apply({"params": p}, X))(params).jaxpr):
        if eqn.invars:
            dtypes.setdefault(eqn.primitive.name, set()).add(str(eqn.invars[0].aval.dtype))
    assert dtypes["dot_general"] == {"bfloat16"}
    for name in ("exp", "rsqrt", "erf"):  # softmax, LayerNorm, GELU
        assert dtypes[name] == {"float32"}, name
    low = jax.jit(body.apply)({"params": params}, X).astype(np.float32)
    high = jax.jit(Body(BASE).apply)({"params": params}, X)
    assert 1e-4 < np.abs(low - high).max() < 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm_gradient_is_the_automatic_one(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3, 2, (4, 6, D)), dtype)
    scale, bias, weights = (jnp.float32(rng.normal(size=s)) for s in (D, D, (4, 6, D)))

    def plain(x, scale, bias):
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred / jnp.sqrt(variance + 1e-3) * scale + bias

    def both(fn):
        loss = lambda *a: (fn(*a) * weights).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, scale, bias)

    ours, wanted = both(lambda *a: layer_norm(*a, 1e-3)), both(plain)
    assert ours[1][0].dtype == x.dtype
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        a, b = np.float32(a), np.float32(b)
        np.testing.assert_allclose(a, b, atol=tolerance * (1 + np.abs(b).max()))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"activation": "gleu"}, "activation: unknown 'gleu'; did you mean 'gelu'"),
        ({"remat": "ful"}, "remat: unknown 'ful'; did you mean 'full'"),
        ({"dtype": "bf16"}, "dtype: unknown 'bf16'"),
        ({"init": "xavir"}, "init: unknown 'xavir'; did you mean 'xavier'"),
    ],
)
def test_misspelt_switches_are_refused(change, message):
    body = Body(dataclasses.replace(BASE, **change))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(body.init, jax.random.key(0), X)


class Sized(nn.Module):
    """A network that says some fields of a stack."""

    width: int = 12
    num_layers: int = 3
    num_heads: int = 4
    mlp_ratio: float = 2.5
    weight_init: str = "bert"
    drop_path: float = 0.25
    causal: bool = True


def test_a_stack_takes_the_fields_that_its_network_says():
    found = StackConfig.of(Sized(), "text", post_norm=True, num_layers=2)
    wanted = dict(width=12, num_layers=2, num_heads=4, hidden=30, init="bert", drop_path=0.25)
    assert found == StackConfig(**wanted, causal=True, post_norm=True)
    with pytest.raises(UserError, match=r"text.num_heads=5 does not divide width=12"):
        StackConfig.of(Sized(num_heads=5), "text")
    assert StackConfig.of(Sized(num_heads=5), "text", head_dim=3).head_dim == 3
