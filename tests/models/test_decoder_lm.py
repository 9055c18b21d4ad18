"""The decoder of language models: prefill and single tokens agree with one pass, ragged prompts,
places in place of words, precision, published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs import language_model, t5
from vlp_jax.models.decoder_lm import DecoderLM
from vlp_jax.nn.rotary import Rotary, slopes, turn
from vlp_jax.parallel.sharding import param_sharding

TINY = dict(vocab_size=40, width=32, num_layers=2, num_heads=4, hidden=48, context_length=16)
FORMS = {
    "llama": dict(kv_heads=2, window=5),
    "opt": dict(positions="learned", position_offset=2, word_width=8, post_norm=True, norm="layer",
                final_norm=False, gated=False, activation="relu", qkv_bias=True, tied=True),
    "mpt": dict(positions="alibi", norm="scale", gated=False, activation="gelu", qkv_clip=0.5),
    "neox": dict(rotary_share=0.5, parallel=True, norm="layer", mlp_bias=True, gated=False),
}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32)


@pytest.fixture(scope="module", params=FORMS)
def made(request):
    net = DecoderLM(**TINY | FORMS[request.param])
    params = net.init(jax.random.key(0), IDS)
    params = jax.tree.map(lambda a: a + 0.1 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), params)
    return net, params, jax.jit(net.apply, static_argnames="mode")


def test_a_prompt_and_then_single_tokens_are_one_pass(made):
    """Of prompts of 6 and 3 tokens, each row going on in its own slot."""
    net, params, run = made
    whole = run(params, IDS)[1]["logits"]
    lengths = np.array([6, 3])
    mask = np.arange(6) < lengths[:, None]
    junk = np.where(mask, IDS[:, :6], 7)  # what lies behind a prompt's end is never seen
    out = run(params, junk, mask, net.empty_cache(2, 16), (lengths - 1)[:, None])[1]
    rows = np.arange(2)
    np.testing.assert_allclose(out["logits"][:, 0], whole[rows, lengths - 1], atol=2e-5)
    layers = jax.jit(net.clone(unroll=True).apply)
    for read, cache in ((run, out["cache"]), (layers, out["cache"].apart())):
        for at in (lengths, lengths + 1):
            out = read(params, IDS[rows, at][:, None], None, cache)[1]
            np.testing.assert_allclose(out["logits"][:, 0], whole[rows, at], atol=2e-5)
            cache = out["cache"]


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA writes them twice")
def test_a_loop_writes_where_the_cache_lies_and_copies_none_of_it():
    net = DecoderLM(**TINY, unroll=True)
    params, cache = net.init(jax.random.key(0), IDS), net.empty_cache(1, 16).apart()

    def step(_, carried):
        ids, cache = carried
        out = net.apply(params, ids, None, cache)[1]
        return out["logits"].argmax(-1).astype(jnp.int32), out["cache"]

    loop = jax.jit(lambda *start: jax.lax.fori_loop(0, 3, step, start))
    body = loop.lower(IDS[:1, :1], cache).compile().as_text()
    copies = [line for line in body.splitlines() if "= f32[1,4,16,8]" in line and " copy(" in line]
    assert not [line for line in copies if "copy(%start" not in line]  # what it was called with


def test_nothing_behind_a_token_changes_it_and_padding_nothing(made):
    _, params, run = made
    whole = run(params, IDS)[1]["logits"]
    changed = np.concatenate([IDS[:, :5], (IDS[:, 5:] + 1) % 40], axis=1)
    np.testing.assert_array_equal(run(params, changed)[1]["logits"][:, :5], whole[:, :5])
    masked = run(params, IDS, np.arange(9) < np.array([[9], [5]]))[1]["logits"]
    np.testing.assert_allclose(masked[1, :5], whole[1, :5], atol=1e-5)


def test_embeddings_stand_in_the_place_of_words(made):
    net, params, run = made
    words = run(params, IDS, mode="words")
    assert words.shape == (2, 9, net.word_width or net.width)
    np.testing.assert_array_equal(run(params, words)[1]["logits"], run(params, IDS)[1]["logits"])


def test_bfloat16_keeps_logits_and_gradients_go_to_what_is_read():
    net = DecoderLM(**TINY | FORMS["llama"], dtype="bfloat16", remat="full")
    params = net.init(jax.random.key(0), IDS)
    words = net.apply(params, IDS, mode="words").astype(jnp.float32)
    loss = lambda states: net.apply(params, states)[1]["logits"].sum()  # noqa: E731
    logits = net.apply(params, IDS)[1]["logits"]
    assert logits.dtype == jnp.float32 and jnp.isfinite(jax.grad(loss)(words)).all()
    exact = DecoderLM(**TINY | FORMS["llama"]).apply(params, IDS)[1]["logits"]
    np.testing.assert_allclose(logits, exact, atol=0.03)


def test_new_words_lie_beside_the_table():
    """Ids below the old size give the old logits, bit for bit."""
    old = DecoderLM(**TINY)
    params = old.init(jax.random.key(0), IDS)["params"]
    new = DecoderLM(**TINY | {"vocab_size": 43}, new_rows=3)
    more = new.init(jax.random.key(1), IDS)["params"]
    for table in ("token_embed", "head"):
        assert more[table]["new_rows"].shape == (3, 32)
        more = {**more, table: {**more[table], "embedding": params[table]["embedding"]}}
    more = {**more, "blocks": params["blocks"], "norm_post": params["norm_post"]}
    found = new.apply({"params": more}, IDS)[1]["logits"]
    assert found.shape == (2, 9, 43)
    np.testing.assert_array_equal(found[..., :40], old.apply({"params": params}, IDS)[1]["logits"])
    assert jnp.isfinite(new.apply({"params": more}, IDS + 3)[1]["logits"]).all()


def test_rotary_products_know_distances_alone():
    x = np.random.default_rng(0).normal(size=(1, 1, 1, 8)).astype(np.float32)
    how = Rotary(8, 100.0)
    at = lambda place: turn(x, how.turns(jnp.array([[place]])))[0, 0, 0]  # noqa: E731
    np.testing.assert_allclose(at(3) @ at(5), at(11) @ at(13), rtol=1e-5)
    np.testing.assert_allclose(at(0), x[0, 0, 0])
    half = Rotary(8, 100.0, "linear", factor=2.0)
    np.testing.assert_allclose(turn(x, half.turns(jnp.array([[6]])))[0, 0, 0], at(3), rtol=1e-5)
    np.testing.assert_array_equal(slopes(3), np.float32([2**-4, 2**-8, 2**-2]))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(num_heads=5), r"lm\.num_heads=5 does not divide width=32"),
        (dict(kv_heads=3), r"lm\.kv_heads=3 does not divide num_heads=4"),
        (dict(positions="rotery"), r"lm\.positions: unknown 'rotery'; did you mean 'rotary'"),
        (dict(context_length=8), "texts of 9 tokens but the language model takes context_length=8"),
        (dict(rope_scaling="yarn"), r"lm\.rope_scaling: unknown 'yarn'"),
    ],
)
def test_what_does_not_go_together(fields, message):
    with pytest.raises(UserError, match=message):
        DecoderLM(**TINY | fields).init(jax.random.key(0), IDS)


COUNTS = {
    "llama-7b": 6_738_415_616, "llama-3-8b": 8_030_261_248, "mistral-7b": 7_241_732_096,
    "smollm2-135m": 134_515_008, "opt-350m": 331_196_416, "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984, "mpt-7b": 6_649_286_656, "redpajama-incite-3b": 2_775_864_320,
    "gpt-neox-20b": 20_554_567_680, "gpt2": 124_439_808, "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    kind, archs = "language_model", language_model.ARCHS
    if name not in archs:
        kind, archs = "text_to_text", t5.ARCHS
    method = make_method({"name": kind, **archs[name]})
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    assert size(params) == COUNTS[name]


def test_heads_and_words_are_shared_by_the_tensor_axis():
    net = DecoderLM(**TINY | {"kv_heads": 2})
    made = jax.eval_shape(net.init, jax.random.key(0), IDS)["params"]
    mesh = jax.sharding.AbstractMesh((1, 1, 2), ("data", "fsdp", "tensor"))
    found = flatten(param_sharding({"lm": made}, mesh, "fsdp_tensor"))
    axes = {path: list(its.spec) for path, its in found.items()}
    blocks = "lm/blocks"
    assert axes[f"{blocks}/attn/query/kernel"] == [None, None, "tensor", None]  # [L, D, H, K]
    assert axes[f"{blocks}/attn/key_value/kernel"] == [None, None, "tensor", None, None]
    assert axes[f"{blocks}/attn/out/kernel"] == [None, "tensor", None, None]
    assert axes[f"{blocks}/mlp/fc1/kernel"] == [None, None, None, "tensor"]  # [L, D, 2, F]
    assert axes["lm/token_embed/embedding"] == axes["lm/head/embedding"] == ["tensor", None]
