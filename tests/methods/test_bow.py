"""Bags of words: targets, the teacher, the head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretext import B, batch_of, build, check_accumulation, check_functions, made

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.methods.base import make_method
from vlp_jax.models.head import CosineHead

SMALL = dict(size=32, image={"pool": "none"}, words=6)


def test_targets_sum_to_one_and_come_from_the_clean_picture():
    method = build("bow", **SMALL, augment={"brightness": 0.8})
    (params, extra), batch = made(method), batch_of(method)
    keys = jax.random.split(jax.random.key(0), B)
    rows = {}
    for name, rng in (("train", keys), ("clean", None)):
        rows[name] = method.encode(params, extra, batch, rng=rng, step=jnp.int32(0))[0]
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
    loaded = {**params, "image": jax.tree.map(lambda x: x + 1.0, params["image"])}  # as init_from
    keys = jax.random.split(jax.random.key(0), B)
    encode = lambda step: method.encode(loaded, extra, batch, rng=keys, step=jnp.int32(step))  # noqa: E731
    first, later = (flatten(encode(step)[1].extra["teacher"]) for step in (0, 1))
    student, teacher = flatten({"image": loaded["image"]}), flatten(extra["teacher"])
    for path in student:
        np.testing.assert_array_equal(first[path], student[path])
        np.testing.assert_array_equal(later[path], teacher[path])
    moved = flatten(method.after_update(loaded, extra)["teacher"])
    for path, leaf in moved.items():
        np.testing.assert_allclose(leaf, 0.75 * teacher[path] + 0.25 * student[path], rtol=1e-5)
    frozen = build("bow", **SMALL, momentum=1.0)
    for path, leaf in flatten(frozen.after_update(loaded, extra)["teacher"]).items():
        np.testing.assert_array_equal(leaf, teacher[path])


def test_a_frozen_teacher_keeps_the_batch_statistics_that_it_was_loaded_with():
    image = dict(name="resnet_v1", image_size=16, depth=18, width_multiplier=0.125, stem="cifar")
    method = make_method(dict(name="bow", image=image, words=6, momentum=1.0))
    (params, extra), batch = made(method), batch_of(method)
    stats = jax.tree.map(lambda x: x + 0.5, extra["batch_stats"])  # as init_from

    def step(extra, number):
        at = dict(rng=jax.random.split(jax.random.key(0), B), step=jnp.int32(number))
        return method.encode(params, extra, batch, **at)[1].extra

    first = method.after_update(params, step({**extra, "batch_stats": stats}, 0))
    later = method.after_update(params, step(first, 1))
    for path, leaf in flatten(stats).items():
        np.testing.assert_array_equal(flatten(later["teacher"]["batch_stats"])[path], leaf)
    assert any((flatten(later["batch_stats"])[p] != v).any() for p, v in flatten(stats).items())
    seen = [method.histograms(e, batch["image"])[0] for e in (first, later)]
    np.testing.assert_array_equal(*seen)


def test_accumulation_and_eval_fns():
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
