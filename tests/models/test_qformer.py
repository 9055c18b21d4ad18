"""The Q-Former: what each mask lets through, one pass against the cached form, exact counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.models.archs.blip2 import blip2_towers
from vlp_jax.models.qformer import QFormer, bidirectional, multimodal_causal, reads, unimodal
from vlp_jax.models.towers import make_tower
from vlp_jax.nn.cache import take_rows

B, Q, T, V, D, L, S, WIDE = 3, 2, 6, 23, 16, 4, 5, 10
NET = QFormer(num_queries=Q, vocab_size=V, context_length=8, width=D, num_layers=L, num_heads=4,
              mlp_ratio=2.0)  # fmt: skip
RNG = np.random.default_rng(0)
IDS = jnp.asarray(RNG.integers(1, V, (B, T)), jnp.int32)
MASK = jnp.arange(T) < jnp.array([[6], [3], [5]])
QUERIES = jnp.asarray(RNG.normal(size=(Q, D)), jnp.float32)
STATES = jnp.asarray(RNG.normal(size=(B, S, WIDE)), jnp.float32)


@pytest.fixture(scope="module")
def params():
    """Weights away from their start, or biases and gains would not count."""
    made = jax.jit(NET.init)(jax.random.key(0), QUERIES, IDS[:, :2], None, STATES)
    move = lambda p: p + 0.2 * RNG.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(move, made["params"])


@pytest.fixture(scope="module")
def run(params):
    """f(mode, ids, mask, context, cache) -> (states, outputs)."""

    @functools.partial(jax.jit, static_argnames="mode")
    def call(mode, ids=None, mask=None, context=None, cache=None):
        return NET.apply({"params": params}, QUERIES, ids, mask, context, cache, mode=mode)

    return call


def test_masks_are_those_of_their_worked_examples():
    real = jnp.array([[1, 1, 0]], bool)
    tables = {
        unimodal: "11000 11000 00110 00110 00110",
        multimodal_causal: "11000 11000 11100 11110 11110",
        bidirectional: "11110",
    }
    for mask, rows in tables.items():
        found = [list(map(int, row)) for row in rows.split()]
        np.testing.assert_array_equal(mask(2, real)[0, 0], found)


def test_queries_are_blind_to_the_text_but_in_matching(run):
    """Bit for bit (blip2.md 8); padding is seen by nobody, a later word by no earlier one."""
    other, padded = IDS.at[:, 2].add(-1), IDS.at[1, 4].set(9)
    for mode, blind in (("unimodal", 1), ("bidirectional", 0), ("multimodal_causal", 1)):
        whole, _ = run(mode, IDS, MASK, STATES)
        moved = jnp.abs(run(mode, other, MASK, STATES)[0] - whole).max(-1)
        assert (moved[:, :Q] == 0).all() if blind else (moved[:, :Q] > 1e-3).all(), mode
        before = moved[:, Q : Q + 2]
        assert (before == 0).all() if mode == "multimodal_causal" else (before > 1e-4).all(), mode
        hidden = jnp.abs(run(mode, padded, MASK, STATES)[0] - whole).max(-1)
        assert (hidden[1, : Q + 3] == 0).all() and hidden[1, Q + 4] > 1e-3, mode
        seen = jnp.abs(run(mode, IDS, MASK, STATES + 1)[0] - whole).max(-1)
        assert (seen[:, :Q] > 1e-3).all()
        text = seen[:, Q:]
        assert (text == 0).all() if mode == "unimodal" else (text > 1e-4).all(), mode


def test_one_unimodal_pass_is_queries_and_text_apart(run):
    whole, _ = run("unimodal", IDS, MASK, STATES)
    np.testing.assert_allclose(whole[:, :Q], run("queries", context=STATES)[0], atol=1e-5)
    apart = run("text", IDS, MASK)[0]
    np.testing.assert_allclose(whole[:, Q:][MASK], apart[MASK], atol=1e-5)


def test_text_behind_cached_queries_is_the_one_pass(run):
    """The queries once, then a text at a time; or prompts of 4, 1 and 3 tokens, then one token
    each, with rows in another order."""
    states, whole = run("multimodal_causal", IDS, MASK, STATES)
    logits = whole["logits"]
    assert logits.shape == (B, T, V) and logits.dtype == jnp.float32
    seen, out = run("queries", context=STATES, cache=NET.empty_cache(B, T))
    np.testing.assert_allclose(seen, states[:, :Q], atol=1e-5)
    first = out["cache"]
    assert first.at == Q and first.slots == Q + T
    text, found = run("decode", IDS, cache=first)
    np.testing.assert_allclose(text[MASK], states[:, Q:][MASK], atol=1e-5)
    np.testing.assert_allclose(found["logits"][MASK], logits[MASK], atol=1e-5)
    whole = run("multimodal_causal", IDS, None, STATES)[1]["logits"]
    at = np.array([4, 1, 3])
    prompt = jnp.arange(4) < at[:, None]
    _, out = run("decode", IDS[:, :4], prompt, cache=first)
    rows = np.array([2, 0, 1])
    cache, at = take_rows(out["cache"], jnp.asarray(rows)), at[rows]
    for _ in range(2):
        _, out = run("decode", IDS[rows, at][:, None], cache=cache)
        np.testing.assert_allclose(out["logits"][:, 0], whole[rows, at], atol=1e-5)
        cache, at = out["cache"], at + 1


def test_queries_and_text_have_an_mlp_each_and_look_every_second_layer(params):
    paths = {path.rsplit("/", 1)[0] for path in flatten(params["layers"])}
    looks = {path for path in paths if "cross" in path}
    assert looks and all(path.startswith("at0/") for path in looks)
    for own in ("mlp/fc1", "query_mlp/fc1", "norm2", "norm_query"):
        assert {f"at0/{own}", f"at1/{own}"} <= paths
    assert {leaf.shape[0] for leaf in flatten(params["layers"]).values()} == {L // 2}


def count(size_of, **changes):
    net = make_tower(blip2_towers(size_of, **changes)["qformer"], "qformer")
    width = {"g": 1408, "L": 1024}[size_of]
    return size(jax.eval_shape(net.init, jax.random.key(0), *reads(net, width))["params"])


def test_exact_counts():
    """transformers' Blip2QFormerModel without and with the text's MLP; then the words, which the
    head shares, their places, and the head's own."""
    assert count("g", texts="none") == 105_137_664
    assert count("g", texts="states") == 161_825_280
    words, places = 30_523 * 768, 512 * 768
    assert count("g", texts="read") == 161_825_280 + words + places
    head = 768 * 768 + 768 + 2 * 768 + 30_523
    assert count("g") == 161_825_280 + words + places + head
    assert count("g") - count("L") == 6 * 2 * 384 * 768


@pytest.mark.parametrize(
    "changes, call, message",
    [
        ({"texts": "reads"}, {}, "qformer.texts: unknown 'reads'; did you mean 'read'"),
        ({"cross_every": 3}, {}, "qformer.cross_every=3 does not divide num_layers=4"),
        ({"num_heads": 3}, {}, "qformer.num_heads=3 does not divide width=16"),
        ({}, {"mode": "querys"}, "qformer: no mode 'querys'; did you mean 'queries'"),
        ({}, {"mode": "queries", "context": None}, "'queries' needs states to look at"),
        ({}, {"mode": "decode"}, "'decode' needs a cache of the queries"),
        ({"texts": "none"}, {"mode": "bidirectional"}, "reads a text, and texts='none'"),
        ({"context_length": 5}, {}, "texts of 6 tokens but the Q-Former takes context_length=5"),
    ],
)
def test_what_it_has_not_is_one_line(changes, call, message):
    net, given = NET.clone(**changes), {"ids": IDS, "context": STATES} | call
    with pytest.raises(UserError, match=message) as caught:
        jax.eval_shape(lambda: net.init(jax.random.key(0), QUERIES, **given))
    assert "\n" not in str(caught.value)
