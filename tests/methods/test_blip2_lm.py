"""BLIP-2's second stage against its definition, row by row without padding: a decoder and a T5
behind the queries, prompts, soft prompts, instructions, and what is frozen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, partition
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.decoding.steps import Written
from vlp_jax.methods.base import make_method
from vlp_jax.methods.blip2_lm import packed
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

B, Q, T, P, V, END, S = 4, 2, 5, 4, 29, 3, 5
NETS = {
    "decoder": dict(name="decoder_lm", vocab_size=V, context_length=24, width=16, num_layers=1,
                    num_heads=2, hidden=24),
    "t5": dict(name="t5", vocab_size=V, context_length=24, width=16, num_layers=1, num_heads=2,
               head_dim=8, hidden=24),
}  # fmt: skip


def method(kind="decoder", qformer=(), **changes):
    image = dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=1, head_width=8,
                 pool="tokens", cls_token=True, pre_norm=False, conv_bias=True)  # fmt: skip
    asked = dict(name="qformer", num_queries=Q, width=12, num_layers=2, num_heads=3, texts="none",
                 vocab_size=V, context_length=8) | dict(qformer)  # fmt: skip
    sizes = dict(text_length=T, end_ids=(END,)) | changes
    return make_method(dict(name="blip2_lm", image=image, qformer=asked, lm=NETS[kind]) | sizes)


def batch(prompts=False):
    rng = np.random.default_rng(0)
    draw = lambda length: rng.integers(4, V, (B, length)).astype(np.int32)  # noqa: E731
    found = {"image": rng.integers(0, 256, (B, 16, 16, 3)).astype(np.uint8)}
    found |= {"text": draw(T), "text_mask": np.arange(T) < np.array([[5], [3], [4], [2]])}
    if prompts:
        found |= {"prompt": draw(P), "prompt_mask": np.arange(P) < np.array([[2], [4], [1], [3]])}
        found |= {"instruction": draw(P), "instruction_mask": found["prompt_mask"]}
    return jax.tree.map(jnp.asarray, found)


@functools.cache
def start(kind="decoder", **changes):
    v = jax.jit(method(kind, **changes).fresh)(jax.random.key(0))
    move = lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size).reshape(p.shape))  # noqa: E731
    return Vars(jax.tree.map(move, v.params), v.extra)


def inputs(made, data):
    given = {name: rows for name, rows in data.items() if name in made.batch_spec(1)}
    x = Inputs.of(given, example_keys(step_key(0, 3), B), step=jnp.int32(3), train=True)
    return x.replace(totals=made.totals(x))


def log_p(logits):
    logits = np.float64(logits)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def row(data, i, *names):
    """Real ids of a row, of several texts one behind the other."""
    return np.concatenate([np.asarray(data[n])[i][np.asarray(data[f"{n}_mask"])[i]] for n in names])


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("kind", NETS)
def test_the_loss_is_of_the_text_behind_what_was_shown(kind, prompts):
    made = method(kind, prompt_length=P * prompts, label_smoothing=0.2, start_id=7)
    v, data = start(kind, prompt_length=P * prompts), batch(prompts)
    x = inputs(made, data)
    rows = jax.jit(lambda v, x: made.encode(v, x)[0])(v, x)
    shown = jax.jit(made.prefix)(v, x.replace(train=False))
    assert shown.shape == (B, Q, 16) and float(x.totals["tokens"]) == data["text_mask"].sum()
    lm = jax.jit(lambda *args, **how: made.lm_net.apply({"params": v.params["lm"]}, *args, **how),
                 static_argnames="mode")  # fmt: skip
    for i in (1, 3):  # the longest prompt, the shortest text
        before = row(data, i, "prompt") if prompts else np.zeros(0, np.int32)
        text = row(data, i, "text")
        words = lambda ids: lm(jnp.asarray(ids, jnp.int32)[None], mode="words")  # noqa: E731
        if kind == "t5":
            read = jnp.concatenate([shown[i : i + 1], words(before)], 1)
            target = jnp.asarray([[7, *text[:-1]]], jnp.int32)
            logits = lm(read, None, target)[1]["logits"][0]
        else:
            whole = jnp.concatenate([shown[i : i + 1], words([*before, *text])], 1)
            logits = lm(whole)[1]["logits"][0, Q + len(before) - 1 : -1]
        wanted = -log_p(logits)[np.arange(len(text)), text].sum()
        assert float(rows["nats"][i]) == pytest.approx(wanted, rel=1e-5)
        smooth = 0.8 * wanted - 0.2 * log_p(logits).mean(-1).sum()
        assert float(rows["lm"][i]) == pytest.approx(smooth, rel=1e-5)


def test_texts_are_packed_without_holes():
    """A first one that is empty, and two that fill all there is, too."""
    first = (
        jnp.array([[5, 6, 0], [1, 0, 0], [0, 0, 0], [1, 2, 3]]),
        jnp.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool),
    )
    second = (
        jnp.array([[7, 8], [9, 0], [4, 6], [8, 9]]),
        jnp.array([[1, 1], [1, 0], [1, 1], [1, 1]], bool),
    )
    ids, real, later = (np.asarray(a) for a in packed(first, second))
    said = [row[there].tolist() for row, there in zip(ids, real, strict=True)]
    assert said == [[5, 6, 7, 8], [1, 9], [4, 6], [1, 2, 3, 8, 9]]
    assert (real == (np.arange(5) < np.array([[4], [2], [2], [5]]))).all()
    learned = [row[mine].tolist() for row, mine in zip(ids, later, strict=True)]
    assert learned == [[7, 8], [9], [4, 6], [8, 9]]


def test_a_soft_prompt_stands_before_the_queries():
    made, v = method(soft_prompt=2), start(soft_prompt=2)
    found = jax.jit(made.prefix)(v, inputs(made, batch()).replace(train=False))
    assert found.shape == (B, 2 + Q, 16)
    wanted = np.broadcast_to(v.params["soft_prompt"], (B, 2, 16))
    np.testing.assert_array_equal(found[:, :2], wanted)


def test_what_is_frozen_gets_no_gradient_and_what_learns_all(kind="decoder"):
    """In micro-batches of unequal numbers of tokens too."""
    made = method(kind, soft_prompt=2, qformer={"dropout": 0.1})
    v, x = start(kind, soft_prompt=2), inputs(made, batch())
    frozen, params = partition(v.params, made.frozen)
    run = jax.jit(
        lambda params, x, k: loss_and_gradient(made, params, frozen, {}, x, k), static_argnums=2
    )
    (loss, _, slope), (again, _, parts) = (run(params, x, k) for k in (1, 2))
    assert set(slope) == {"image_norm", "queries", "qformer", "proj", "soft_prompt"}
    assert float(loss) == pytest.approx(float(again), rel=1e-6)
    scale = max(float(jnp.abs(leaf).max()) for leaf in flatten(slope).values())
    for path, leaf in flatten(slope).items():
        assert float(jnp.abs(leaf).max()) > 0, path
        np.testing.assert_allclose(flatten(parts)[path], leaf, atol=2e-6 * scale, err_msg=path)


@pytest.mark.parametrize("kind", NETS)
def test_what_is_written_is_the_likeliest_word_again_and_again(kind):
    made, v, data = method(kind, start_id=7), start(kind), batch(True)
    given = {name: data[name] for name in ("image", "prompt", "prompt_mask")}
    functions = made.functions()
    write = jax.jit(lambda v, x: functions["generate_text"](v, x, {"max_new": 3}))
    found = write(v, Inputs.of(given))
    ids, length = np.asarray(found["ids"])[:, 0], np.asarray(found["length"])[:, 0]
    for i in (1, 2):  # the longest prompt, the shortest
        prompt, said = row(data, i, "prompt"), ids[i, : length[i]]
        one = {"image": data["image"][i : i + 1]}
        if kind == "t5":
            one |= {"text": data["prompt"][i : i + 1], "target": jnp.asarray([[7, *said]])}
            one["text_mask"] = data["prompt_mask"][i : i + 1]  # nobody reads padding
            logits = functions["lm_logits"](v, Inputs.of(one))[0]
        else:
            one["text"] = jnp.asarray([*prompt, *said])[None]
            logits = functions["lm_logits"](v, Inputs.of(one))[0, len(prompt) - 1 :]
        np.testing.assert_array_equal(np.asarray(logits).argmax(-1)[: len(said)], said)


def test_a_text_is_cut_in_two(kind="t5"):
    """What is read has an end of its own, as prompts have."""
    made, data = method(kind, split=True), batch()
    x = inputs(made, data)
    (read, real), (rest, later) = made.parted(x)
    cuts = np.asarray(real).sum(1) - 1
    assert (cuts >= 1).all() and float(x.totals["tokens"]) == later.sum()
    for i in range(B):
        both = [*np.asarray(read)[i, : cuts[i]], *np.asarray(rest)[i][np.asarray(later)[i]]]
        assert both == row(data, i, "text").tolist() and len(both) > cuts[i]
        assert read[i, cuts[i]] == END


def test_a_text_of_its_end_alone_is_read_and_teaches_nothing():
    made, data = method("t5", split=True), batch()
    data["text_mask"] = jnp.arange(T) < jnp.array([[5], [1], [2], [1]])
    data["text"] = data["text"].at[jnp.arange(B), data["text_mask"].sum(1) - 1].set(END)
    x = inputs(made, data)
    (read, real), (rest, later) = (map(np.asarray, words) for words in made.parted(x))
    assert real.sum(1)[1:].tolist() == [1, 2, 1] and later.sum(1)[1:].tolist() == [0, 1, 0]
    assert read[1, 0] == read[2, 1] == read[3, 0] == rest[2, 0] == END
    assert float(x.totals["tokens"]) == later.sum()


def test_a_beginning_that_a_t5_reads_ends_as_prompts_do():
    """But for a text that is no longer, which has its own end."""
    data = batch()
    (read, real), (rest, later) = method("t5", prompt_tokens=2).parted(
        inputs(method("t5", prompt_tokens=2), data)
    )
    text = np.asarray(data["text"])
    for i, count in enumerate((5, 3, 4, 2)):
        ended = [*text[i, :2], END] if count > 2 else text[i, :2].tolist()
        assert np.asarray(read)[i][np.asarray(real)[i]].tolist() == ended
        assert np.asarray(rest)[i][np.asarray(later)[i]].tolist() == text[i, 2:count].tolist()


def test_a_beginning_that_is_read_and_not_learned():
    """ "a photo of": the loss of the rest alone, behind it."""
    data, v = batch(), start()
    whole, rest = (method(prompt_tokens=count) for count in (0, 2))
    nats = lambda made: jax.jit(made.encode)(v, inputs(made, data))[0]["nats"]  # noqa: E731
    logits, ids, learned = jax.jit(lambda x: whole.predicted(v, x, *whole.parted(x)))(
        inputs(whole, data).replace(train=False)
    )
    each = -np.take_along_axis(log_p(logits), np.asarray(ids)[..., None], -1)[..., 0]
    each = np.where(learned, each, 0)
    np.testing.assert_allclose(nats(whole), each.sum(1), rtol=1e-5)
    np.testing.assert_allclose(nats(rest), each[:, 2:].sum(1), rtol=1e-5, atol=1e-5)
    assert float(inputs(rest, data).totals["tokens"]) == data["text_mask"][:, 2:].sum()


@pytest.mark.parametrize("kind", NETS)
def test_what_is_scored_is_what_is_learned(kind):
    """loglik of the texts behind their prompts is the loss of training; each text's first id
    stands for a start and does not count."""
    made, v, data = method(kind, prompt_length=P), start(kind, prompt_length=P), batch(True)
    nats = jax.jit(lambda v, x: made.encode(v, x)[0]["nats"])(v, inputs(made, data))
    pad = lambda a, put: jnp.pad(a, ((0, 0), (1, 0)), constant_values=put)[:, None]  # noqa: E731
    functions = made.functions()
    for name, texts in (("loglik", "texts"), ("answer_loglik", "answers")):
        given = {key: data[key] for key in ("image", "prompt", "prompt_mask")}
        given |= {texts: pad(data["text"], 9), f"{texts}_mask": pad(data["text_mask"], True)}
        found = jax.jit(lambda v, x, run=functions[name]: run(v, x))(v, Inputs.of(given))
        np.testing.assert_allclose(found[:, 0], -nats, rtol=1e-5)
        assert functions[name].places == functions["generate_answer"].places > 0
        assert functions[name].reads[texts].start
    assert made.fields()["text"].bare and made.fields()["prompt"].open == (kind == "decoder")


def test_a_decoder_without_a_prompt_starts_with_its_start():
    v, data = start(), batch()
    write = lambda made, **given: jax.jit(  # noqa: E731
        lambda v, x: made.functions()["generate_text"](v, x, {"max_new": 3})
    )(v, Inputs.of({"image": data["image"], **given}))["ids"]
    first = jnp.full((B, 1), 7, jnp.int32)
    np.testing.assert_array_equal(write(method(start_id=7)), write(method(), prompt=first))


def test_whatever_ends_a_text_stops_it(monkeypatch):
    """All ids of the method and of who asks; of several ids the tokenizer's own may be any."""
    import vlp_jax.methods.blip2_lm as module

    seen = []

    def write(writer, prompt, mask, how, stop, rng):
        seen.append(stop)
        return Written(prompt, prompt, prompt)

    monkeypatch.setattr(module, "write", write)
    made, given = method(end_ids=(END, 8)), Inputs.of({"image": batch()["image"]})
    run = made.functions()["generate_text"]
    jax.eval_shape(lambda v, x: run(v, x, {"stop": (4,)}), start(), given)
    assert seen == [(END, 8, 4)]
    assert made.fields()["text"].end == -1 and method().fields()["text"].end == END


def test_instructed_queries_read_the_prompt():
    how = dict(prompt_length=P, instructed=True, qformer={"texts": "read"})
    made, data = method(**how), batch(True)
    v = jax.jit(made.fresh)(jax.random.key(0))
    ask = jax.jit(made.ask)
    x = inputs(made, data).replace(train=False)
    other = {**data, "instruction": data["instruction"].at[:, 0].add(-1)}
    seen, moved = ask(v, x), ask(v, inputs(made, other).replace(train=False))
    padded = jnp.where(data["instruction_mask"], data["instruction"], 9)
    junk = inputs(made, {**data, "instruction": padded}).replace(train=False)
    np.testing.assert_array_equal(ask(v, junk), seen)
    assert seen.shape == (B, Q, 12) and (jnp.abs(seen - moved).max((1, 2)) > 1e-4).all()
    field, functions = made.fields()["instruction"], made.functions()
    assert (field.tokenizer, field.vocab_size, field.of) == ("qformer", V, "prompt")
    for name in ("queries", "generate_text", "loglik", "lm_logits"):
        assert functions[name].reads["instruction"] == field
    assert "features" not in functions


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("decoder", dict(end_ids=()), r"method.end_ids=\(\): name an id that ends a text"),
        ("decoder", dict(end_ids=(99,)), "method.end_ids=99: no id below method.lm.vocab_size=29"),
        ("t5", dict(start_id=-2), "method.start_id=-2: no id below"),
        ("t5", dict(split=True, prompt_tokens=2), "method.prompt_tokens: is of texts without"),
        ("decoder", dict(prompt_tokens=5), "method.prompt_tokens=5: leaves out all text_length=5"),
        ("decoder", dict(split=True), "method.split: is of a T5 without"),
        ("decoder", dict(instructed=True), "method.instructed: needs method.prompt_length"),
        (
            "decoder",
            dict(prompt_length=20),
            "2 queries, method.prompt_length=20 and method.text_length=5: the language model takes",
        ),
        ("decoder", dict(lm_dtype="int4"), "method.lm_dtype: unknown 'int4'"),
    ],
)
def test_what_does_not_go_together(kind, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        method(kind, **changes)
    assert "\n" not in str(caught.value)


def test_flops_grow_with_what_is_read():
    for kind in NETS:
        made, longer = method(kind), method(kind, prompt_length=P)
        assert longer.flops() > made.flops() > made.flops(2) > 0


def from_cache(made):
    """A batch whose pictures are states of the eye."""
    data = batch()
    states = jax.random.normal(jax.random.key(1), (B, *made.states_shape))
    return {"image_states": states, **{name: data[name] for name in ("text", "text_mask")}}


def test_a_nan_moves_nothing_and_what_is_frozen_never_moves():
    """R13 and R27: nor does the language model drop anything."""
    made = method(lm=NETS["decoder"] | {"dropout": 0.5})
    optim, recipe = {"name": "adamw", "lr": 1e-2}, Recipe(0, B)
    tx = make_optimizer(optim)
    first, frozen = jax.jit(lambda: init_state(made, tx, recipe))()
    factors = lr_factors(optim, first["params"])
    step = jax.jit(make_step(made, tx, lambda k: jnp.float32(1e-2), factors, recipe))
    rows = from_cache(made)
    good, told = step(first, frozen, rows)
    spoilt = rows | {"image_states": rows["image_states"].at[1, 0, 0].set(jnp.nan)}
    bad, _ = step(good, frozen, spoilt)
    counted = ("step", "skipped", "skipped_in_row")
    held = lambda state: {k: v for k, v in state.items() if k not in counted}  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, held(bad), held(good))
    assert int(bad["skipped"]) == 1 and np.isfinite(told["loss"])
    assert {path.split("/")[0] for path in flatten(frozen)} == {"image", "lm"}
    moved, was = flatten(good["params"]), flatten(first["params"])
    assert not any(path.startswith(("image/", "lm/")) for path in moved)
    changed = {path.split("/")[0] for path, leaf in moved.items() if (leaf != was[path]).any()}
    assert changed == {"image_norm", "queries", "qformer", "proj"}
    x, v = inputs(made, batch()), start()
    losses = [made.encode(v, x.replace(train=train))[0]["nats"] for train in (True, False)]
    np.testing.assert_array_equal(*losses)


def test_a_nan_stays_in_its_own_row():
    """R24."""
    made, v = method(), start()
    rows = from_cache(made)
    read = {"image_states": rows["image_states"], "prompt": rows["text"][:, :1]}
    generate, how = made.functions()["generate_text"], {"max_new": 4}
    write = jax.jit(lambda read: generate(v, Inputs.of(read), how)["ids"])
    clean = write(read)
    spoilt = write(read | {"image_states": rows["image_states"].at[0].set(jnp.nan)})
    np.testing.assert_array_equal(spoilt[1:], clean[1:])
