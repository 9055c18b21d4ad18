"""Bags of words: targets, the teacher, the head."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pretext import B, batch_of, build, check_accumulation, check_functions, followed, made

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import flatten
from vlp_jax.methods.base import make_method
from vlp_jax.models.head import CosineHead
from vlp_jax.train.state import Recipe, init_state, restate

SMALL = dict(size=32, image={"pool": "none"}, words=6)
KEYS = jax.random.split(jax.random.key(0), B)


def restarted(method, change):
    """Vars of a run whose first weights and batch statistics were replaced by change(leaf), as
    init_from does it.
    """
    recipe = Recipe(seed=0, batch_size=B)

    @jax.jit
    def run():
        state, frozen = init_state(method, optax.sgd(1.0), recipe)
        stats = {k: v for k, v in state["extra"].items() if k == "batch_stats"}
        params, stats = jax.tree.map(change, (state["params"], stats))
        state |= {"params": params, "extra": state["extra"] | stats}
        return {**state, **restate(method, recipe, state, frozen)}

    state = run()
    return Vars(state["params"], state["extra"])


def test_targets_sum_to_one_and_come_from_the_clean_picture():
    method = build("bow", **SMALL, augment={"brightness": 0.8})
    v, batch = made(method), batch_of(method)
    rows, encode = {}, jax.jit(lambda x: method.encode(v, x)[0])
    for name, x in (("train", Inputs.of(batch, KEYS, train=True)), ("clean", Inputs.of(batch))):
        rows[name] = encode(x)
        np.testing.assert_allclose(rows[name]["target"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(rows["train"]["ids"], rows["clean"]["ids"])
    counts = [
        np.bincount(ids.ravel(), minlength=6) / 16 for ids in np.asarray(rows["clean"]["ids"])
    ]
    np.testing.assert_allclose(rows["clean"]["target"], counts, atol=1e-6)
    assert np.abs(rows["train"]["target"] - rows["clean"]["target"]).max() > 0.01  # mixed


def test_the_head_ignores_the_length_of_its_weights():
    head, x = CosineHead(5), jax.random.normal(jax.random.key(0), (3, 8))
    params = head.init(jax.random.key(1), x)["params"]
    out = head.apply({"params": params}, x)
    longer = {**params, "kernel": params["kernel"] * jnp.arange(1, 6)}
    np.testing.assert_allclose(head.apply({"params": longer}, x), out, rtol=1e-4)
    cosine = out / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.abs(cosine).max() <= 1 and params["scale"] == 1


def test_the_teacher_starts_as_the_student_and_follows():
    method = build("bow", **SMALL, cutmix=False, momentum=0.75)
    (params, extra), batch = made(method), batch_of(method)
    other = restarted(method, lambda x: x + 1.0)
    student, teacher = flatten({"image": other.params["image"]}), flatten(extra["teacher"])
    for path, leaf in flatten({"image": params["image"]}).items():
        np.testing.assert_array_equal(teacher[path], leaf)
        np.testing.assert_array_equal(student[path], leaf + 1.0)
    assert flatten(other.extra["teacher"]).keys() == teacher.keys() == student.keys()
    for path, leaf in flatten(other.extra["teacher"]).items():
        np.testing.assert_array_equal(leaf, student[path])
    for path, leaf in flatten(extra["vocabulary"]).items():
        np.testing.assert_array_equal(flatten(other.extra["vocabulary"])[path], leaf)
    apart = Vars(other.params, extra)  # the teacher stays what it was, in the first step too
    encode = jax.jit(lambda x: lay(method.encode(apart, x)[1].extra, extra)["teacher"])
    for step in (0, 1):
        same = encode(Inputs.of(batch, KEYS, step=step, train=True))
        for path, leaf in flatten(same).items():
            np.testing.assert_array_equal(leaf, teacher[path])
    for path, leaf in flatten(followed(method, *apart)["teacher"]).items():
        np.testing.assert_allclose(leaf, 0.75 * teacher[path] + 0.25 * student[path], rtol=1e-5)
    frozen = build("bow", **SMALL, momentum=1.0)
    for path, leaf in flatten(followed(frozen, *apart)["teacher"]).items():
        np.testing.assert_array_equal(leaf, teacher[path])


def test_a_frozen_teacher_keeps_the_batch_statistics_that_it_was_loaded_with():
    image = dict(name="resnet_v1", image_size=16, depth=18, width_multiplier=0.125, stem="cifar")
    method = make_method(dict(name="bow", image=image, words=6, momentum=1.0))
    fresh, batch = made(method), batch_of(method)
    params, extra = restarted(method, lambda x: x + 0.5)
    stats = flatten(extra["batch_stats"])
    for path, leaf in flatten(fresh.extra["batch_stats"]).items():
        np.testing.assert_array_equal(stats[path], leaf + 0.5)

    @jax.jit
    def step(extra, x):
        aux = method.encode(Vars(params, extra), x)[1]
        return followed(method, params, lay(aux.extra, extra))

    first = step(extra, Inputs.of(batch, KEYS, step=0, train=True))
    later = step(first, Inputs.of(batch, KEYS, step=1, train=True))
    for path, leaf in stats.items():
        np.testing.assert_array_equal(flatten(later["teacher"]["batch_stats"])[path], leaf)
    assert any((flatten(later["batch_stats"])[path] != leaf).any() for path, leaf in stats.items())
    features = jax.jit(lambda e: method.histograms(Vars(params, e), Inputs.of(batch))[0])
    np.testing.assert_array_equal(features(first), features(later))


def test_accumulation_and_functions():
    method = build("bow", **SMALL, augment={"flip": 0.5})
    _, aux, gradient = check_accumulation(method)
    assert set(path.split("/")[0] for path in gradient) == {"image", "head"}
    assert 1 <= float(aux.metrics["words_used"]) <= 6.01
    check_functions(method, panels=7)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"words": 1}, r"words=1: needs two"),
        ({"momentum": 1.5}, r"momentum=1.5: from 0 to 1"),
        ({"memory": 1.0}, r"memory=1.0: from 0 to 0.9999"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        build("bow", **{**SMALL, **changes})
