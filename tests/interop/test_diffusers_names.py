"""Tiny models of diffusers: weights under their names give our networks their numbers, and go back
under the same; what our networks have not is refused.

tests/golden/make_diffusers_golden.py made the files; the live peers (tests/peers) go further.
"""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.interop.diffusers import renamed
from vlp_jax.interop.diffusers_autoencoder import TABLE, read_autoencoder, write_autoencoder
from vlp_jax.interop.diffusers_unet import TABLES
from vlp_jax.interop.diffusers_unet_config import read_unet, write_unet
from vlp_jax.interop.rules import their_shapes, to_ours, to_theirs
from vlp_jax.interop.tensors import from_arrays
from vlp_jax.models import controlnet, unet
from vlp_jax.models.archs.unet import SIZES
from vlp_jax.models.towers import make_tower
from vlp_jax.models.unet import Condition

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
MAKER = runpy.run_path(str(GOLDEN / "make_diffusers_golden.py"))
GIVEN = MAKER["inputs"]()
NETWORKS = ("sd1", "xl", "classes", "control")


def made(name):
    """(config, our network, its variables with the formula's weights, golden arrays)."""
    golden = dict(np.load(GOLDEN / "diffusers" / f"{name}.npz"))
    config = json.loads(str(golden.pop("config")))
    if name in NETWORKS:
        fields, table = read_unet(config, name), TABLES[config["_class_name"]]
        part = "control" if name == "control" else "unet"
        net = make_tower(fields, part)
        args = (controlnet if part == "control" else unet).reads(net, 6)
    else:
        part, table = "autoencoder", TABLE
        net = make_tower(read_autoencoder(config, name), part)
        args = (GIVEN["picture"],)
    abstract = jax.eval_shape(net.init, jax.random.key(0), *args)["params"]
    shapes = {path: leaf.shape for path, leaf in flatten({part: abstract}).items()}
    theirs = {k: MAKER["weight"](k, shape) for k, shape in their_shapes(table, shapes).items()}
    tree = to_ours(table, from_arrays(theirs), shapes, name)
    back = to_theirs(table, tree)
    assert back.keys() == theirs.keys()
    assert all(np.array_equal(back[key], array) for key, array in theirs.items())
    return config, net, {"params": unflatten(tree)[part]}, golden


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_autoencoders(name):
    config, net, variables, golden = made(name)
    run = jax.jit(net.apply, static_argnames="method")
    mean, logvar = run(variables, GIVEN["picture"], method="encode")
    np.testing.assert_allclose(mean, golden["mean"], atol=1e-4)
    latent = mean
    if name == "kl":
        np.testing.assert_allclose(logvar, golden["logvar"], atol=1e-4)
    else:
        found = run(variables, golden["mean"], method="quantise")
        np.testing.assert_array_equal(found.index.ravel(), golden["index"])
        latent = found.straight
    decoded = run(variables, latent, method="decode")
    np.testing.assert_allclose(decoded, golden["decoded"], atol=1e-3)
    said = {field: getattr(net, field) for field in type(net).__dataclass_fields__}
    written = write_autoencoder(said, 0.5)
    assert read_autoencoder(written, "x") == read_autoencoder(config, "x")
    assert written["scaling_factor"] == 0.5 and written["_class_name"] == config["_class_name"]


@pytest.mark.parametrize("name", NETWORKS)
def test_unets(name):
    config, net, variables, golden = made(name)
    given = Condition()
    for key, there in (
        ("context", net.cross),
        ("pooled", net.pooled_width),
        ("time_ids", net.time_ids),
        ("labels", net.classes),
    ):
        given = given._replace(**{key: GIVEN[key] if there else None})
    hint = (GIVEN["hint"],) if name == "control" else ()
    latent = GIVEN["latent"][..., : net.in_channels]
    out = jax.jit(net.apply)(variables, latent, GIVEN["time"], given, *hint)
    wanted = [golden[key] for key in sorted(golden, key=lambda key: (key == "middle", key))]
    found = jax.tree.leaves(out)
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    fields = read_unet(config, "x")
    assert read_unet(write_unet({**_said(net), "name": fields["name"]}, 6), "x") == fields


def _said(net):
    return {field: getattr(net, field) for field in type(net).__dataclass_fields__}


def test_numbers_of_sdxl_and_its_refiner_are_told_apart():
    for name, pooled, count in (("sdxl", 1280, 6), ("sdxl-refiner", 1280, 5)):
        fields, width = SIZES[name]
        config = write_unet(_said(make_tower(fields, "unet")) | {"name": "unet"}, width)
        found = read_unet(config, "x")
        assert (found["pooled_width"], found["time_ids"]) == (pooled, count)
        assert read_unet(config, "x", pooled_width=1024)["time_ids"] == count + 1


def test_old_names_of_attentions_are_read():
    names = ("mid_block.attentions.0.query.weight", "mid_block.attentions.0.proj_attn.bias")
    others = ("mid_block.attentions.0.group_norm.bias", "query.weight")
    wanted = ("mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.to_out.0.bias")
    assert tuple(renamed(dict.fromkeys((*names, *others)))) == (*wanted, *others)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("sd1", {"act_fn": "gelu"}, "F: act_fn='gelu' is not read, only 'silu'"),
        ("sd1", {"time_cond_proj_dim": 256}, "F: time_cond_proj_dim=256 is not read"),
        ("sd1", {"_class_name": "UNet2D"}, "F: _class_name 'UNet2D' is no U-Net; did you mean"),
        ("sd1", {"class_embed_type": "timestep"}, "F: class_embed_type 'timestep' is not read"),
        ("sd1", {"layers_per_block": (1, 2)}, "F: layers_per_block"),
        ("sd1", {"addition_embed_type": "text"}, "F: addition_embed_type 'text' is not read"),
        ("sd1", {"attention_head_dim": (1, 2, 4)}, r"F: attention_head_dim \[1, 2, 4\] must have"),
        (
            "sd1",
            {"down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D")},
            "F: down_block_types: 'SimpleCrossAttnDownBlock2D' is not read",
        ),
        (
            "sd1",
            {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
            "F: up_block_types are not down_block_types from the end on",
        ),
        ("xl", {"projection_class_embeddings_input_dim": 21}, "F: projection_class_embeddings_inp"),
        ("kl", {"shift_factor": 0.1}, "F: shift_factor=0.1 is not read"),
        ("kl", {"_class_name": "AutoencoderDC"}, "F: _class_name 'AutoencoderDC' is no autoencod"),
        ("kl", {"use_quant_conv": False}, "F: only in_channels as out_channels and use_quant_conv"),
        ("vq", {"norm_type": "spatial"}, "F: norm_type='spatial' is not read"),
        ("vq", {"down_block_types": ("DownEncoderBlock2D",)}, "F: down_block_types must name 2"),
    ],
)
def test_what_our_networks_have_not_is_one_line(name, changes, message):
    golden = np.load(GOLDEN / "diffusers" / f"{name}.npz")
    config = json.loads(str(golden["config"])) | changes
    with pytest.raises(UserError, match=message) as error:
        (read_unet if name in NETWORKS else read_autoencoder)(config, "F")
    assert "\n" not in str(error.value)


def test_what_diffusers_has_no_class_for_is_refused():
    net = _said(make_tower(SIZES["ldm-churches"][0], "unet")) | {"name": "unet"}
    with pytest.raises(UserError, match="UNet2DModel has heads of one width on all levels"):
        write_unet(net)
    with pytest.raises(UserError, match="no class has transformers and resample='res'"):
        write_unet(net | {"cross": True}, 8)
