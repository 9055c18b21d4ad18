"""The U-Net of latent diffusion: published sizes, what it is conditioned on, layout, precision,
sharding, bad input.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.latent_diffusion.ldm import MODELS, get_config
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, map_with_path, size
from vlp_jax.core.rng import example_keys
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.unet import ARCHS, context_width, unet
from vlp_jax.models.towers import make_tower
from vlp_jax.models.unet import Condition, Residuals, UNet, reads
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.parallel.sharding import param_sharding

# Parameters of the U-Nets alone, counted on the reference implementations (diffusers for Stable
# Diffusion, CompVis/latent-diffusion for the others).
EXACT = {
    "sd1": 859_520_964,
    "sd1-inpainting": 859_535_364,
    "sd2": 865_910_724,
    "sd2-inpainting": 865_910_724 + 5 * 9 * 320,
    "sd2-depth": 865_913_604,
    "sd-x4-upscaler": 473_398_020,
    "sdxl": 2_567_463_684,
    "sdxl-refiner": 2_259_526_660,
    "ldm-unconditional": 274_056_163,
    "ldm-churches": 294_966_916,
    "ldm-cin-vq-f8": 394_984_196,
    "ldm-cin256-v2": 400_920_579,
    "ldm-txt2img-1p4b": 872_300_484,
    "ldm-text2img256": 403_623_939,
    "ldm-bsr-sr": 113_622_563,
    "ldm-inpainting-big": 387_245_827,
    "ldm-semantic": 215_229_315,
    "ldm-layout": 246_277_379,
}
TINY = UNet(widths=(8, 16), depths=(1, 2), heads=(2, 2), res_blocks=1, groups=4, unroll=True)
XL = dataclasses.replace(TINY, linear=True, pooled_width=6, time_ids=3, id_width=4, classes=5)
RNG = np.random.default_rng(0)
LATENT, TIME = RNG.normal(size=(2, 4, 6, 4)).astype(np.float32), np.float32([3, 500])
GIVEN = Condition(context=RNG.normal(size=(2, 5, 7)).astype(np.float32))
ADDED = GIVEN._replace(
    pooled=RNG.normal(size=(2, 6)).astype(np.float32),
    time_ids=RNG.uniform(0, 9, (2, 3)).astype(np.float32),
    labels=np.int32([0, 4]),
)
KEYS = example_keys(jax.random.key(1), 2)


def filled(shapes):
    """Random weights of these shapes, nothing at zero; drawn here, which compiles nothing."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        noise = rng.normal(size=leaf.shape) / max(3, np.prod(leaf.shape[:-1])) ** 0.5
        return (noise + path.endswith("scale")).astype(np.float32)

    return map_with_path(fill, shapes)


def made(net, given=GIVEN):
    """Its variables."""
    return filled(jax.eval_shape(net.init, jax.random.key(0), LATENT, TIME, given))


@pytest.fixture(scope="module")
def variables():
    return made(TINY)


@pytest.fixture(scope="module")
def added():
    """(A network with everything that is added to time as a jitted function, its variables)."""
    return jax.jit(XL.apply), made(XL, ADDED)


@pytest.mark.parametrize("name", EXACT)
def test_published_sizes(name):
    net = make_tower(unet(name), "unet")
    found = jax.eval_shape(net.init, jax.random.key(0), *reads(net, context_width(name)))
    assert size(found) == EXACT[name]
    assert set(ARCHS) == set(EXACT)


def test_it_starts_at_zero_and_its_transformers_as_nothing():
    fresh = flatten(jax.jit(TINY.init)(jax.random.key(0), LATENT, TIME, GIVEN)["params"])
    zero = {path for path, leaf in fresh.items() if path.endswith("kernel") and not leaf.any()}
    blocks = {path.split("/")[0] for path in fresh if "/conv2/" in path}
    attentions = {path.split("/")[0] for path in fresh if "/blocks/" in path}
    wanted = {"conv_out/kernel"} | {f"{name}/conv2/kernel" for name in blocks}
    assert zero == wanted | {f"{name}/conv_out/kernel" for name in attentions}
    assert len(blocks) == 8 and len(attentions) == 7


@pytest.mark.parametrize("field", ["time", "pooled", "time_ids", "labels", "context", "latent"])
def test_an_example_sees_each_of_its_own_conditions_and_no_other(added, field):
    run, variables = added
    before = run(variables, LATENT, TIME, ADDED)
    latent, time, given = LATENT.copy(), TIME.copy(), ADDED
    if field == "time":
        time[1] += 1
    elif field == "latent":
        latent[1] += 1
    else:
        changed = getattr(ADDED, field).copy()
        changed[1] = changed[1] - 1
        given = ADDED._replace(**{field: changed})
    after = run(variables, latent, time, given)
    apart = np.abs(before - after).max((1, 2, 3))
    assert apart[0] == 0 and apart[1] > 1e-4


def test_states_under_a_mask_are_not_seen(variables):
    run = jax.jit(TINY.apply)
    mask = np.arange(5) < np.array([[5], [3]])
    masked = run(variables, LATENT, TIME, GIVEN._replace(mask=mask))
    short = GIVEN.context.copy()
    short[1, 3:] = 100
    again = run(variables, LATENT, TIME, GIVEN._replace(context=short, mask=mask))
    np.testing.assert_allclose(masked, again, atol=1e-5)
    whole = run(variables, LATENT, TIME, GIVEN)
    np.testing.assert_allclose(masked[0], whole[0], atol=1e-5)
    assert np.abs(masked[1] - whole[1]).max() > 1e-3


def test_loops_recomputation_and_dropout():
    small = dataclasses.replace(TINY, widths=(8,), depths=(2,), heads=(2,))
    dropped, variables = dataclasses.replace(small, dropout=0.3), made(small)
    weights = RNG.normal(size=LATENT.shape)

    def value(net):
        loss = lambda p: (net.apply({"params": p}, LATENT, TIME, GIVEN, KEYS) * weights).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(variables["params"])

    one = value(dropped)
    for changes in ({"unroll": False}, {"remat": "full"}):
        two = value(dataclasses.replace(dropped, **changes))
        np.testing.assert_allclose(one[0], two[0], rtol=1e-4)
        for path, leaf in flatten(one[1]).items():
            limit = 1e-4 * max(1.0, np.abs(leaf).max())
            np.testing.assert_allclose(flatten(two[1])[path], leaf, atol=limit, err_msg=path)
    assert all(leaf.any() for leaf in jax.tree.leaves(one[1]))  # every parameter learns
    plain = jax.jit(small.apply)(variables, LATENT, TIME, GIVEN)
    assert abs(one[0] - (plain * weights).sum()) > 1e-3


def test_bfloat16(variables):
    low = dataclasses.replace(TINY, dtype="bfloat16")
    shapes = jax.eval_shape(low.init, jax.random.key(0), LATENT, TIME, GIVEN)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    found, wanted = (jax.jit(n.apply)(variables, LATENT, TIME, GIVEN) for n in (low, TINY))
    scale = np.std(wanted)
    assert found.dtype == jnp.float32 and 1e-4 < np.abs(found - wanted).max() / scale < 0.1
    text = str(jax.make_jaxpr(low.apply)(variables, LATENT, TIME, GIVEN))
    convolutions = [line for line in text.splitlines() if "conv_general_dilated[" in line]
    assert len(convolutions) > 10
    assert sum("bf16[" in line.split("=")[0] for line in convolutions) == len(convolutions) - 1


def test_sharding_cuts_heads_and_hidden_units(variables):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
    found = flatten(param_sharding({"unet": variables["params"]}, mesh, "fsdp_tensor"))
    for path, axis in (
        ("attn/qkv/kernel", -3),
        ("cross_attn/query/kernel", -2),
        ("cross_attn/key_value/kernel", -3),
        ("cross_attn/out/kernel", -3),
        ("mlp/fc1/kernel", -1),
        ("mlp/fc2/kernel", -2),
    ):
        assert found[f"unet/down0_attn0/blocks/{path}"].spec[axis] == "tensor", path
    assert "fsdp" in found["unet/down0_res0/conv1/kernel"].spec


def test_control_is_added_to_skips_and_middle(variables):
    """Ones on one skip change the output as that skip's own change would."""
    run = jax.jit(TINY.apply)
    shapes = [(2, 4, 6, 8), (2, 4, 6, 8), (2, 2, 3, 8), (2, 2, 3, 16)]
    zeros = Residuals(tuple(np.zeros(s, np.float32) for s in shapes), np.zeros((2, 2, 3, 16)))
    base = run(variables, LATENT, TIME, GIVEN)
    none = run(variables, LATENT, TIME, GIVEN._replace(control=zeros))
    np.testing.assert_array_equal(base, none)
    for n in range(5):
        skips = tuple(skip + (i == n) for i, skip in enumerate(zeros.skips))
        moved = Residuals(skips, zeros.middle + (n == 4))
        after = run(variables, LATENT, TIME, GIVEN._replace(control=moved))
        assert np.abs(after - base).max() > 1e-3, n


@pytest.mark.parametrize(
    "changes, given, message",
    [
        ({"widths": (8, 16, 16)}, {}, r"unet.depths=\(1, 2\): must say it of 3 levels"),
        ({"heads": (3, 2)}, {}, r"unet.heads=\(3, 2\): 3 does not divide 8"),
        ({"resample": "pool"}, {}, "unet.resample: unknown 'pool'; conv or res"),
        ({"dtype": "float3"}, {}, "unet.dtype: unknown 'float3'; did you mean 'float32'"),
        ({"in_channels": 9}, {}, "latents of 4 channels, but in_channels=9"),
        ({}, {"context": None}, "unet: needs a context"),
        ({}, {"labels": np.int32([1, 2])}, "unet: the network has no place for labels"),
        ({"pooled_width": 6}, {}, "unet: the network needs pooled"),
        ({"time_ids": 6}, {"time_ids": np.zeros((2, 5))}, "unet: time_ids of 5 columns, not 6"),
        ({}, {"control": Residuals((), LATENT)}, "unet: control of 0 skips, the network has 4"),
    ],
)
def test_bad_input_is_one_line(changes, given, message):
    net = dataclasses.replace(TINY, **changes)
    with pytest.raises(UserError, match=message) as error:
        jax.eval_shape(net.init, jax.random.key(0), LATENT, TIME, GIVEN._replace(**given))
    assert "\n" not in str(error.value)


def test_latents_off_the_grid_are_refused():
    with pytest.raises(UserError, match="latents of 4x5: sides must be multiples of 2"):
        jax.eval_shape(TINY.init, jax.random.key(0), LATENT[:, :, :5], TIME, GIVEN)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_models_of_latent_diffusion(name):
    """ldm.md 2.2: the U-Net of every recipe; of layouts the encoder as the reference counts it, and
    biases before its attentions."""
    config = get_config(name)
    method = make_method(config.method)
    params = jax.eval_shape(method.init, jax.random.key(0))[0]
    count = lambda part: sum(leaf.size for leaf in jax.tree.leaves(params[part]))  # noqa: E731
    assert count("unet") == EXACT[MODELS[name][0]]
    assert method.distance == config.method.distance and config.optim.lr == MODELS[name][4]
    if name == "layout":
        block = 4 * 512**2 + 512 + 8 * 512**2 + 5 * 512 + 4 * 512
        tables = (8192 + 92) * 512 + 2 * 512
        assert count("text") == tables + 16 * (block + 3 * 512)
        assert not method.parts()["text"].frozen and method.told_shape == (92, 512, 512)
