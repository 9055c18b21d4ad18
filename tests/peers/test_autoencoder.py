"""Live parity with diffusers' AutoencoderKL and VQModel: random weights by their names, both ways,
and configs both ways.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
diffusers = pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from test_encoders import randomise  # noqa: E402

from vlp_jax.core.pytree import flatten, size, unflatten  # noqa: E402
from vlp_jax.interop.diffusers import renamed  # noqa: E402
from vlp_jax.interop.diffusers_autoencoder import (  # noqa: E402
    TABLE,
    read_autoencoder,
    write_autoencoder,
)
from vlp_jax.interop.rules import to_ours, to_theirs  # noqa: E402
from vlp_jax.interop.tensors import from_arrays  # noqa: E402
from vlp_jax.models.archs.autoencoder import autoencoder  # noqa: E402
from vlp_jax.models.towers import make_tower  # noqa: E402

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
TINY = dict(
    block_out_channels=(16, 32),
    down_block_types=(DOWN, DOWN),
    up_block_types=(UP, UP),
    layers_per_block=1,
    norm_num_groups=8,
)
ATTEND = dict(down_block_types=(DOWN, f"Attn{DOWN}"), up_block_types=(f"Attn{UP}", UP))
KL, VQ = diffusers.AutoencoderKL, diffusers.VQModel
CASES = [
    (KL, {}),
    (KL, ATTEND | {"latent_channels": 3, "layers_per_block": 2}),
    (KL, {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}),
    (VQ, {"num_vq_embeddings": 40, "latent_channels": 3, "vq_embed_dim": 5}),
    (VQ, {"num_vq_embeddings": 40, "mid_block_add_attention": False}),
]
PICTURES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)


def channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def channels_last(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def config_of(model):
    """config.json as it is saved."""
    return {"_class_name": type(model).__name__, **model.config}


def converted(model):
    """(our network, its variables, their tensors, our tree)."""
    theirs = {key: value.numpy() for key, value in model.state_dict().items()}
    net = make_tower(read_autoencoder(config_of(model), "config.json"), "autoencoder")
    abstract = jax.eval_shape(net.init, jax.random.key(0), PICTURES)["params"]
    shapes = {path: leaf.shape for path, leaf in flatten({"autoencoder": abstract}).items()}
    tree = to_ours(TABLE, renamed(from_arrays(theirs)), shapes, "autoencoder")
    return net, {"params": unflatten(tree)["autoencoder"]}, theirs, tree


@pytest.mark.parametrize("kind, changes", CASES)
def test_latents_and_pictures_are_those_of_diffusers(kind, changes):
    torch.manual_seed(0)
    model = randomise(kind(**TINY | changes))
    net, variables, theirs, tree = converted(model)
    run = jax.jit(net.apply, static_argnames="method")
    mean, logvar = run(variables, PICTURES, method="encode")
    with torch.no_grad():
        if kind is KL:
            posterior = model.encode(channels_first(PICTURES)).latent_dist
            wanted = channels_last(posterior.mean)
            np.testing.assert_allclose(logvar, channels_last(posterior.logvar), atol=1e-4)
        else:
            wanted = channels_last(model.encode(channels_first(PICTURES)).latents)
            codes, _, (_, _, index) = model.quantize(channels_first(wanted))
            found = run(variables, wanted, method="quantise")
            np.testing.assert_array_equal(found.index.ravel(), index.numpy())
            assert len(np.unique(index)) > 5
            np.testing.assert_allclose(found.straight, channels_last(codes), atol=1e-6)
            assert logvar is None
        pictures = channels_last(model.decode(channels_first(wanted)).sample)
    np.testing.assert_allclose(mean, wanted, atol=1e-4, err_msg="mean")
    given = found.straight if kind is VQ else wanted
    decoded = run(variables, given, method="decode")
    np.testing.assert_allclose(decoded, pictures, atol=1e-3, err_msg="decode")
    whole = run(variables, PICTURES, method=None)
    np.testing.assert_allclose(whole, pictures, atol=1e-3)
    back = to_theirs(TABLE, tree)
    assert back.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize("kind, changes", CASES)
def test_configs_both_ways(kind, changes):
    model = kind(**TINY | changes)
    fields = read_autoencoder(config_of(model), "config.json")
    net = make_tower(fields, "autoencoder")
    said = {name: getattr(net, name) for name in type(net).__dataclass_fields__}
    again = kind.from_config(write_autoencoder(said, 0.5))
    wanted = kind(**TINY | changes).state_dict()
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in wanted.items()
    }
    assert (
        read_autoencoder(dict(again.config), "x") == fields and again.config.scaling_factor == 0.5
    )


@pytest.mark.parametrize(
    "name", ["kl-f4", "kl-f8", "kl-f16", "kl-f16-noattn", "vq-f8", "vq-f4-noattn"]
)
def test_published_sizes_are_those_of_diffusers(name):
    net = make_tower(autoencoder(name), "autoencoder")
    said = {field: getattr(net, field) for field in type(net).__dataclass_fields__}
    with torch.device("meta"):
        config = write_autoencoder(said)
        model = {"AutoencoderKL": KL, "VQModel": VQ}[config["_class_name"]].from_config(config)
    found = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    assert size(found) == sum(p.numel() for p in model.parameters())


def test_old_names_of_attentions_are_read():
    torch.manual_seed(0)
    model = randomise(KL(**TINY))
    _, _, theirs, tree = converted(model)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    named = {}
    for key, value in theirs.items():
        for today, before in old.items():
            key = key.replace(f".{today}.", f".{before}.")
        named[key] = value
    assert named.keys() != theirs.keys()
    shapes = {path: array.shape for path, array in tree.items()}
    again = to_ours(TABLE, renamed(from_arrays(named)), shapes, "old")
    assert all(np.array_equal(again[path], array) for path, array in tree.items())
