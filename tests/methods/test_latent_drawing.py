"""`generate_image`: one program whatever is asked, known pixels, sizes, controls, prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latent_tiny import BARE, CONTROL, EMPTY, LENGTH, SIDE, UNET, XL, made, weights
from latent_tiny import batch as batch_of

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import NONE
from vlp_jax.core.inputs import Inputs
from vlp_jax.methods import latent_diffusion
from vlp_jax.train.functions import compiled

B = 3


@pytest.fixture(scope="module")
def plain():
    """(method, weights, f(batch, index, **how) -> arrays, sizes of the programs that were made)."""
    method, traces = made(), []
    v, sample = weights(method), latent_diffusion.sample

    def counted(*args):
        traces.append(args[4])
        return sample(*args)

    def draw(batch, index=None, **how):
        fn = compiled(method, "generate_image")
        index = np.arange(B, dtype=np.int32) if index is None else np.asarray(index, np.int32)
        return jax.device_get(fn(v.params, v.extra, batch, index, {"steps": 3} | how))

    latent_diffusion.sample = counted
    yield method, v, draw, traces
    latent_diffusion.sample = sample


def texts(seed=0):
    return np.random.default_rng(seed).integers(1, 257, (B, LENGTH)).astype(np.int32)


def test_one_program_for_every_prompt_seed_guidance_and_strength(plain):
    _, _, draw, traces = plain
    image = np.random.default_rng(5).integers(0, 256, (B, SIDE, SIDE, 3), np.uint8)
    rows, before = {"text": texts(), "negative": texts(1), "image": image}, len(traces)
    first = draw(rows, guidance=3.0)
    for how in (dict(guidance=5.0), dict(strength=0.4), dict(eta=0.5), dict(rescale=0.7)):
        other = draw(rows, **how)["latent"]
        assert np.abs(other - first["latent"]).max() > 1e-4, how
    assert np.abs(draw(rows | {"text": texts(2)})["latent"] - first["latent"]).max() > 1e-4
    assert np.abs(draw(rows, [7, 8, 9])["latent"] - first["latent"]).max() > 1e-2
    alone = [draw(rows | {"negative": texts(n)}, guidance=1.0)["latent"] for n in (1, 3)]
    np.testing.assert_allclose(*alone, atol=1e-5)  # the condition alone
    assert np.abs(draw(rows | {"text": texts(2)}, guidance=1.0)["latent"] - alone[0]).max() > 1e-4
    assert len(traces) == before + 1
    assert first["image"].shape == (B, SIDE, SIDE, 3) and np.abs(first["image"]).max() <= 1
    assert first["image"].dtype == np.float32 and first["latent"].shape == (B, 8, 8, 4)


def test_a_row_follows_its_own_text_and_seed(plain):
    method, v, draw, _ = plain
    rng = np.random.default_rng(6)
    rows = {"text": texts(), "negative": texts(1)}
    rows["image"] = rng.integers(0, 256, (B, SIDE, SIDE, 3), np.uint8)
    whole = draw(rows, [3, 4, 5], strength=0.7)
    moved = draw({name: array[::-1] for name, array in rows.items()}, [5, 4, 3], strength=0.7)
    np.testing.assert_allclose(moved["latent"][::-1], whole["latent"], atol=1e-5)
    row = jnp.array([[*EMPTY, *[EMPTY[-1]] * LENGTH][:LENGTH]] * B)  # without one: the empty text
    none = jnp.full_like(row, NONE)
    given = {}, {"negative": row}, {"negative": none}
    told = [Inputs.of({"text": texts(), **more}) for more in given]
    own, *same = jax.jit(lambda v: [method.negative(v, x).context for x in told])(v)
    for other in same:
        np.testing.assert_allclose(own, other, atol=1e-6)


def test_no_negative_is_zeros_where_the_network_learnt_that():
    method = made(XL)
    v, second = weights(method), np.full((B, LENGTH), NONE, np.int32)
    second[2] = texts(2)[2]
    rows = {"negative": texts(1), "negative_2": second}
    rows["negative"][0] = NONE
    x = Inputs.of({"text": texts(), "text_2": texts(), **rows})
    empty = np.array([*EMPTY, *[EMPTY[-1]] * LENGTH][:LENGTH])
    words = (np.where(a == NONE, empty, a) for a in rows.values())
    ids = dict(zip(("text", "text_2"), words, strict=True))
    found, read = jax.jit(lambda v: (method.negative(v, x), method.kept(method.read(v, x, ids))))(v)
    for one, other in zip(found, read, strict=True):
        assert not np.any(one[0])  # neither is there
        np.testing.assert_allclose(one[1:], other[1:], atol=1e-6)  # one alone: the other is empty


def test_what_a_mask_keeps_is_kept_to_the_last_bit(plain):
    method, v, draw, _ = plain
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (B, SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((B, SIDE, SIDE, 3), np.uint8)
    mask[:, 4:10, 2:12] = 255
    found = draw({"text": texts(), "image": image, "mask": mask})
    pixels = np.uint8(np.round((found["image"] + 1) * 127.5))
    kept = mask == 0
    np.testing.assert_array_equal(pixels[kept], image[kept])
    assert np.abs(pixels[~kept].astype(int) - image[~kept]).mean() > 5
    latents = jax.jit(
        lambda v, x: method.drawn(v, x, method.posterior(v, x, method.augmented(image, None)))
    )
    latent = np.asarray(latents(v, Inputs.of({"image": image})))
    small = np.broadcast_to(mask[:, ::2, ::2, :1] == 0, latent.shape)
    np.testing.assert_allclose(found["latent"][small], latent[small], atol=1e-5)
    with pytest.raises(UserError, match="image: a mask is painted over in a picture; give one"):
        draw({"text": texts(), "mask": mask})


def test_sizes_off_the_grid_are_refused_and_others_drawn(plain):
    _, _, draw, traces = plain
    found = draw({"text": texts()}, height=8, width=20, guided=False, steps=1)
    assert found["image"].shape == (B, 8, 20, 3) and traces[-1] == (4, 10, 4)
    with pytest.raises(UserError, match="size=8x17: sides must be multiples of 2"):
        draw({"text": texts()}, height=8, width=17)


def test_nothing_to_follow_needs_no_guidance():
    method = made(BARE)
    v = weights(method)
    fn, index = compiled(method, "generate_image"), np.arange(2, dtype=np.int32)
    start = {"start": np.ones((2, 8, 8, 4), np.float32)}
    run = lambda **how: fn(v.params, v.extra, start, index, {"steps": 2} | how)["latent"]  # noqa: E731
    found = run()
    np.testing.assert_array_equal(found, run(guidance=1.0))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)  # the noise alone tells rows apart
    assert np.abs(found - start["start"]).max() > 0.1


def test_controls_add_and_in_guess_mode_to_the_positive_rows_alone():
    method = made(CONTROL)
    v, rng = weights(method), np.random.default_rng(0)
    latent, time = jnp.asarray(rng.standard_normal((4, 8, 8, 4)), jnp.float32), jnp.full(4, 3.0)
    hint = jnp.asarray(rng.uniform(0, 1, (4, SIDE, SIDE, 3)), jnp.float32)
    x = Inputs.of({"latent": latent})
    context = jnp.asarray(rng.standard_normal((4, LENGTH, 8)), jnp.float32)
    told = method.condition(latent_diffusion.Told(context), None)

    @jax.jit
    def run(v, scale):
        call = lambda *how: method.denoise(v, x, latent, time, told, *how)  # noqa: E731
        return call((None,)), call((hint,), scale, True), call((hint[1::2],), scale, True)

    base, added, guess = (np.asarray(out) for out in run(v, 1.0))
    assert (np.abs(added - base).max((1, 2, 3)) > 1e-6).all()
    np.testing.assert_allclose(guess[::2], base[::2], atol=1e-6)
    np.testing.assert_allclose(guess[1::2], added[1::2], atol=1e-6)
    off = run(v, 0.0)
    np.testing.assert_allclose(off[1], off[0], atol=1e-6)


@pytest.mark.parametrize("joins, name", [("low", "low"), ("mask", "image"), ("depth", "depth")])
def test_what_a_unet_looks_at_must_be_given(joins, name):
    channels = {"low": 7, "mask": 9, "depth": 5}[joins]
    method = made(unet=UNET | {"in_channels": channels}, joins=joins)
    v = jax.eval_shape(method.fresh, jax.random.key(0))
    with pytest.raises(UserError, match=f"^{name}: the U-Net looks at it"):
        compiled(method, "generate_image")(*v, {"text": texts()})


def test_a_unet_that_sees_the_mask_paints_all_and_a_low_resolution_sets_the_size():
    method = made(XL)
    v, pixels = weights(method), jnp.zeros((1, SIDE, SIDE, 3))
    run = jax.jit(lambda v, x: vars(method._given(v, x, pixels, pixels[..., :1])))
    given = run(v, Inputs.of({"image": pixels}))
    assert (given["mask"] == 1).all() and given["image"].shape == (1, 8, 8, 4)
    assert given["start"] is None
    net = UNET | {"in_channels": 7, "classes": 20}
    method = made(unet=net, joins="low", low_noise=9)
    v = jax.eval_shape(method.fresh, jax.random.key(0))
    rows = {"text": texts(), "low": np.zeros((B, 6, 9, 3), np.uint8)}
    draw = method.functions()["generate_image"]
    found = jax.eval_shape(lambda v: draw(v, Inputs.of(rows), {"steps": 2}), v)
    assert found["image"].shape == (B, 12, 18, 3) and found["latent"].shape == (B, 6, 9, 4)


def test_the_functions_of_the_issue(plain):
    """Their arrays by name, and denoise is the network itself."""
    functions = made(XL).functions()
    assert set(functions["denoise"].reads) == {"latent", "time", "context", "pooled", "time_ids"}
    assert functions["denoise"].reads["latent"].shape == (8, 8, 9)
    reads = functions["generate_image"].reads
    assert not reads["image"].optional and reads["negative_2"].optional  # its U-Net sees a mask
    method, v, *_ = plain
    rows = batch_of(method, 2)
    latent = method.functions()["encode_latents"](v, Inputs.of({"image": rows["image"]}))
    assert set(latent) == {"mean", "logvar"}
    picture = method.functions()["decode_latents"](v, Inputs.of({"latent": latent["mean"]}))
    assert picture.shape == (2, SIDE, SIDE, 3) and picture.dtype == jnp.float32
    controls = made(CONTROL, controls=2).functions()["denoise"].reads
    assert controls["control_0"].optional and controls["control_1"].size == SIDE
