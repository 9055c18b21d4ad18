"""Sentences about two pictures: which picture is which, changing places, any split of the batch."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vlp_jax.api.config import load_config
from vlp_jax.api.init_from import Weights
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.interop.folder import write_folder
from vlp_jax.methods.base import make_method
from vlp_jax.methods.blip_nlvr import exchanged
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.trainer import Trainer

RECIPES = pathlib.Path(__file__).parents[2] / "configs" / "blip"

B, T, V = 6, 5, 20
LEFT, RIGHT = 7, 8


def method(**changes):
    image = dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=1, head_width=8)
    image |= dict(pool="none", cls_token=True, pre_norm=False, norm_eps=1e-6)
    text = dict(name="med", vocab_size=V, context_length=8, width=16, num_layers=2, num_heads=2)
    text |= dict(roles="encoder", merge_from=1) | changes.pop("text", {})
    how = dict(text_length=T, end_id=2, sides=(LEFT, RIGHT)) | changes
    return make_method(dict(name="blip_nlvr", image=image, text=text) | how)


def batch():
    rng = np.random.default_rng(0)
    text = rng.integers(3, V - 2, (B, T)).astype(np.int32)
    text[:, 2] = [LEFT, RIGHT, 4, LEFT, 5, 6]
    found = {name: rng.integers(0, 256, (B, 16, 16, 3), np.uint8) for name in ("image", "second")}
    found["second_image"] = found.pop("second")
    mask = np.arange(T) < np.array([5, 4, 3, 5, 4, 5])[:, None]
    found |= dict(text=text, text_mask=mask, label=np.int32([1, 0, 1, 1, 0, 0]))
    return jax.tree.map(jnp.asarray, found)


@pytest.fixture(scope="module")
def start():
    """Weights away from their start, or biases and the two looks would not count."""
    made = jax.jit(method().fresh)(jax.random.key(0))
    rng = np.random.default_rng(1)
    move = lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return made._replace(params=jax.tree.map(move, made.params))


@pytest.fixture(scope="module")
def judge(start):
    """f(batch) -> logits float32[B, 2]."""
    function = method().functions()["pair_logits"]
    return jax.jit(lambda batch: function(start, Inputs.of(batch)))


def gradient(made, v, accumulate=1):
    def fn(params, batch):
        keys = example_keys(step_key(0, 3), B)
        x = Inputs.of(batch, keys, step=jnp.int32(3), train=True)
        x = x.replace(totals=made.totals(x))
        return loss_and_gradient(made, params, {}, v.extra, x, accumulate)

    loss, aux, slope = jax.jit(fn)(v.params, batch())
    return float(loss), dict(aux.metrics), flatten(slope)


def turned(data, rows):
    """The pictures of some rows in each other's places, and left and right."""
    one, two, text = data["image"], data["second_image"], np.array(data["text"])
    at = np.array([LEFT, RIGHT])
    for row in rows:
        text[row] = np.select([text[row] == LEFT, text[row] == RIGHT], at[::-1], text[row])
    chosen = np.isin(np.arange(B), rows)[:, None, None, None]
    pictures = {"image": jnp.where(chosen, two, one), "second_image": jnp.where(chosen, one, two)}
    return {**data, **pictures, "text": jnp.asarray(text)}


def cost(judge, data):
    """Cross-entropy of every row, and how many are right."""
    logits = np.asarray(judge(data), np.float64)
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(B), data["label"]]
    return each, (logits.argmax(1) == data["label"]).mean()


def test_pairs_change_places_and_words_with_them(start, judge):
    """The loss is the cross-entropy of what is judged, as if the data had been turned."""
    keys = Inputs.of(batch(), example_keys(step_key(0, 3), B)).fold("swap").rng
    rows = np.flatnonzero(jax.vmap(jax.random.bernoulli)(keys))
    assert 0 < len(rows) < B
    loss, metrics, slope = gradient(method(), start)
    each, right = cost(judge, turned(batch(), rows))
    assert np.abs(each - cost(judge, batch())[0])[rows].min() > 1e-4, "the order counts"
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right)
    assert set(slope) == set(flatten(start.params))
    for path, leaf in slope.items():
        assert np.abs(leaf).max() > 0, path


def test_nothing_changes_places_without_swap_and_in_evaluation(start, judge):
    wanted, _ = cost(judge, batch())
    for made, train in ((method(swap=0.0), True), (method(), False)):
        x = Inputs.of(batch(), example_keys(step_key(0, 3), B), train=train)
        rows, _ = jax.jit(made.encode)(start, x)
        np.testing.assert_allclose(rows["loss"], wanted, rtol=1e-5)


def test_each_picture_of_a_pair_is_augmented_by_itself(start):
    """Where both are one picture, some pairs have one of them flipped."""
    made = method(augment={"flip": 0.5})
    x = Inputs.of(batch() | {"second_image": batch()["image"]}, example_keys(step_key(0, 3), B))
    states = jax.jit(made.pair)(start, x.replace(train=True))
    apart = np.abs(states[:, 0] - states[:, 1]).max((1, 2)) > 1e-4
    assert 0 < apart.sum() < B


def test_left_and_right_are_exchanged():
    ids = jnp.array([[LEFT, 5, RIGHT, LEFT]])
    assert exchanged(ids, (LEFT, RIGHT)).tolist() == [[RIGHT, 5, LEFT, RIGHT]]
    assert exchanged(ids, ()) is ids


def test_padding_and_a_first_word_do_not_count(judge):
    data = batch()
    wanted = judge(data)
    padded = jnp.where(data["text_mask"], data["text"], 3).at[:, 0].set(1)
    np.testing.assert_array_equal(judge({**data, "text": padded}), wanted)


def test_micro_batches_change_nothing_with_all_randomness_on(start):
    made = method(text={"dropout": 0.2}, augment={"flip": 0.5})
    one, two = gradient(made, start), gradient(made, start, 2)
    assert two[0] == pytest.approx(one[0], rel=1e-6)
    scale = max(float(jnp.abs(leaf).max()) for leaf in one[2].values())
    for path, leaf in one[2].items():
        np.testing.assert_allclose(two[2][path], leaf, atol=2e-6 * scale, err_msg=path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sides": (3,)}, r"method.sides=\(3,\): the ids of left and right"),
        ({"text": {"merge_from": -1}}, "method.text.merge_from=-1: two pictures need it"),
        ({"text": {"roles": "both"}}, "text.merge_from=1: needs roles='encoder'"),
    ],
)
def test_what_cannot_be_is_told(changes, message):
    with pytest.raises(UserError, match=message):
        method(**changes)


SMALL = {
    "image_size": 16, "image.patch_size": 8, "image.width": 16, "image.num_layers": 1,
    "image.head_width": 8, "text.vocab_size": 12, "text.width": 16, "text.num_layers": 3,
    "text.num_heads": 2, "text.merge_from": 1,
}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Two pairs under NLVR2's names, and a vocabulary."""
    rows = []
    for k, label in enumerate(("True", "False")):
        for i in range(2):
            noise = np.random.default_rng(2 * k + i).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / f"dev-1-{k}-img{i}.png")
        rows.append({"sentence": "red left", "label": label, "identifier": f"dev-1-{k}-0"})
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "left", "right"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path


def small_recipe(data, what="base", **changes):
    """The published recipe at a size of nothing."""
    keys = {k if k == "image_size" else f"method.{k}": str(v) for k, v in SMALL.items()}
    where = {"data.path": data / "dev.json", "evals.nlvr.path": data / "dev.json"}
    where |= {"data.tokenizer": data / "vocab.txt", "batch_size": 8, "method.sides": "(6, 7)"}
    given = {key: str(value) for key, value in {**where, **changes}.items()}
    config = load_config(f"{RECIPES}/nlvr.py:{what}", keys | given)
    with config.unlocked():
        config.method.end_id = 3
    return config


def test_both_looks_of_the_recipe_start_from_the_one(data, tmp_path):
    text = small_recipe(data).method.text.to_dict() | {"merge_from": -1, "roles": "both"}
    said = small_recipe(data).method.to_dict()
    said = {"name": "blip", "image": said["image"], "text": text, "queue": 4, "end_id": 3}
    params = jax.eval_shape(make_method(said).init, jax.random.key(0))[0]
    rng = np.random.default_rng(0)
    arrays = {path: rng.normal(size=leaf.shape).astype(np.float32)
              for path, leaf in flatten(params).items()}  # fmt: skip
    how = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop": "squash"}
    manifest = dict(arch="", method=said, preprocessing=how | {"resample": "bicubic"})
    write_folder(str(tmp_path / "pre"), arrays, manifest | dict(tokenizer={}, golden={}))
    given = Weights(Trainer(small_recipe(data, f"base,{tmp_path / 'pre'}")))
    looks = [path for path in given.weights if "second_cross_attn" in path]
    assert len(looks) == 6
    for path in looks:
        one = path.replace("second_", "")
        for ours in (path, one):
            np.testing.assert_array_equal(given.weights[ours], arrays[one])
    fresh = {path.split("/")[0] + "/" + path.split("/")[1] for path in given.fresh}
    assert fresh == {"text/merge", "judge/fc1", "judge/out"}
    batch = next(iter(Trainer(small_recipe(data)).pipeline.batches(0)))
    assert set(batch) >= set(method().batch_spec(8))
    pictures = (batch["image"] != batch["second_image"]).reshape(8, -1).any(1)
    assert pictures.all() and sorted(batch["label"]) == [0] * 4 + [1] * 4
