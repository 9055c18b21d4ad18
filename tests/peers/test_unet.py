"""Live parity with diffusers' UNet2DConditionModel, UNet2DModel and ControlNetModel: random weights
by their names, both ways, and configs both ways.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
diffusers = pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from test_autoencoder import channels_first, channels_last, config_of  # noqa: E402
from test_encoders import randomise  # noqa: E402

from vlp_jax.core.pytree import flatten, unflatten  # noqa: E402
from vlp_jax.interop.diffusers import renamed  # noqa: E402
from vlp_jax.interop.diffusers_unet import CONTROL, TABLES  # noqa: E402
from vlp_jax.interop.diffusers_unet_config import read_unet, write_unet  # noqa: E402
from vlp_jax.interop.rules import their_shapes, to_ours, to_theirs  # noqa: E402
from vlp_jax.interop.tensors import from_arrays  # noqa: E402
from vlp_jax.models import controlnet, unet  # noqa: E402
from vlp_jax.models.archs.unet import SIZES, context_width  # noqa: E402
from vlp_jax.models.towers import make_tower  # noqa: E402
from vlp_jax.models.unet import Condition, Residuals  # noqa: E402

CROSS, PLAIN, HINTED = (
    diffusers.UNet2DConditionModel,
    diffusers.UNet2DModel,
    diffusers.ControlNetModel,
)
D = 24  # columns of the states
TINY = dict(block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1)
DOWN = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
SD1 = TINY | DOWN | dict(cross_attention_dim=D, attention_head_dim=4)
UP = dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
SD2 = dict(attention_head_dim=(2, 4), use_linear_projection=True)
XL = SD2 | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 3),
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
)
UPSCALER = SD2 | dict(
    block_out_channels=(16, 32, 32),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    only_cross_attention=(True, True, False),
    attention_head_dim=4,
    in_channels=7,
)
CASES = {
    "sd1": {},
    "sd1_inpainting": {"in_channels": 9, "layers_per_block": 2},
    "sd2": SD2,
    "xl": XL | {"projection_class_embeddings_input_dim": 20 + 6 * 8},
    "refiner": XL | {"projection_class_embeddings_input_dim": D + 5 * 8},
    "classes": {"num_class_embeds": 10, "resnet_time_scale_shift": "scale_shift"},
    "upscaler": UPSCALER | {"num_class_embeds": 20},
}
ATTN = ("AttnDownBlock2D",), ("AttnUpBlock2D",)
UNCONDITIONAL = TINY | dict(attention_head_dim=8, down_block_types=("DownBlock2D", *ATTN[0]))
UNCONDITIONAL |= dict(up_block_types=(*ATTN[1], "UpBlock2D"))
PLAINS = {
    "unconditional": {},
    "res_film": dict(
        block_out_channels=(16, 32, 32),
        down_block_types=(*ATTN[0], "ResnetDownsampleBlock2D", *ATTN[0]),
        up_block_types=(*ATTN[1], "ResnetUpsampleBlock2D", *ATTN[1]),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=8,
    ),
    "classes": {"num_class_embeds": 10},
}
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(2, 5, D)).astype(np.float32)
TIME = np.float32([0, 981])


def net_of(model):
    """Our network of a model's config."""
    kind = type(model).__name__
    return make_tower(read_unet(config_of(model), "config.json"), kind)


def converted(model):
    """(our network, its variables); proven the way back."""
    theirs = {key: value.numpy() for key, value in model.state_dict().items()}
    net, table = net_of(model), TABLES[type(model).__name__]
    name = "control" if type(model).__name__ == CONTROL else "unet"
    reads = controlnet.reads if name == "control" else unet.reads
    abstract = jax.eval_shape(net.init, jax.random.key(0), *reads(net, D))["params"]
    shapes = {path: leaf.shape for path, leaf in flatten({name: abstract}).items()}
    tree = to_ours(table, renamed(from_arrays(theirs)), shapes, name)
    back = to_theirs(table, tree)
    assert back.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
    return net, {"params": unflatten(tree)[name]}


def given(net):
    """Random conditions of our network, and as diffusers takes them."""
    ours, theirs = Condition(), {}
    if net.cross:
        ours = ours._replace(context=STATES)
        theirs["encoder_hidden_states"] = torch.from_numpy(STATES)
    if net.classes:
        ours = ours._replace(labels=np.int32([3, 7]))
        theirs["class_labels"] = torch.tensor([3, 7])
    if net.pooled_width:
        pooled = RNG.normal(size=(2, net.pooled_width)).astype(np.float32)
        ids = np.float32([[1024, 768, 0, 64, 1024, 1024], [512, 512, 9, 0, 1024, 768]])
        ids = ids[:, : net.time_ids]
        ours = ours._replace(pooled=pooled, time_ids=ids)
        more = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(ids.copy())}
        theirs["added_cond_kwargs"] = more
    return ours, theirs


def halved(config):
    """Of a ControlNet, which has no way up."""
    return {key: value for key, value in config.items() if key != "up_block_types"}


def latents(net):
    return RNG.normal(size=(2, 8, 16, net.in_channels)).astype(np.float32)


def compare(model, name):
    net, variables = converted(model)
    ours, theirs = given(net)
    x = latents(net)
    with torch.no_grad():
        wanted = channels_last(model(channels_first(x), torch.from_numpy(TIME), **theirs).sample)
    found = jax.jit(net.apply)(variables, x, TIME, ours)
    assert wanted.std() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_diffusers(name):
    torch.manual_seed(0)
    compare(randomise(CROSS(**SD1 | UP | CASES[name])), name)


@pytest.mark.parametrize("name", PLAINS)
def test_plain_outputs_are_those_of_diffusers(name):
    torch.manual_seed(0)
    compare(randomise(PLAIN(**UNCONDITIONAL | PLAINS[name])), name)


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_controlnet(kind):
    """What it adds, and the U-Net's output with it."""
    torch.manual_seed(0)
    changes = CASES[kind]
    base = randomise(CROSS(**SD1 | UP | changes))
    hints = dict(conditioning_embedding_out_channels=(8, 12, 16, 20))
    control = randomise(HINTED(**halved(SD1 | changes | hints)))
    net, variables = converted(base)
    hinted, weights = converted(control)
    ours, theirs = given(net)
    x, hint = latents(net), RNG.uniform(size=(2, 64, 128, 3)).astype(np.float32)
    seen = channels_first(x), torch.from_numpy(TIME)
    run, whole = jax.jit(hinted.apply), jax.jit(net.apply)
    with torch.no_grad():
        more = dict(controlnet_cond=channels_first(hint), **theirs)
        for scale, guess in ((1.0, False), (0.5, True)):
            how = dict(conditioning_scale=scale, guess_mode=guess, return_dict=False)
            skips, middle = control(*seen, **more, **how)
            wanted = Residuals(tuple(map(channels_last, skips)), channels_last(middle))
            found = controlnet.scaled(run(weights, x, TIME, ours, hint), scale, guess)
            assert len(found.skips) == len(wanted.skips)
            for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                assert np.abs(two).max() > 0.01
                np.testing.assert_allclose(one, two, atol=1e-4, err_msg=f"{kind} added")
        theirs["down_block_additional_residuals"] = skips
        out = channels_last(base(*seen, mid_block_additional_residual=middle, **theirs).sample)
    result = whole(variables, x, TIME, ours._replace(control=found))
    np.testing.assert_allclose(result, out, atol=1e-4, err_msg=f"{kind} with control")
    assert np.abs(result - whole(variables, x, TIME, ours)).max() > 0.01


def test_old_attention_names_are_read():
    """Of UNet2DModel's plain attentions (CompVis/ldm-celebahq-256)."""
    names = {"mid_block.attentions.0.query.weight": 0, "mid_block.attentions.0.proj_attn.bias": 0}
    names |= {"down_blocks.0.attentions.1.group_norm.weight": 0, "conv_in.query.weight": 0}
    wanted = ("to_q.weight", "to_out.0.bias", "group_norm.weight", "conv_in.query.weight")
    assert all(name.endswith(end) for name, end in zip(renamed(names), wanted, strict=True))


ALL = [(CROSS, SD1 | UP | changes) for changes in CASES.values()]
ALL += [(PLAIN, UNCONDITIONAL | changes) for changes in PLAINS.values()]
ALL += [(HINTED, halved(SD1)), (HINTED, halved(SD1 | CASES["xl"]))]


@pytest.mark.parametrize("kind, config", ALL)
def test_configs_both_ways(kind, config):
    model = kind(**config)
    fields = read_unet(config_of(model), "config.json")
    net = make_tower(fields, "unet")
    said = {name: getattr(net, name) for name in type(net).__dataclass_fields__}
    again = kind.from_config(write_unet(said | {"name": fields["name"]}, D))
    found, wanted = (m.state_dict() for m in (again, model))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wanted.items()}
    assert read_unet(config_of(again), "x") == fields


# UNet2DModel has heads of one width alone: those of two sizes are changed for it.
PUBLISHED = ["sd1", "sd2-depth", "sd-x4-upscaler", "sdxl", "sdxl-refiner", "ldm-unconditional"]
PUBLISHED += ["ldm-churches", "ldm-inpainting-big", "ldm-layout"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_tensors_of_diffusers(name):
    fields = SIZES[name][0]
    heads = fields["heads"] if fields.get("cross", True) else [w // 32 for w in fields["widths"]]
    net = make_tower(fields | {"heads": tuple(heads)}, "unet")
    said = {f: getattr(net, f) for f in type(net).__dataclass_fields__} | {"name": "unet"}
    config = write_unet(said, context_width(name))
    with torch.device("meta"):
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    abstract = jax.eval_shape(net.init, jax.random.key(0), *unet.reads(net, context_width(name)))
    shapes = {path: leaf.shape for path, leaf in flatten({"unet": abstract["params"]}).items()}
    assert their_shapes(TABLES[config["_class_name"]], shapes) == wanted
