"""MAE: what is hidden is scored and nothing else, and what is seen is all the encoder sees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import make_method
from vlp_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from vlp_jax.train.gradient import loss_and_gradient

B, SIZE, N, KEEP = 6, 32, 16, 4
TOWER = dict(
    name="vit", image_size=SIZE, patch_size=8, width=64, num_layers=1, head_width=32,
    pool="cls", pos_embed="sincos", pre_norm=False, conv_bias=True, weight_init="mae",
)  # fmt: skip
DECODER = dict(num_layers=1, width=32, num_heads=2)


def build(image=None, decoder=None, **fields):
    image, decoder = {**TOWER, **(image or {})}, {**DECODER, **(decoder or {})}
    return make_method(dict(name="mae", image=image, decoder=decoder, unroll=True, **fields))


def pictures(count=B, seed=0):
    rng = np.random.default_rng(seed)
    return {"image": jnp.asarray(rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))}


def start(method):
    return jax.jit(method.fresh)(jax.random.key(0))


@pytest.fixture(scope="module")
def made():
    method = build()
    params, extra = start(method)
    noise = jnp.asarray(np.random.default_rng(1).random((B, N), np.float32))
    return method, params, extra, {**pictures(), "noise": noise}


def loss_of(method, params, extra, batch, rng=None):
    x = Inputs.of(batch, rng, train=rng is not None)
    return method.loss(Vars(params, extra), x)


def visible(method, batch):
    """Outside training."""
    return method.visible(Inputs.of(batch))


def predict(method, params, images, places):
    """Outside training."""
    return method.predict(Vars(params, {}), Inputs.of({"image": images}), images, places)


def predicted(method, *args):
    return np.asarray(jax.jit(lambda *args: predict(method, *args))(*args))


def test_the_loss_is_that_of_the_formula(made):
    """Reference: facebookresearch/mae forward_loss, written out in numpy."""
    method, params, extra, batch = made
    loss, aux = loss_of(method, params, extra, batch)
    images = np.asarray(method.prepare(batch["image"], None))
    target = rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=8, q=8)
    mean, var = target.mean(-1, keepdims=True), target.var(-1, keepdims=True, ddof=1)
    target = (target - mean) / (var + 1e-6) ** 0.5
    order = np.argsort(np.asarray(batch["noise"]), axis=1)
    mask = np.ones((B, N))
    np.put_along_axis(mask, order[:, :KEEP], 0, axis=1)
    places = visible(method, batch)
    np.testing.assert_array_equal(places, np.sort(order[:, :KEEP]))
    prediction = predicted(method, params, jnp.asarray(images), places)
    error = ((prediction - target) ** 2).mean(-1)
    assert float(loss) == pytest.approx((error * mask).sum() / mask.sum(), rel=1e-5)
    zero = ((target**2).mean(-1) * mask).sum() / mask.sum()
    assert float(aux.metrics["zero_loss"]) == pytest.approx(zero, rel=1e-5)
    assert zero == pytest.approx(191 / 192, abs=1e-3)  # (P - 1) / P on textured patches


def test_the_encoder_never_sees_a_hidden_patch(made):
    """Other pixels in hidden patches change the target and no prediction."""
    method, params, _, batch = made
    images, places = method.prepare(batch["image"], None), visible(method, batch)
    hidden = np.ones((B, N), bool)
    np.put_along_axis(hidden, np.asarray(places), False, axis=1)
    other = jnp.where(
        jnp.asarray(np.kron(hidden.reshape(B, 4, 4), np.ones((8, 8))))[..., None], 9.0, images
    )
    assert float(jnp.abs(other - images).max()) > 1
    a, b = (predicted(method, params, x, places) for x in (images, other))
    np.testing.assert_array_equal(a, b)
    moved = predicted(method, params, images[::-1], places[::-1])[::-1]
    np.testing.assert_allclose(moved, a, atol=1e-5)


def test_visible_patches_give_no_gradient_to_the_prediction(made):
    method, params, extra, batch = made

    def loss(offset):
        images, places = method.prepare(batch["image"], None), visible(method, batch)
        kept, said = method.predict, predict(method, params, images, places) + offset
        object.__setattr__(method, "predict", lambda *_: said)
        try:
            return loss_of(method, params, extra, batch)[0]
        finally:
            object.__setattr__(method, "predict", kept)

    gradient = np.asarray(jax.grad(loss)(jnp.zeros((B, N, 192))))
    places = np.asarray(visible(method, batch))
    seen = np.take_along_axis(np.abs(gradient).max(-1), places, axis=1)
    assert (seen == 0).all() and (np.abs(gradient).max(-1) > 0).sum() == B * (N - KEEP)


def test_encoding_a_subset_equals_dropping_tokens_after_embedding(made):
    """With all patches visible the masked path is the plain tower."""
    method, params, _, batch = made
    images = method.prepare(batch["image"], None)
    everything = jnp.broadcast_to(jnp.arange(N), (B, N))
    tower = {"params": params["image"]}
    some = method.encoder.apply(tower, images, None, places=everything)[0]
    plain, out = method.image_tower.apply(tower, images)
    np.testing.assert_allclose(some[:, 0], plain, atol=1e-5)
    assert some.shape == (B, 1 + N, 64) and out["tokens"].shape == (B, 1 + N, 64)


@pytest.mark.parametrize(
    "fields",
    [
        dict(masking="block", norm_pix=False),
        dict(masking="grid", image={"pool": "gap", "pos_embed": "learned"}),
        dict(mask_token_in_encoder=True, mask_ratio=0.5),
    ],
    ids=["block", "grid-gap-learned", "token-in-encoder"],
)
def test_every_variant_trains_each_parameter(fields):
    method, batch = build(**fields), pictures()
    params, extra = start(method)
    gradient = jax.jit(jax.grad(lambda p: loss_of(method, p, extra, batch)[0]))(params)
    for path, leaf in flatten(gradient).items():
        assert np.abs(leaf).max() > 0, f"no gradient reaches {path}"
    assert ("mask_token" in params) == method.mask_token_in_encoder
    assert ("mask_token" in params["decoder"]) != method.mask_token_in_encoder
    assert ("pos_embed" in params["image"]) == (method.image_tower.pos_embed == "learned")


def test_accumulation_is_exact():
    method, batch = build(augment={"flip": 0.5}), pictures()
    params, extra = start(method)
    x = Inputs.of(batch, example_keys(step_key(0, 1), B), step=1, train=True)
    run = jax.jit(lambda p, k: loss_and_gradient(method, p, {}, extra, x, k), static_argnums=1)
    (loss, _, gradient), (again, _, split) = run(params, 1), run(params, 3)
    assert float(loss) == pytest.approx(float(again), rel=1e-5)
    split = flatten(split)
    for path, leaf in flatten(gradient).items():
        np.testing.assert_allclose(split[path], leaf, rtol=1e-3, atol=1e-5, err_msg=path)


def test_mask_tokens_in_the_encoder_hide_the_pixels_too():
    method, batch = build(mask_token_in_encoder=True), pictures()
    params, _ = start(method)
    images, places = method.prepare(batch["image"], None), visible(method, batch)
    squares = lambda x: jnp.square(predict(method, params, x, places)).sum()  # noqa: E731
    moved = np.asarray(jax.jit(jax.grad(squares))(images))
    patches = rearrange(moved, "b (h p) (w q) c -> b (h w) (p q c)", p=8, q=8)
    touched = np.abs(patches).max(-1) > 0
    assert (touched.sum(1) == KEEP).all()
    assert np.take_along_axis(touched, np.asarray(places), axis=1).all()


def test_masks_follow_the_key_in_training_and_the_picture_outside(made):
    method, _, _, batch = made
    plain = {"image": batch["image"]}
    keys = [example_keys(step_key(0, step), B) for step in (1, 2)]
    train = [Inputs.of(plain, key, train=True) for key in keys]
    first, second = (np.asarray(method.visible(x)) for x in train)
    assert (first != second).any() and (first[0] != first[1]).any()
    fixed = np.asarray(visible(method, plain))
    np.testing.assert_array_equal(fixed, visible(method, plain))
    for x in train:  # a key alone is no training
        np.testing.assert_array_equal(fixed, method.visible(x.replace(train=False)))
    np.testing.assert_array_equal(fixed[::-1], visible(method, {"image": batch["image"][::-1]}))
    assert (fixed[0] != fixed[1]).any()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_panels_show_what_they_say(norm_pix):
    method, batch = build(norm_pix=norm_pix), pictures()
    params, extra = start(method)
    functions, x = method.functions(), Inputs.of(batch)
    assert {"features", "loss", "reconstruct"} <= functions.keys()
    panels = np.asarray(jax.jit(functions["reconstruct"])(Vars(params, extra), x))
    assert panels.shape == (B, 4, SIZE, SIZE, 3) and panels.min() >= 0 and panels.max() <= 1
    seen, mask, output, target = np.moveaxis(panels, 1, 0)
    np.testing.assert_allclose(target, np.asarray(batch["image"]) / 255, atol=1e-5)
    assert set(np.unique(mask)) == {0, 1} and mask.mean() == 0.75
    np.testing.assert_array_equal(output[mask == 0], target[mask == 0])
    np.testing.assert_array_equal(seen[mask == 0], target[mask == 0])
    assert (seen[mask == 1] == 0.5).all() and np.abs(output - target)[mask == 1].mean() > 0.05
    # hidden patches are the prediction, with the target's moments under norm_pix, in [0, 1]
    patch = lambda x: rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=8, q=8)  # noqa: E731
    images, places = method.prepare(batch["image"], None), visible(method, batch)
    said, true = predicted(method, params, images, places), patch(np.asarray(images))
    if norm_pix:
        said = said * np.sqrt(true.var(-1, keepdims=True, ddof=1) + 1e-6)
        said = said + true.mean(-1, keepdims=True)
    said = rearrange(said, "b (h w) (p q c) -> b (h p) (w q) c", h=4, p=8, q=8)
    said = np.clip(said * np.array(method.image_std) + np.array(method.image_mean), 0, 1)
    assert said[mask == 1].std() > 0.05
    np.testing.assert_allclose(output[mask == 1], said[mask == 1], atol=1e-5)
    # a decoder that says zero paints each patch's mean (norm_pix) or the data set's
    zero = jax.tree.map(jnp.zeros_like, params["decoder"])
    none = Vars({**params, "decoder": zero}, extra)
    output = np.asarray(functions["reconstruct"](none, x))[:, 2]
    patch = lambda x: rearrange(x, "b (h p) (w q) c -> b (h w) (p q) c", p=8, q=8)  # noqa: E731
    hidden = patch(mask)[:, :, 0, 0] == 1
    assert np.ptp(patch(output)[hidden], axis=1).max() < 1e-6
    if not norm_pix:
        np.testing.assert_allclose(
            patch(output)[hidden][:, 0], [[0.485, 0.456, 0.406]] * (B * 12), atol=1e-6
        )
    rows = np.asarray(functions["loss"](Vars(params, extra), x))
    assert rows.shape == (B, 2)
    assert rows[:, 0].mean() == pytest.approx(
        float(loss_of(method, params, extra, batch)[0]), rel=1e-5
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(mask_ratio=0.0), "method.mask_ratio=0: must lie strictly between 0 and 1"),
        (dict(mask_ratio=1.0), "method.mask_ratio=1: must lie strictly between 0 and 1"),
        (dict(mask_ratio=0.95), "32 pixels have 16 patches of 8, none stays visible"),
        (dict(image={"image_size": 8}), "8 pixels have 1 patches of 8, none stays visible"),
        (dict(image={"image_size": 4}), "image_size=4: smaller than a patch of"),
        (dict(masking="blocks"), "method.masking: unknown 'blocks'; did you mean 'block'"),
        (dict(image={"pool": "map"}), "needs a vit with pool='cls' or pool='gap'"),
        (dict(image={"patch_dropout": 0.5}), "method.image.patch_dropout: must be 0"),
        (dict(image={"embed_dim": 8}), "method.image.embed_dim: must be 0"),
        (dict(decoder={"widht": 3}), "method.decoder.widht: unknown key; did you mean 'width'"),
        (dict(decoder={"width": 30, "num_heads": 3}), "multiple of 4, not 30"),
        (dict(decoder={"num_heads": 5}), "decoder.num_heads=5 does not divide width=32"),
        (dict(image={"pos_embed": "sine"}), "image.pos_embed: unknown 'sine'"),
    ],
)
def test_bad_sections_are_one_line(fields, message):
    with pytest.raises(UserError) as caught:
        method = build(**fields)
        jax.eval_shape(method.fresh, jax.random.key(0))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_masking_sends_nothing_between_devices():
    """Eight devices: gradients are summed, no activation and no index travels."""
    mesh, method = make_mesh({"data": 8}), build(masking="block")
    batch = {"image": jax.ShapeDtypeStruct((24, SIZE, SIZE, 3), jnp.uint8)}
    params, extra = jax.eval_shape(method.fresh, jax.random.key(0))

    def gradient(params, images):
        rng = example_keys(jax.random.key(0), 24)
        return jax.grad(lambda p: loss_of(method, p, extra, {"image": images}, rng)[0])(params)

    with jax.set_mesh(mesh):
        whole, split = replicated(mesh), batch_sharding(mesh)
        run = jax.jit(gradient, in_shardings=(whole, split), out_shardings=whole)
        text = run.lower(params, batch["image"]).compile().as_text()
    found = re.findall(r"= (.*?)(all-gather|all-to-all|collective-permute|all-reduce)\(", text)
    assert {kind for _, kind in found} == {"all-reduce"}, found
    assert not re.search(r"\[24,", " ".join(shape for shape, _ in found))
