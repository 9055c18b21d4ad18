"""BLIP's losses against dense float64 forms, equal for any split of the batch; its teacher, its
queue and its negatives.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import make_method, run
from vlp_jax.methods.blip import FREE
from vlp_jax.methods.kits import varied
from vlp_jax.models.flops import med_flops, tower_flops
from vlp_jax.parallel.mesh import batch_sharding, make_mesh
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train.gradient import loss_and_gradient

B, T, V, E, QUEUE, STEP = 16, 7, 30, 8, 32, 3


def method(image=(), text=(), **changes):
    towers = dict(
        image=dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=1, head_width=8)
        | dict(pool="none", cls_token=True, pre_norm=False, conv_bias=True, norm_eps=1e-6)
        | dict(image),
        text=dict(name="med", vocab_size=V, context_length=12, width=24, num_layers=1, num_heads=3)
        | dict(text),
    )
    sizes = dict(embed_dim=E, queue=QUEUE, text_length=T, alpha_examples=64)
    return make_method(dict(name="blip") | towers | sizes | changes)


RANDOM = dict(image={"dropout": 0.2}, text={"dropout": 0.1}, augment={"flip": 0.5})


def batch(group=None):
    rng = np.random.default_rng(0)
    ids = rng.integers(3, V - 2, (B, T)).astype(np.int32)
    ids[:, 0] = 1
    mask = np.arange(T) < rng.integers(3, T + 1, B)[:, None]
    ids[~mask] = 0
    image = rng.integers(0, 256, (B, 16, 16, 3), np.uint8)
    found = dict(image=image, text=ids, text_mask=mask)
    found |= {} if group is None else {"group": np.int32(group)}
    return jax.tree.map(jnp.asarray, found)


@functools.cache
def start(**changes):
    """A state whose teacher and temperature are not where they begin."""
    made = method(**changes)
    v = jax.jit(made.fresh)(jax.random.key(0))
    moved = jax.tree.map(lambda a: a + 0.03 * jnp.cos(jnp.arange(a.size).reshape(a.shape)), v.extra)
    extra = v.extra | {"teacher": moved["teacher"]}
    return Vars({**v.params, "temperature": jnp.float32(0.2)}, extra)


def inputs(made, batch, step=STEP):
    x = Inputs.of(batch, example_keys(step_key(0, step), B), step=jnp.int32(step), train=True)
    return x.replace(totals=made.totals(x))


def gradient(made, v, batch, accumulate=1, mesh=None, preset="replicated"):
    def fn(params, extra, batch, keys):
        x = Inputs.of(batch, keys, step=jnp.int32(STEP), train=True)
        x = x.replace(totals=made.totals(x))
        return loss_and_gradient(made, params, {}, extra, x, accumulate)

    keys = example_keys(step_key(0, STEP), B)
    mesh = mesh or make_mesh({}, jax.devices()[:1])
    batch, keys = jax.device_put((batch, keys), batch_sharding(mesh))
    params = jax.device_put(v.params, param_sharding(v.params, mesh, preset))
    extra = jax.device_put(v.extra, param_sharding(v.extra, mesh, preset))
    with jax.set_mesh(mesh):
        loss, aux, slope = jax.jit(fn)(params, extra, batch, keys)
    return float(loss), dict(aux.metrics), flatten(aux.extra), flatten(slope)


def check_equal(found, wanted):
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    for name, value in wanted[1].items():
        assert float(found[1][name]) == pytest.approx(float(value), rel=2e-6, abs=1e-6), name
    for path, leaf in wanted[2].items():
        np.testing.assert_allclose(found[2][path], leaf, atol=1e-6, err_msg=path)
    scale = max(float(jnp.abs(leaf).max()) for leaf in wanted[3].values())
    for path, leaf in wanted[3].items():
        np.testing.assert_allclose(found[3][path], leaf, atol=1e-6 * scale, err_msg=path)


def test_micro_batches_on_eight_devices_give_the_gradient_of_the_batch_with_dropout_on():
    made, mesh = method(**RANDOM), make_mesh({"data": 2, "fsdp": 4})
    whole = gradient(made, start(), batch())
    check_equal(gradient(made, start(), batch(), 2, mesh, "fsdp"), whole)


def test_its_texts_are_told_by_keys_that_the_method_has():
    made = method()
    text = made.fields()["text"]
    assert (text.vocab_size, text.own) == (V - 2, 2)
    for part, number in ((".vocab_size", V), (".context_length", T), (".end", made.end_id)):
        path, _, said = text.says("text", number, part).partition("=")
        _, *names = path.split(".")
        value = getattr(made, names[0])
        assert (value[names[1]] if names[1:] else value) == int(said)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@functools.cache
def stages(**changes):
    made = method(**changes)

    def fn(v, data):
        x = inputs(made, data)
        rows, _ = run(made.encode, v.params, {}, v.extra, x)
        more, _ = run(made.match, v.params, {}, v.extra, rows, rows, x)
        loss, aux = run(made.objective, v.params, {}, v.extra, {**rows, **more}, x)
        return {**rows, **more}, loss, aux

    return jax.jit(fn)


def rows_of(v, data, **changes):
    """Everything that the losses see, as float64, and what a step makes of it."""
    rows, loss, aux = stages(**changes)(v, data)
    wide = {k: np.asarray(a, np.float64 if a.dtype == jnp.float32 else a.dtype)
            for k, a in rows.items()}  # fmt: skip
    return wide, float(loss), aux


GROUPS = np.arange(B) // 3


@pytest.mark.parametrize("group", [None, GROUPS], ids=["pairs", "groups"])
def test_the_contrast_is_that_of_the_paper(group):
    """Equations of ALBEF 3.2 with BLIP's ramp: alpha 0.4 after 64 examples, 0.3 after 48."""
    v = start()
    queue = v.extra["queue"]
    if group is not None:
        queue = queue | {"group": queue["group"].at[:4].set(jnp.int32([0, 0, 3, 77]))}
        v = v._replace(extra=v.extra | {"queue": queue})
    rows, _, aux = rows_of(v, batch(group))
    temperature, alpha = 0.2, 0.4 * STEP * B / 64
    labels = np.arange(B) if group is None else group
    others = np.arange(B, B + QUEUE) if group is None else np.asarray(queue["group"])
    same = labels[:, None] == np.concatenate([labels, others])
    hard = same / same.sum(1, keepdims=True)
    sides = []
    for mine, theirs in (("image", "text"), ("text", "image")):
        keys = np.concatenate([rows[f"teacher_{theirs}"], np.float64(queue[theirs])])
        soft = softmax(rows[f"teacher_{mine}"] @ keys.T / temperature)
        target = alpha * soft + (1 - alpha) * hard
        sides.append(-(target * np.log(softmax(rows[mine] @ keys.T / temperature))).sum(1).mean())
    assert float(aux.metrics["itc"]) == pytest.approx(np.mean(sides), rel=1e-6)
    assert float(aux.metrics["alpha"]) == pytest.approx(0.3)
    assert float(aux.metrics["temperature"]) == pytest.approx(temperature)


def test_the_ramp_stays_up_after_more_examples_than_an_int32_counts():
    made, x = method(losses=("itc",)), inputs(method(), batch(), 2**31 // B)
    names = ("image", "text", "teacher_image", "teacher_text")
    _, aux = made.objective(start(), dict.fromkeys(names, jnp.eye(B, E)), x)
    assert float(aux.metrics["alpha"]) == pytest.approx(0.4)


def test_matching_and_writing_are_means_over_what_counts():
    v = start()
    rows, loss, aux = rows_of(v, batch())
    assert rows["itm"].shape == (B, 3) and rows["itm_counts"].all()
    assert float(aux.metrics["itm"]) == pytest.approx(rows["itm"].mean(), rel=1e-6)
    assert float(aux.metrics["itm_accuracy"]) == pytest.approx(rows["itm_right"].mean())
    tokens = np.asarray(batch()["text_mask"])[:, 1:].sum()
    assert float(aux.metrics["lm"]) == pytest.approx(rows["lm"].sum() / tokens, rel=1e-6)
    parts = [float(aux.metrics[name]) for name in ("itc", "itm", "lm")]
    assert loss == pytest.approx(sum(parts), rel=1e-6)


def test_a_text_is_read_and_written_behind_its_mark():
    """Each loss from the networks' own outputs: [ENC] in matching, [DEC] in writing."""
    made, v, data = method(), start(), batch()
    rows, _, _ = rows_of(v, data)
    functions = {name: jax.jit(found) for name, found in made.functions().items()}
    x = Inputs.of(data)
    with_mark = lambda mark: x.replace(batch={**data, "text": data["text"].at[:, 0].set(mark)})  # noqa: E731
    match = np.float64(functions["match"](v, with_mark(V - 1)))
    np.testing.assert_allclose(rows["itm"][:, 0], -np.log(softmax(match)[:, 1]), atol=1e-5)
    logits = np.float64(functions["lm_logits"](v, with_mark(V - 2)))
    log_p = np.log(softmax(logits[:, :-1]))
    smooth = 0.9 * np.eye(V)[np.asarray(data["text"])[:, 1:]] + 0.1 / V
    each = -(smooth * log_p).sum(-1) * np.asarray(data["text_mask"])[:, 1:]
    np.testing.assert_allclose(rows["lm"], each.sum(1), rtol=1e-5)
    for name in ("image", "text"):
        np.testing.assert_allclose(functions[f"embed_{name}"](v, x), rows[name], atol=1e-6)
    states = functions["image_states"](v, x)
    again = with_mark(V - 1).batch | {"image_states": states}
    np.testing.assert_allclose(functions["rematch"](v, x.replace(batch=again)), match, atol=1e-5)


def test_a_prompt_is_read_but_not_learned():
    made, v, data = method(prompt_tokens=3), start(), batch()
    whole, part = rows_of(v, data)[0], rows_of(v, data, prompt_tokens=3)[0]
    assert (part["lm"] < whole["lm"]).all()
    counts = np.asarray(data["text_mask"])[:, 3:].sum()
    assert float(made.totals(Inputs.of(data))["tokens"]) == counts
    short = data | {"text_mask": jnp.arange(T) < jnp.full((B, 1), 3)}
    assert float(made.totals(Inputs.of(short))["tokens"]) == 1  # a divisor


@pytest.mark.parametrize("negatives", ["teacher", "own"])
def test_wrong_partners_are_of_other_groups(negatives, monkeypatch):
    import vlp_jax.methods.blip as module

    seen, drawn = [], []

    def draw(query, key, scale, rng, rows, columns, floor):
        seen.append([np.asarray(a) for a in (query, key, rows, columns)])
        drawn.append((float(scale), floor, *np.asarray(jax.random.key_data(rng)).ravel().tolist()))
        return jnp.zeros(len(query), jnp.int32), jnp.arange(len(query)) > 2

    made, v, x = method(negatives=negatives), start(), inputs(method(), batch(GROUPS))
    rows = {k: jnp.asarray(a) for k, a in rows_of(v, batch(GROUPS))[0].items()}
    monkeypatch.setattr(module, "draw_negatives", draw)
    monkeypatch.setattr(module.BLIP, "fits", lambda self, v, x, *_: jnp.zeros((B, 2)))
    more, _ = made.match(v, rows, rows, x)
    prefix = "teacher_" if negatives == "teacher" else ""
    pairs = ("text", "image"), ("image", "text")
    for (query, key, *numbers), (mine, theirs) in zip(seen, pairs, strict=True):
        np.testing.assert_array_equal(query, rows[mine])
        np.testing.assert_array_equal(key, rows[prefix + theirs])
        for number in numbers:
            np.testing.assert_array_equal(number, GROUPS)
    assert [d[:2] for d in drawn] == [(pytest.approx(5), 1e-4)] * 2 and drawn[0] != drawn[1]
    counts = np.asarray(more["itm_counts"])
    assert counts[:, 0].all() and (counts[:, 1:] == (np.arange(B) > 2)[:, None]).all()


def test_the_queue_takes_the_teachers_vectors_in_turn():
    v = start()
    rows, _, aux = rows_of(v, batch(GROUPS))
    moved = aux.extra["queue"]
    for name in ("image", "text"):
        np.testing.assert_allclose(moved[name][:B], rows[f"teacher_{name}"], atol=1e-6)
        np.testing.assert_array_equal(moved[name][B:], v.extra["queue"][name][B:])
    assert moved["group"].tolist() == [*GROUPS, *[FREE] * (QUEUE - B)]
    assert int(moved["at"]) == B
    v = v._replace(extra=v.extra | {"queue": moved})
    again = rows_of(v, batch())[2].extra["queue"]
    assert int(again["at"]) == 0 and again["group"].tolist()[B:] == [FREE] * (QUEUE - B)
    np.testing.assert_array_equal(again["text"][:B], moved["text"][:B])


@pytest.mark.parametrize(("at", "begins"), [(8, 16), (24, 0), (16, 16)])
def test_after_another_batch_size_a_batch_keeps_its_vectors_together(at, begins):
    """8 and 24 are places that batches of 8 left; of 16 none may run over the end."""
    v = start()
    queue = v.extra["queue"] | {"at": jnp.int32(at)}
    rows, _, aux = rows_of(v._replace(extra=v.extra | {"queue": queue}), batch(GROUPS))
    moved = aux.extra["queue"]
    held = slice(begins, begins + B)
    np.testing.assert_allclose(moved["text"][held], rows["teacher_text"], atol=1e-6)
    assert moved["group"].tolist()[held] == [*GROUPS]
    assert int(moved["at"]) == (begins + B) % QUEUE


def test_the_teacher_follows_what_encodes_alone():
    made, v = method(momentum=0.75), start()
    hers = made.follow(v, jnp.int32(4))["teacher"]
    paths = set(flatten(hers))
    assert {p.split("/")[0] for p in paths} == {"image", "text", "image_proj", "text_proj"}
    assert not any("cross" in p or "decode_" in p or p.startswith("text/head") for p in paths)
    old, mine = flatten(v.extra["teacher"]), flatten(v.params)
    for path, leaf in flatten(hers).items():
        np.testing.assert_allclose(leaf, 0.75 * old[path] + 0.25 * mine[path], atol=1e-6)
    fresh = jax.jit(method().fresh)(jax.random.key(0))
    assert float(fresh.params["temperature"]) == pytest.approx(0.07)
    for path, leaf in flatten(fresh.extra["teacher"]).items():
        np.testing.assert_array_equal(leaf, flatten(fresh.params)[path])
    norms = np.linalg.norm(fresh.extra["queue"]["image"], axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)
    assert np.abs(np.subtract(*(fresh.extra["queue"][n] for n in ("image", "text")))).max() > 0.1


def test_what_rand_augment_uncovers_is_grey(monkeypatch):
    seen = []
    keep = lambda images, how, rng, fill: seen.append((how.magnitude, fill)) or images  # noqa: E731
    monkeypatch.setattr(varied, "rand_augment", keep)
    method(rand_augment={"magnitude": 5.0}).prepare(batch()["image"], None)
    assert seen == [(5, (128, 128, 128))]


def test_the_temperature_stays_in_its_range():
    made, v = method(), start()
    for value, wanted in ((0.6, 0.5), (1e-5, 0.001), (0.3, 0.3)):
        found = made.project({**v.params, "temperature": jnp.float32(value)})
        assert float(found["temperature"]) == pytest.approx(wanted)
    assert float(made.scale(v.params)) == pytest.approx(5)


def test_captions_alone_need_neither_teacher_nor_projections():
    made = method(losses=("lm",), text={"roles": "decoder"})
    v = jax.eval_shape(made.fresh, jax.random.key(0))
    assert set(v.params) == {"image", "text"} and not v.extra
    made.check_batch(1)  # no example sees another
    assert "group" not in made.fields() and made.scale(v.params) is None
    assert made.follow(v, jnp.int32(1)) == {}
    assert not {"embed_image", "match"} & set(made.functions())
    assert {"lm_logits", "image_states"} <= set(made.functions())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(losses=("itc", "itn")), r"method.losses: unknown 'itn' \(nearest: itm\)"),
        (dict(losses=("itm", "lm")), "itm needs itc"),
        (dict(losses=()), "one there must be"),
        (dict(text={"roles": "encoder"}), "method.text.roles='encoder': lm of method.losses needs"),
        (dict(negatives="owned"), "method.negatives: unknown 'owned'"),
        (dict(rows_dtype="float12"), "method.rows_dtype: unknown 'float12'"),
        (dict(prompt_tokens=T), f"method.prompt_tokens={T}: leaves out all text_length={T} tokens"),
    ],
)
def test_a_loss_that_there_is_not(changes, message):
    with pytest.raises(UserError, match=message.split(r" \(")[0]):
        method(**changes)


def test_a_queue_that_the_batch_does_not_divide():
    made = method(queue=24)
    with pytest.raises(UserError, match=r"method.queue=24: must be a positive multiple of batch"):
        jax.eval_shape(lambda: made.loss(made.fresh(jax.random.key(0)), inputs(made, batch())))


def test_flops_are_those_of_the_passes_that_learn():
    """More losses cost more, matching three grounded readings."""
    cost = {names: method(losses=names).flops() for names in (("itc",), ("itc", "itm"), ("lm",))}
    made = method()
    ground = med_flops(made.text_net, "ground", T, made.states_shape)
    assert cost["itc", "itm"] - cost["itc",] == pytest.approx(3 * ground)
    both = cost["itc", "itm"] + cost["lm",] - tower_flops(made.image_tower)
    assert made.flops() == pytest.approx(both)
    assert made.flops(3) < made.flops()
