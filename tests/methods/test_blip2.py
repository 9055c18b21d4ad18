"""BLIP-2's first stage against dense float64 forms, equal for any split of the batch and for cached
states; its negatives, its mask and what it can do afterwards.
"""

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
from vlp_jax.methods.base import make_method, run
from vlp_jax.models.flops import qformer_flops, tower_flops
from vlp_jax.parallel.mesh import batch_sharding, make_mesh
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train.functions import taken
from vlp_jax.train.gradient import loss_and_gradient

B, Q, T, V, E, S = 16, 3, 7, 30, 8, 5
SMOOTH, PROMPT = 0.2, 2  # of the contrast, and of a text's beginning; others than the defaults


def method(image=(), qformer=(), **changes):
    towers = dict(
        image=dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=1, head_width=8)
        | dict(pool="tokens", cls_token=True, pre_norm=False, conv_bias=True, norm_eps=1e-6)
        | dict(image),
        qformer=dict(name="qformer", vocab_size=V, context_length=12, width=24, num_layers=2)
        | dict(num_heads=3, num_queries=Q)
        | dict(qformer),
    )
    sizes = dict(embed_dim=E, text_length=T, contrast_smoothing=SMOOTH, prompt_tokens=PROMPT)
    return make_method(dict(name="blip2") | sizes | towers | changes)


RANDOM = dict(qformer={"dropout": 0.1}, augment={"flip": 0.5})
GROUPS = np.arange(B) // 3


def batch(group=None):
    rng = np.random.default_rng(0)
    ids = rng.integers(3, V - 1, (B, T)).astype(np.int32)
    ids[:, 0] = 1
    mask = np.arange(T) < rng.integers(3, T + 1, B)[:, None]
    ids[~mask] = 0
    image = rng.integers(0, 256, (B, 16, 16, 3), np.uint8)
    found = dict(image=image, text=ids, text_mask=mask)
    found |= {} if group is None else {"group": np.int32(group)}
    return jax.tree.map(jnp.asarray, found)


@functools.cache
def start(**changes):
    """Weights away from their start."""
    made = method(**changes)
    v = jax.jit(made.fresh)(jax.random.key(0))
    move = lambda p: p + 0.05 * jnp.cos(jnp.arange(p.size).reshape(p.shape))  # noqa: E731
    return Vars(jax.tree.map(move, v.params) | {"temperature": jnp.float32(0.2)}, v.extra)


def inputs(made, batch):
    x = Inputs.of(batch, example_keys(step_key(0, 3), B), step=jnp.int32(3), train=True)
    return x.replace(totals=made.totals(x))


def gradient(made, v, batch, accumulate=1, mesh=None, preset="replicated"):
    def fn(params, frozen, batch, keys):
        x = Inputs.of(batch, keys, step=jnp.int32(3), train=True)
        x = x.replace(totals=made.totals(x))
        return loss_and_gradient(made, params, frozen, {}, x, accumulate)

    mesh = mesh or make_mesh({}, jax.devices()[:1])
    data = batch, example_keys(step_key(0, 3), B)
    data = jax.device_put(data, batch_sharding(mesh))
    frozen, params = partition(v.params, made.frozen)
    params, frozen = (
        jax.device_put(tree, param_sharding(tree, mesh, preset)) for tree in (params, frozen)
    )
    with jax.set_mesh(mesh):
        loss, aux, slope = jax.jit(fn)(params, frozen, *data)
    return float(loss), dict(aux.metrics), flatten(slope)


def check_equal(found, wanted, tolerance=1e-6):
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    for name, value in wanted[1].items():
        assert float(found[1][name]) == pytest.approx(float(value), rel=2e-6, abs=1e-6), name
    assert found[2].keys() == wanted[2].keys()
    scale = max(float(jnp.abs(leaf).max()) for leaf in wanted[2].values())
    for path, leaf in wanted[2].items():  # the temperature's is a difference of large numbers
        np.testing.assert_allclose(found[2][path], leaf, atol=5e-6 * scale, err_msg=path)


@pytest.fixture(scope="module")
def whole():
    """The gradient of the batch on one device, dropout on."""
    return gradient(method(**RANDOM), start(), batch())


def test_what_learns_has_a_gradient_and_the_eye_has_none(whole):
    parts = {path.split("/")[0] for path in whole[2]}
    heads = {"image_proj", "text_proj", "temperature", "itm"}
    assert parts == {"image_norm", "queries", "qformer", *heads}
    for path, leaf in whole[2].items():
        assert float(jnp.abs(leaf).max()) > 0, path


def test_micro_batches_on_eight_devices_give_the_gradient_of_the_batch(whole):
    mesh = make_mesh({"data": 2, "fsdp": 4})
    check_equal(gradient(method(**RANDOM), start(), batch(), 2, mesh, "fsdp"), whole)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@functools.cache
def stages():
    made = method()

    def fn(v, data):
        x = inputs(made, data)
        rows, _ = run(made.encode, v.params, {}, v.extra, x)
        more, _ = run(made.match, v.params, {}, v.extra, rows, rows, x)
        loss, aux = run(made.objective, v.params, {}, v.extra, {**rows, **more}, x)
        return {**rows, **more}, loss, aux.metrics

    return jax.jit(fn)


def rows_of(data):
    """Everything that the losses see, as float64, and what a step makes of it."""
    rows, loss, metrics = stages()(start(), data)
    wide = {k: np.asarray(a, np.float64 if a.dtype == jnp.float32 else a.dtype)
            for k, a in rows.items()}  # fmt: skip
    return wide, float(loss), {k: float(value) for k, value in metrics.items()}


@pytest.mark.parametrize("group", [None, GROUPS], ids=["pairs", "groups"])
def test_the_losses_are_those_of_the_reference(group):
    """blip2.md 3: the nearest query, smoothed, both ways; means over what counts."""
    rows, loss, metrics = rows_of(batch(group))
    assert rows["image"].shape == (B, Q, E)
    cosines = np.einsum("iqe,je->iqj", rows["image"], rows["text"]).max(1)
    labels = np.arange(B) if group is None else group
    same = labels[:, None] == labels
    target = (1 - SMOOTH) * same / same.sum(1, keepdims=True) + SMOOTH / B
    sides = [-(target * np.log(softmax(s / 0.2))).sum(1).mean() for s in (cosines, cosines.T)]
    assert metrics["itc"] == pytest.approx(np.mean(sides), rel=1e-6)
    counts = rows["itm_counts"]
    assert counts.all()  # every row found a wrong picture and a wrong text
    assert metrics["itm"] == pytest.approx(rows["itm"][counts].mean(), rel=1e-6)
    assert metrics["itm_accuracy"] == pytest.approx(rows["itm_right"][counts].mean())
    tokens = np.asarray(batch()["text_mask"])[:, PROMPT:].sum()
    assert metrics["itg"] == pytest.approx(rows["itg"].sum() / tokens, rel=1e-6)
    assert metrics["itg_unsmoothed"] == pytest.approx(rows["unsmoothed"].sum() / tokens, rel=1e-6)
    assert abs(metrics["itg_unsmoothed"] - metrics["itg"]) > 1e-3
    parts = sum(metrics[name] for name in ("itc", "itm", "itg"))
    assert loss == pytest.approx(parts, rel=1e-6)


def test_each_loss_is_of_what_its_function_gives():
    made, v, data = method(), start(), batch()
    rows, _, _ = rows_of(data)
    functions = {name: jax.jit(found) for name, found in made.functions().items()}
    mask = np.asarray(data["text_mask"])
    x = Inputs.of({**data, "text": jnp.where(mask, data["text"], 5)})  # nobody reads padding
    match = np.float64(functions["match"](v, x))
    np.testing.assert_allclose(rows["itm"][:, 0], -np.log(softmax(match)[:, 1]), atol=1e-5)
    marked = x.replace(batch={**x.batch, "text": data["text"].at[:, 0].set(V - 1)})
    logits = np.float64(functions["lm_logits"](v, marked))  # in one pass under the mask
    smooth = 0.9 * np.eye(V)[np.asarray(data["text"])[:, 1:]] + 0.1 / V
    each = -(smooth * np.log(softmax(logits[:, :-1]))).sum(-1)
    wanted = (each * mask[:, 1:])[:, PROMPT - 1 :].sum(1)
    np.testing.assert_allclose(rows["itg"], wanted, rtol=1e-5)
    for name in ("image", "text"):
        np.testing.assert_allclose(functions[f"embed_{name}"](v, x), rows[name], atol=1e-6)
    states = functions["image_states"](v, x)
    np.testing.assert_array_equal(states, rows["states"])
    again = x.replace(batch={**x.batch, "image_states": states})
    np.testing.assert_allclose(functions["rematch"](v, again), match, atol=1e-5)
    asked = functions["queries"](v, x)
    assert asked.shape == (B, Q, 24) and asked.dtype == jnp.float32


def test_a_text_is_written_as_its_likelihood_says():
    """What is written greedily is the likeliest next word again and again, and its likelihood that
    of the same words given."""
    made, v, data = method(end_id=0), start(), {"image": batch()["image"][:3]}
    functions = {name: jax.jit(found) for name, found in made.functions().items()}
    write = jax.jit(lambda v, x: made.functions()["generate_text"](v, x, {"max_new": 4}))
    found = write(v, Inputs.of(data))
    ids = np.asarray(found["ids"])[:, 0]
    text = np.concatenate([np.full((3, 1), V - 1), ids], 1).astype(np.int32)
    logits = functions["lm_logits"](v, Inputs.of(data | {"text": jnp.asarray(text)}))
    length = np.asarray(found["length"])[:, 0]
    real = np.arange(4) < length[:, None]
    best = np.asarray(logits)[:, :-1].argmax(-1)
    np.testing.assert_array_equal(best[real], ids[real])
    texts = jnp.asarray(text)[:, None]
    scored = functions["loglik"](v, Inputs.of(data | {"texts": texts}))
    log_p = np.log(softmax(np.float64(logits)))[:, :-1]
    wanted = np.take_along_axis(log_p, ids[..., None], 2)[..., 0]
    np.testing.assert_allclose(scored[:, 0], wanted.sum(1), rtol=1e-4)


def test_wrong_partners_come_from_other_groups(monkeypatch):
    """Of every row in turn: it, a wrong picture with its text, its picture with a wrong text."""
    import vlp_jax.methods.blip2 as module

    seen, judged = [], []
    picks = np.roll(np.arange(B), 1), np.roll(np.arange(B), 5)

    def draw(query, key, scale, rng, rows, columns, floor):
        seen.append([np.asarray(a) for a in (query, key, scale, rows, columns, floor)])
        return jnp.asarray(picks[len(seen) - 1]), jnp.arange(len(query)) > 2

    def fits(self, v, x, *pairs):
        judged.extend(np.asarray(a).reshape(B, 3, *a.shape[1:]) for a in pairs)
        return jnp.zeros((3 * B, 2))

    made, v, x = method(negative_floor=0.25), start(), inputs(method(), batch(GROUPS))
    rows = {k: jnp.asarray(a) for k, a in rows_of(batch(GROUPS))[0].items()}
    monkeypatch.setattr(module, "draw_negatives", draw)
    monkeypatch.setattr(module.BLIP2, "fits", fits)
    more, _ = made.match(v, rows, rows, x)
    for (query, key, scale, *numbers, floor), (mine, theirs) in zip(
        seen, (("text", "image"), ("image", "text")), strict=True
    ):
        np.testing.assert_array_equal(query, rows[mine])
        np.testing.assert_array_equal(key, rows[theirs])
        assert scale == pytest.approx(5) and floor == 0.25
        for number in numbers:
            np.testing.assert_array_equal(number, GROUPS)
    own = np.arange(B)
    image, text = (own, picks[0], own), (own, own, picks[1])
    for found, name, which in zip(
        judged, ("states", "ids", "mask"), (image, text, text), strict=True
    ):
        for k, picked in enumerate(which):
            np.testing.assert_array_equal(found[:, k], np.asarray(rows[name])[picked])
    counts = np.asarray(more["itm_counts"])
    assert counts[:, 0].all() and (counts[:, 1:] == (np.arange(B) > 2)[:, None]).all()


def test_a_text_ends_at_its_end_and_at_whatever_is_asked(monkeypatch):
    import vlp_jax.methods.blip2 as module

    seen = []

    def write(writer, prompt, mask, how, stop, rng):
        seen.append(stop)
        return Written(prompt, prompt, prompt)

    monkeypatch.setattr(module, "write", write)
    run = method(end_id=9).functions()["generate_text"]
    jax.eval_shape(lambda v, x: run(v, x, {"stop": (4, 6)}), start(), Inputs.of(batch()))
    assert seen == [(9, 4, 6)]


def test_states_of_a_cache_take_the_pictures_place():
    """The same losses and gradients without the tower."""
    made, v, data = method(), start(), batch()
    assert taken(made) == ["image_states"]
    states = jax.jit(made.functions()["image_states"])(v, Inputs.of(data))
    kept = {name: a for name, a in data.items() if name != "image"} | {"image_states": states}
    rows, loss, _ = rows_of(data)
    for name, again in stages()(v, kept)[0].items():
        np.testing.assert_allclose(rows[name], again, atol=1e-6, err_msg=name)
    assert float(stages()(v, kept)[1]) == pytest.approx(loss, rel=1e-6)


def test_a_frozen_eye_in_bfloat16_gives_bfloat16():
    made = method(image={"dtype": "bfloat16"}, tower_dtype="bfloat16")
    stored = made.stored({"image": start().params["image"]})
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(stored)} == {"bfloat16"}
    v = start()._replace(params=start().params | stored)
    states = jax.eval_shape(lambda: made.functions()["image_states"](v, Inputs.of(batch())))
    assert states.dtype == made.states_field.spec("s", 1)["s"].dtype == jnp.bfloat16
    assert states.shape == (B, S, 16)


def test_a_trained_eye_is_no_frozen_part():
    made = method(frozen_tower=False, losses=("itc",))
    assert made.frozen == () and "image_states" not in made.fields()
    x, v = inputs(made, batch()), start()
    loss = lambda params: made.loss(Vars(params, {}), x)[0]  # noqa: E731
    slope = jax.jit(jax.grad(loss))(v.params)
    assert float(jnp.abs(slope["image"]["patch_embed"]["kernel"]).max()) > 0


def test_the_temperature_stays_in_its_range():
    made, v = method(), start()
    for value, wanted in ((0.6, 0.5), (1e-5, 0.001), (0.3, 0.3)):
        found = made.project({**v.params, "temperature": jnp.float32(value)})
        assert float(found["temperature"]) == pytest.approx(wanted)
    assert float(made.scale(v.params)) == pytest.approx(5)


def test_its_texts_are_told_by_keys_that_the_method_has():
    made = method()
    text = made.fields()["text"]
    assert (text.vocab_size, text.own, text.start) == (V - 1, 1, True)
    for part, number in ((".vocab_size", V), (".context_length", T), (".end", made.end_id)):
        path, _, said = text.says("text", number, part).partition("=")
        _, *names = path.split(".")
        value = getattr(made, names[0])
        assert (value[names[1]] if names[1:] else value) == int(said)
    reader = method(losses=("itc", "itm"), qformer={"texts": "read"}).fields()["text"]
    assert (reader.vocab_size, reader.own, reader.start) == (V, 0, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(losses=("itc", "itn")), r"method.losses: unknown 'itn' \(nearest: itm\)"),
        (dict(losses=("itm", "itg")), "itm needs itc"),
        (dict(losses=()), "one there must be"),
        (dict(prompt_tokens=T), f"method.prompt_tokens={T}: leaves out all text_length={T} tokens"),
        (dict(tower_dtype="float12"), "method.tower_dtype: unknown 'float12'"),
        (dict(qformer={"texts": "read"}), "method.qformer.texts='read': .* needs 'write'"),
        (dict(qformer={"texts": "none"}, losses=("itc",)), "texts='none': .* needs 'read'"),
    ],
)
def test_a_loss_that_there_is_not(changes, message):
    with pytest.raises(UserError, match=message.split(r" \(")[0]):
        method(**changes)


def test_an_eye_that_gives_one_vector():
    with pytest.raises(UserError, match=r"method\.image\.pool: queries look at all tokens"):
        method(image={"pool": "cls"}).parts()


def test_flops_are_those_of_the_passes():
    made = method()
    cost = lambda mode: qformer_flops(made.query_net, mode, T, (S, 16))  # noqa: E731
    base = tower_flops(made.image_tower) + cost("queries")
    assert method(losses=("itc",)).flops() == pytest.approx(base + cost("text"))
    modes = cost("text"), 3 * cost("bidirectional"), cost("decode")
    assert made.flops() == pytest.approx(base + sum(modes)) and made.flops(3) < made.flops()
    assert cost("unimodal") > cost("queries") + cost("text")  # attention over both at once
