"""One network in three modes: what each sees, what they share, and decoding word by word."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, map_with_path, size
from vlp_jax.models import med
from vlp_jax.models.flops import med_flops
from vlp_jax.models.med import MED, reads
from vlp_jax.nn.cache import States, take_rows

V, T, D, L, WIDE, S = 23, 7, 16, 2, 10, 5
NET = MED(vocab_size=V, context_length=12, width=D, num_layers=L, num_heads=4, mlp_ratio=2.0)
RNG = np.random.default_rng(0)
IDS = jnp.asarray(RNG.integers(1, V, (3, T)), jnp.int32)
LENGTHS = np.array([7, 3, 5])
MASK = jnp.arange(T) < LENGTHS[:, None]
STATES = jnp.asarray(RNG.normal(size=(3, S, WIDE)), jnp.float32)


@pytest.fixture(scope="module")
def params():
    """Weights away from their start, or biases and gains would not count."""
    made = jax.jit(functools.partial(NET.init, jax.random.key(0)))(IDS[:, :2], None, STATES)
    move = lambda p: p + 0.2 * RNG.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(move, made["params"])


@pytest.fixture(scope="module")
def run(params):
    """f(mode, ids, ...), compiled once for each mode and set of shapes."""

    @functools.partial(jax.jit, static_argnames="mode")
    def call(weights, mode, ids, mask=None, context=None, cache=None):
        return NET.apply({"params": weights}, ids, mask, context, cache, mode=mode)

    return lambda *args, weights=params: call(weights, *args)


def test_each_mode_sees_what_it_should(run):
    """Moves a later token, padding and the picture, and looks where states change."""
    later, other = IDS.at[:, 2].add(-1).at[1, 5].set(9), STATES + 1
    for mode, looks, ahead in (("text", 0, 1), ("ground", 1, 1), ("decode", 1, 0)):
        whole = run(mode, IDS, MASK, STATES)[0]
        moved = jnp.abs(run(mode, later, MASK, STATES)[0] - whole).max(-1)
        assert (moved[:, :2] > 1e-3).all() if ahead else (moved[:, :2] == 0).all(), mode
        assert (moved[:, 2] > 1e-3).all()
        padded = jnp.abs(run(mode, IDS.at[1, 5].set(9), MASK, STATES)[0] - whole).max(-1)
        assert (padded[1, :3] == 0).all() and padded[1, 5] > 1e-3, mode
        seen = jnp.abs(run(mode, IDS, MASK, other)[0] - whole).max(-1)
        assert (seen > 1e-3).all() if looks else (seen == 0).all(), mode


def test_hidden_states_of_the_context_do_not_count(run):
    seen = jnp.arange(S) < jnp.array([[5], [2], [3]])
    other = jnp.where(seen[:, :, None], STATES, 7.0)
    found = [run("ground", IDS, MASK, States(states, seen))[0] for states in (STATES, other)]
    np.testing.assert_array_equal(*found)
    assert jnp.abs(found[0] - run("ground", IDS, MASK, STATES)[0])[1].max() > 1e-3


def test_words_one_by_one_equal_the_whole_text(run):
    """Prompts of 4, 1 and 3 tokens, padded, then one token each, with rows in another order on the
    way, equal the pass over all; the picture's keys and values are made once."""
    whole = run("decode", IDS, None, STATES)[1]["logits"]
    assert whole.dtype == jnp.float32 and whole.shape == (3, T, V)
    context = run("look", None, None, STATES)
    at = np.array([4, 1, 3])
    prompt = jnp.arange(4) < at[:, None]
    _, out = run("decode", IDS[:, :4], prompt, context, NET.empty_cache(3, T))
    for row, count in enumerate(at):
        np.testing.assert_allclose(out["logits"][row, :count], whole[row, :count], atol=1e-5)
    order = np.arange(3)
    for _ in range(3):
        order, rows = order[[2, 0, 1]], jnp.array([2, 0, 1])
        at = at[np.array(rows)]
        cache, context = take_rows(out["cache"], rows), take_rows(context, rows)
        _, out = run("decode", IDS[order, at][:, None], None, context, cache)
        np.testing.assert_allclose(out["logits"][:, 0], whole[order, at], atol=1e-5)
        at = at + 1
    np.testing.assert_array_equal(out["cache"].at, at)


def test_equal_prompts_need_no_mask(run):
    whole = run("decode", IDS, None, STATES)[1]["logits"]
    out = run("decode", IDS[:, :4], None, STATES, NET.empty_cache(3, T))[1]
    more = run("decode", IDS[:, 4:], None, STATES, out["cache"])[1]
    assert more["cache"].at.shape == () and more["cache"].at == T
    found = jnp.concatenate([out["logits"], more["logits"]], 1)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def parts_of_a_network(net, context_width):
    """Parameters of the embeddings, of L layers' self-attention, cross-attention and MLP, each with
    its norms, and of the head, by formula."""
    d, f = net.width, int(net.width * net.mlp_ratio)
    square = d * d + d
    return {
        "embed": (net.vocab_size + net.context_length + 2) * d,
        "attn": net.num_layers * (4 * square + 2 * d),
        "cross_attn": net.num_layers * (2 * square + 2 * (context_width * d + d) + 2 * d),
        "mlp": net.num_layers * (2 * d * f + f + d + 2 * d),
        "head": square + 2 * d + net.vocab_size,
    }


def count(net, context_width):
    shapes = jax.eval_shape(net.init, jax.random.key(0), *reads(net, context_width))
    return size(shapes["params"])


@pytest.mark.parametrize(
    "share, twice",
    [
        ("all", ()),
        ("except_self_attention", ("attn",)),
        ("except_cross_attention", ("cross_attn",)),
        ("none", ("embed", "attn", "cross_attn", "mlp")),
    ],
)
def test_sharing_is_what_its_name_says(share, twice):
    net, formula = NET.clone(share=share), parts_of_a_network(NET, WIDE)
    wanted = sum(formula.values()) + sum(formula[name] for name in twice)
    assert count(net, WIDE) == wanted
    assert count(net.clone(roles="decoder"), WIDE) == sum(formula.values())
    assert count(net.clone(roles="encoder"), WIDE) == sum(formula.values()) - formula["head"]


def test_encoder_and_decoder_differ_in_what_they_do_not_share(run, params):
    """The decoder has its own attention sub-block and nothing else (blip.md 2.4)."""
    own = {path.split("/")[1] for path in flatten(params) if "decode_" in path}
    assert own == {"decode_attn", "decode_norm1"}

    def moved(path, mode):
        """How far a mode moves when the weights at `path` do."""
        other = map_with_path(lambda p, leaf: leaf * (2 if p == path else 1), params)
        found = run(mode, IDS, None, STATES, weights=other)[0]
        return float(jnp.abs(found - run(mode, IDS, None, STATES)[0]).max())

    for path, modes in {
        "blocks/attn/out/bias": ("ground",),
        "blocks/decode_attn/out/bias": ("decode",),
        "blocks/cross_attn/out/bias": ("ground", "decode"),
    }.items():
        for mode in ("ground", "decode"):
            far = moved(path, mode)
            assert far > 1e-2 if mode in modes else far == 0, (path, mode)


def test_two_pictures_that_are_one(run, params):
    """By equal weights, and a map that takes the mean as the layers before it do, two looks at one
    picture are the one look; the second sees the second picture."""
    net = NET.clone(roles="encoder", merge_from=1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *reads(net, WIDE, S))["params"]
    blocks = {k: v for k, v in params["blocks"].items() if not k.startswith("decode_")}
    blocks["second_cross_attn"] = blocks["cross_attn"]
    mean = jnp.concatenate([jnp.eye(D), jnp.eye(D)])[None] / 2
    merge = {"kernel": mean, "bias": jnp.zeros((1, D))}
    twice = {k: params[k] for k in ("token_embed", "pos_embed", "norm_embed")}
    twice |= {"blocks": blocks, "merge": merge}
    assert jax.tree.map(jnp.shape, twice) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    how = dict(mode="ground")
    call = jax.jit(lambda p, two: net.apply({"params": p}, IDS, MASK, jnp.stack(two, 1), **how)[0])
    wanted = run("ground", IDS, MASK, STATES)[0]
    np.testing.assert_allclose(call(twice, (STATES, STATES)), wanted, atol=1e-5)
    for states in ((STATES, STATES + 1), (STATES + 1, STATES)):
        assert jnp.abs(call(twice, states) - wanted).max() > 1e-2
    for name, times in (("kernel", 2), ("bias", 1)):  # of the last layer alone
        other = merge | {name: merge[name] * times + jnp.arange(D) * (name == "bias")}
        moved = jnp.abs(call(twice | {"merge": other}, (STATES, STATES)) - wanted)
        assert moved.max() > 1e-2, name


def test_two_pictures_and_no_map_count_by_their_mean(params):
    """Where the map comes after the last layer there is none, and the order does not count."""
    net = NET.clone(roles="encoder", merge_from=L)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *reads(net, WIDE, S))["params"]
    assert "merge" not in shapes
    blocks = {k: v for k, v in params["blocks"].items() if not k.startswith("decode_")}
    weights = {k: params[k] for k in ("token_embed", "pos_embed", "norm_embed")}
    weights["blocks"] = blocks | {"second_cross_attn": blocks["cross_attn"]}
    how = dict(mode="ground")
    call = jax.jit(lambda two: net.apply({"params": weights}, IDS, MASK, jnp.stack(two, 1), **how))
    one, turned, same = (
        call(two)[0]
        for two in ((STATES, STATES + 1), (STATES + 1, STATES), (STATES + 1, STATES + 1))
    )
    np.testing.assert_allclose(one, turned, atol=1e-5)
    assert jnp.abs(one - same).max() > 1e-2


def test_words_and_places_are_dropped_by_each_rows_key(params, monkeypatch):
    net, keys = NET.clone(dropout=0.5), jax.random.split(jax.random.key(0), 3)
    monkeypatch.setattr(med, "run_blocks", lambda config, x, *how: x)

    def embedded(keys):
        return net.apply({"params": params}, IDS, MASK, rng=keys, mode="text")[0]

    still, moved = embedded(None), embedded(keys)
    gone = moved == 0
    assert 0.4 < gone.mean() < 0.6 and (still != 0).all()
    np.testing.assert_allclose(moved[~gone], 2 * still[~gone], rtol=1e-6)
    np.testing.assert_array_equal(embedded(keys[jnp.array([0, 2, 1])])[0], moved[0])
    assert (gone[0] != gone[1]).any()


def test_scan_equals_unrolled_and_the_mixed_precision_is_near(run, params):
    how = dict(mask=MASK, context=STATES, mode="decode")
    wanted = run("decode", IDS, MASK, STATES)[1]["logits"]
    unrolled = jax.jit(lambda p: NET.clone(unroll=True).apply({"params": p}, IDS, **how))(params)
    np.testing.assert_allclose(unrolled[1]["logits"], wanted, atol=1e-5)
    half = jax.jit(lambda p: NET.clone(dtype="bfloat16").apply({"params": p}, IDS, **how))(params)
    assert half[0].dtype == jnp.bfloat16 and half[1]["logits"].dtype == jnp.float32
    assert 1e-4 < jnp.abs(half[1]["logits"] - wanted).max() < 0.5


def test_the_table_of_words_learns_from_both_of_its_ends(params):
    """Only ids that a text holds are looked up, but every word is a possible next one."""

    def loss(p):
        out = NET.apply({"params": p}, IDS[:, :3], None, STATES, mode="decode")[1]
        return out["logits"][:, :, 0].sum()

    rows = jnp.abs(jax.jit(jax.grad(loss))(params)["token_embed"]["embedding"]).max(1)
    assert rows[0] > 0, "id 0 is in no text, only among the next words"
    read = np.unique(IDS[:, :3])
    assert (rows[read] > 0).all()
    others = np.setdiff1d(np.arange(1, V), read)
    assert (rows[others] == 0).all()


@pytest.mark.parametrize(
    "changes, call, message",
    [
        ({"share": "al"}, {}, "text.share: unknown 'al'; did you mean 'all'"),
        ({"roles": "decode"}, {}, "text.roles: unknown 'decode'; did you mean 'decoder'"),
        ({"num_heads": 5}, {}, "text.num_heads=5 does not divide width=16"),
        ({}, {"mode": "ground", "context": None}, "mode 'ground' needs states to look at"),
        ({}, {"mode": "grund"}, "no mode 'grund' of roles='both'; did you mean 'ground'"),
        ({"merge_from": 0}, {}, "text.merge_from=0: needs roles='encoder'"),
        ({"roles": "encoder"}, {"mode": "decode"}, "no mode 'decode' of roles='encoder'"),
        ({"context_length": 6}, {}, "texts of 7 tokens but the text tower takes context_length=6"),
        ({}, {"mode": "decode", "cache": 13}, "texts of 13 tokens"),
    ],
)
def test_what_cannot_be_is_told(changes, call, message):
    net, call = NET.clone(**changes), {"context": STATES} | call
    if "cache" in call:
        call["cache"] = net.empty_cache(3, call["cache"])
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: net.init(jax.random.key(0), IDS, **call))


def products(jaxpr):
    """2 x multiply-adds of every matrix product, those of a loop as often as it runs."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (left, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += (
                2 * np.prod([shape[axis] for axis in left]) * np.prod(eqn.outvars[0].aval.shape)
            )
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += products(inner) * eqn.params.get("length", 1)
    return total


@pytest.mark.parametrize("mode", ["text", "ground", "decode"])
def test_flops_are_those_of_the_products(params, mode):
    call = lambda p: NET.apply({"params": p}, IDS[:1], None, STATES[:1], mode=mode)  # noqa: E731
    found = products(jax.make_jaxpr(call)(params).jaxpr)
    assert found == med_flops(NET, mode, T, (S, WIDE))


def test_flops_of_two_pictures():
    net = NET.clone(roles="encoder", merge_from=0)
    given = IDS[:1], None, jnp.stack([STATES[:1]] * 2, 1)
    call = lambda: net.init(jax.random.key(0), *given, mode="ground")  # noqa: E731
    assert products(jax.make_jaxpr(call)().jaxpr) == med_flops(net, "ground", T, (S, WIDE))
    less = net.clone(merge_from=1)
    assert med_flops(less, "ground", T, (S, WIDE)) == products(
        jax.make_jaxpr(call)().jaxpr
    ) - 4 * T * D**2  # fmt: skip
