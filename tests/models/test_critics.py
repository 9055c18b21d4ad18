"""The patch critic, the scale of latents and LPIPS' maps: sizes, and what each promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.pytree import flatten, size
from vlp_jax.methods.kits.perceptual import maps_of, perceptual_part
from vlp_jax.models.latent_scale import LatentScale
from vlp_jax.models.lpips import LPIPS, STAGES, unit_map
from vlp_jax.models.patch_critic import PatchCritic


def test_patches_of_a_picture_are_judged():
    """taming-transformers' NLayerDiscriminator: 2,765,633 weights at 3 layers, 30 x 30 places."""
    made = jax.eval_shape(
        lambda x: PatchCritic().init_with_output(jax.random.key(0), x),
        jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32),
    )
    assert made[0].shape == (2, 30, 30) and size(made[1]["params"]) == 2_765_633
    assert {p.split("/")[0] for p in flatten(made[1]["batch_stats"])} == {"norm2", "norm3", "norm4"}
    assert "bias" in made[1]["params"]["conv1"] and "bias" not in made[1]["params"]["conv2"]
    two = jax.eval_shape(PatchCritic(layers=2).init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    assert size(two["params"]) == 663_361


def test_norms_start_around_one_and_see_the_batch_in_training():
    net, x = PatchCritic(width=8, layers=1), jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    variables = net.init(jax.random.key(0), x)
    scale = np.asarray(variables["params"]["norm2"]["scale"])
    assert abs(scale.mean() - 1) < 0.05 and 0.005 < scale.std() < 0.04
    quiet = net.apply(variables, x)
    loud, moved = net.apply(variables, x, jax.random.key(2), mutable=["batch_stats"])
    assert np.abs(np.asarray(quiet - loud)).max() > 1e-3
    assert (moved["batch_stats"]["norm2"]["mean"] != 0).all()
    alone = net.apply(variables, x[:1])
    np.testing.assert_allclose(alone, quiet[:1], atol=1e-6)


def test_the_scale_follows_the_latents_where_it_may():
    net, x = LatentScale(momentum=0.5), 3 * jax.random.normal(jax.random.key(1), (4, 8, 8, 2)) + 1
    variables = net.init(jax.random.key(0), x)
    assert flatten(variables) == {"batch_stats/scale": 1}
    assert float(net.apply(variables, x)) == 1
    for _ in range(30):
        _, variables = net.apply(variables, x, mutable=["batch_stats"])
    assert float(variables["batch_stats"]["scale"]) == pytest.approx(1 / float(x.std()), rel=1e-5)


def test_maps_are_unit_vectors_times_the_roots_of_the_heads():
    """All weights alike: every channel of a unit vector is 1 / sqrt(C)."""
    net, x = LPIPS(16), jnp.ones((1, 16, 16, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), shapes)
    params["head2"] = jnp.arange(128.0)
    pooled, out = jax.jit(net.apply)({"params": params}, x)
    for stage, (found, (_, width)) in enumerate(zip(out["maps"], STAGES, strict=True), start=1):
        side, head = 16 >> (stage - 1), params[f"head{stage}"]
        wanted = np.broadcast_to(np.sqrt(head / width), (1, side, side, width))
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert pooled.shape == (1, 1472) and pooled[0, :64] == pytest.approx(0.1 / 8, rel=1e-4)
    assert out["tokens"].shape == (1, 1, 512)


def test_a_place_without_features_has_no_direction_and_a_slope():
    x = jnp.zeros((1, 1, 1, 3)).at[0, 0, 0, 1].set(0.0)
    assert (unit_map(x) == 0).all()
    assert np.isfinite(jax.grad(lambda x: unit_map(x).sum())(x)).all()


def test_any_tower_stands_in():
    """A ResNet by its stages, a ViT by its tokens, under a name that says so."""
    for config, wanted in (
        (dict(name="resnet_v1", depth=18, width_multiplier=0.25, stem="cifar"),
         [(32, 32, 16), (16, 16, 32), (8, 8, 64), (4, 4, 128)]),
        (dict(name="vit", patch_size=8, width=32, num_layers=1, head_width=16), [(17, 1, 32)]),
    ):  # fmt: skip
        (name, part), = perceptual_part(config, 32, "method.perceptual").items()  # fmt: skip
        run = lambda x, part=part: part.net.init_with_output(jax.random.key(0), x)[0][1]  # noqa: E731
        out = jax.eval_shape(run, part.inputs[0])
        assert [m.shape[1:] for m in jax.eval_shape(maps_of, out)] == wanted
        assert name == "features" and part.frozen
    assert perceptual_part({"name": "lpips"}, 32, "x").keys() == {"lpips"}
    assert perceptual_part({}, 32, "x") == {}
