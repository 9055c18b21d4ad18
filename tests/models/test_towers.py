"""The towers: what each switch does, where a text is pooled, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.core.rng import example_keys
from vlp_jax.models.archs.clip import clip_arch, small_arch
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.resnet import ModifiedResNet
from vlp_jax.models.text import TextTransformer
from vlp_jax.models.towers import make_tower
from vlp_jax.models.vit import ViT

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 16, 16, 3)).astype(np.float32)
IDS = np.int32([[5, 9, 3, 98, 0, 0], [5, 9, 98, 3, 98, 0], [1, 2, 3, 4, 5, 98]])
KEYS = example_keys(jax.random.key(0), 3)


def vit(**changes):
    sizes = dict(image_size=16, patch_size=4, width=16, num_layers=1, embed_dim=6, head_width=8)
    return ViT(**{**sizes, **changes})


def text(**changes):
    sizes = dict(vocab_size=99, context_length=6, width=16, num_layers=1, num_heads=2)
    return TextTransformer(**{**sizes, "embed_dim": 6, **changes})


def shapes(tower, x):
    params = jax.eval_shape(tower.init, jax.random.key(0), x)["params"]
    return {path: leaf.shape for path, leaf in flatten(params).items()}


def init(tower, x):
    return jax.jit(tower.init)(jax.random.key(0), x)


@pytest.mark.parametrize(
    "changes, present, absent",
    [
        ({}, {"cls_token": (16,), "pos_embed": (17, 16), "norm_pre/scale": (16,)}, "head/bias"),
        ({"pool": "gap"}, {"pos_embed": (16, 16), "head/kernel": (16, 6)}, "cls_token"),
        ({"pool": "map", "embed_dim": 0}, {"pool/probe": (16,)}, "head/kernel"),
        ({"pre_norm": False}, {"norm_post/scale": (16,)}, "norm_pre/scale"),
        ({"conv_bias": True, "head_bias": True}, {"head/bias": (6,)}, "pool/probe"),
        ({"mlp_ratio": 2.5}, {"blocks/mlp/fc1/kernel": (1, 16, 40)}, "patch_embed/bias"),
        (
            {"stem": (2,)},
            {"stem/layer_0/kernel": (2, 2, 3, 8), "patch_embed/kernel": (2, 2, 8, 16)},
            "stem/layer_1/kernel",
        ),
    ],
)
def test_vit_switches_show_in_the_tree(changes, present, absent):
    found = shapes(vit(**changes), IMAGES)
    assert present.items() <= found.items() and absent not in found
    assert ("patch_embed/bias" in found) == changes.get("conv_bias", False)
    assert found["blocks/attn/qkv/kernel"] in ((1, 16, 2, 3, 8), (1, 16, 3, 2, 8))


def test_stem_costs_its_products():
    plain, stem = (tower_flops(vit(stem=sides)) for sides in ((), (2,)))
    first, rest = 2 * 8 * 8 * 12 * 8, 2 * 4 * 4 * 32 * 16  # 2x2 pixels to 8, 2x2 of those to 16
    assert stem - plain == first + rest - 2 * 4 * 4 * 48 * 16


@pytest.mark.parametrize("pool, tokens", [("cls", 17), ("gap", 16), ("map", 16)])
def test_vit_pools_and_patch_dropout(pool, tokens):
    tower = vit(pool=pool, patch_dropout=0.5)
    params = init(tower, IMAGES)
    embedding, out = jax.jit(tower.apply)(params, IMAGES)
    assert embedding.shape == (3, 6) and out["tokens"].shape == (3, tokens, 16)
    assert embedding.dtype == out["pooled"].dtype == jnp.float32
    dropped, fewer = jax.jit(tower.apply)(params, IMAGES, KEYS)
    assert fewer["tokens"].shape[1] == tokens - 8, "the class token is never dropped"
    assert np.abs(dropped - embedding).max() > 1e-3
    again = jax.jit(tower.apply)(params, IMAGES[1:], KEYS[1:])[0]
    np.testing.assert_allclose(again, dropped[1:], atol=1e-5)


@pytest.mark.parametrize(
    "tower, x",
    [
        (vit(dropout=0.5), IMAGES),
        (vit(drop_path=0.9, num_layers=2), np.repeat(IMAGES[:1], 16, 0)),
        (text(dropout=0.5), IDS),
    ],
    ids=["vit-dropout", "vit-drop_path", "text-dropout"],
)
def test_each_kind_of_dropout_alone_changes_what_a_tower_gives(tower, x):
    keys = example_keys(jax.random.key(0), len(x))
    params, run = init(tower, x), jax.jit(tower.apply)
    quiet, noisy = (np.asarray(run(params, x, rng)[0]) for rng in (None, keys))
    changed = np.abs(noisy - quiet).max(1) > 1e-3
    assert changed.all() if tower.dropout else changed.mean() > 0.5
    calm = tower.clone(dropout=0.0) if tower.dropout else tower.clone(drop_path=0.0)
    np.testing.assert_allclose(jax.jit(calm.apply)(params, x, keys)[0], quiet, atol=1e-5)


@pytest.mark.parametrize("cls_token", [False, True])
def test_gap_is_the_mean_of_the_patches_normalised_tokens(cls_token):
    tower = vit(pool="gap", embed_dim=0, cls_token=cls_token)
    params = init(tower, IMAGES)
    pooled, out = jax.jit(tower.apply)(params, IMAGES)
    tokens = np.asarray(out["tokens"])
    assert tokens.shape[1] == 16 + cls_token
    np.testing.assert_allclose(pooled, normal(tokens[:, cls_token:]).mean(1), atol=1e-5)
    after = tower.clone(pool="gap_norm")
    norm = {"params": {**params["params"], "fc_norm": params["params"]["norm_post"]}}
    found = jax.jit(after.apply)(norm, IMAGES)[0]
    np.testing.assert_allclose(found, normal(tokens[:, cls_token:].mean(1)), atol=1e-5)


def normal(x):
    """LayerNorm with gain 1 and bias 0."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def test_class_token_and_positions_lie_where_they_belong():
    """With blocks that add nothing, the tokens are what the embedding made."""
    tower = vit()
    params = init(tower, IMAGES)["params"]
    quiet = {
        path: jnp.zeros_like(leaf) if "/out/" in path or "/fc2/" in path else leaf
        for path, leaf in flatten(params).items()
    }
    embedding, out = jax.jit(tower.apply)({"params": unflatten(quiet)}, IMAGES)
    p = {path: np.asarray(leaf, np.float64) for path, leaf in quiet.items()}
    patches = IMAGES.reshape(3, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 16, 48)
    patches = patches @ p["patch_embed/kernel"].reshape(48, 16)
    cls = np.broadcast_to(p["cls_token"], (3, 1, 16))
    tokens = normal(np.concatenate([cls, patches], 1) + p["pos_embed"])
    np.testing.assert_allclose(out["tokens"], tokens, atol=1e-4)
    np.testing.assert_allclose(out["pooled"], normal(tokens[:, 0]), atol=1e-4)
    np.testing.assert_allclose(embedding, normal(tokens[:, 0]) @ p["head/kernel"], atol=1e-4)


def test_text_is_pooled_at_the_first_end_and_nothing_behind_it_matters():
    tower = text()
    params = init(tower, IDS)
    run = jax.jit(tower.apply)
    embedding, out = run(params, IDS)
    for row, place in enumerate((3, 2, 5)):
        np.testing.assert_array_equal(out["pooled"][row], out["tokens"][row, place])
    behind, before = IDS.copy(), IDS.copy()
    behind[0, 4:], behind[1, 3] = 7, 50
    before[:, 1] = 40
    np.testing.assert_allclose(run(params, behind)[0], embedding, atol=1e-6)
    assert np.abs(run(params, before)[0] - embedding).max(1).min() > 1e-3


def test_siglip_text_sees_everything():
    tower = text(causal=False, pool="last", head_bias=True)
    assert shapes(tower, IDS)["head/bias"] == (6,)
    params = init(tower, IDS)
    moved = IDS.copy()
    moved[:, 0] = 77
    run = jax.jit(tower.apply)
    change = run(params, moved)[0] - run(params, IDS)[0]
    assert np.abs(change).max(1).min() > 1e-4


def test_shorter_texts_use_the_first_positions():
    tower = text()
    params = init(tower, IDS)
    short, whole = (jax.jit(tower.apply)(params, ids)[0] for ids in (IDS[:1, :4], IDS[:1]))
    np.testing.assert_allclose(short, whole, atol=1e-6)


@pytest.mark.parametrize(
    "tower, x, message",
    [
        (vit(), IMAGES[:, :12], "pictures are 12x16 but the image tower takes image_size=16"),
        (vit(pool="csl"), IMAGES, "image.pool: unknown 'csl'; did you mean 'cls'"),
        (text(), np.zeros((1, 7), np.int32), "texts of 7 tokens .* context_length=6"),
        (text(pool="frist"), IDS, "did you mean 'first'"),
        (vit(head_width=12), IMAGES, "image.head_width=12 does not divide width=16"),
        (vit(stem=(2, 3)), IMAGES, "image.stem: 2 x 3 does not divide patch_size=4"),
        (vit(stem=(1,)), IMAGES, "image.stem: 1 does not divide patch_size=4"),
        (vit(head_width=32), IMAGES, "image.head_width=32 does not divide width=16"),
        (text(num_heads=3), IDS, "text.num_heads=3 does not divide width=16"),
        (ModifiedResNet(40, (1, 1, 1, 1), 8), np.zeros((1, 40, 40, 3)), "multiple of 32"),
    ],
)
def test_refusals(tower, x, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(tower.init, jax.random.key(0), x)


def test_tower_configs_are_checked_and_may_override():
    config = dict(name="text", width=32, num_heads=2, num_layers=1)
    tower = make_tower(config, "method.text", embed_dim=7, dtype="bfloat16", patch_size=3)
    assert (tower.embed_dim, tower.dtype, tower.width) == (7, "bfloat16", 32)
    assert make_tower({**config, "dtype": "float32"}, "t", dtype="bfloat16").dtype == "float32"
    assert make_tower({**config, "project": False}, "t", embed_dim=7).embed_dim == 0
    with pytest.raises(UserError, match=r"method.text.widht: unknown key; did you mean 'width'"):
        make_tower({**config, "widht": 3}, "method.text")
    with pytest.raises(UserError, match=r"method.image.name: unknown 'vti'; did you mean 'vit'"):
        make_tower({"name": "vti"}, "method.image")


def test_archs_are_fresh_copies_and_typos_are_named():
    clip_arch("ViT-B-32")["image"]["width"] = 1
    assert clip_arch("ViT-B-32")["image"]["width"] == 768
    with pytest.raises(UserError, match="did you mean 'ViT-B-32'"):
        clip_arch("ViT-B32")
    assert small_arch(64, 16, 192, 4)["text"]["num_heads"] == 3


@pytest.fixture(scope="module")
def resnet():
    tower = ModifiedResNet(32, (1, 1, 1, 1), 8, embed_dim=6)
    images = RNG.normal(2, 3, size=(4, 32, 32, 3)).astype(np.float32)
    return tower, images, init(tower, images)


def test_resnet_statistics_move_in_training_only(resnet):
    tower, images, variables = resnet
    keys = example_keys(jax.random.key(0), 4)
    run = jax.jit(lambda keys: tower.apply(variables, images, keys, mutable=["batch_stats"]))
    still, state = run(None)
    kept = {"batch_stats": variables["batch_stats"]}
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a, b)
    (moved, _), state = run(keys)
    first = state["batch_stats"]["stem1"]["bn"]
    convolved = jax.lax.conv_general_dilated(
        images,
        variables["params"]["stem1"]["conv"]["kernel"],
        (2, 2),
        [(1, 1)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean, var = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2))
    np.testing.assert_allclose(first["mean"], 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(first["var"], 0.9 + 0.1 * var, rtol=1e-4)
    assert np.abs(moved - still[0]).max() > 1e-3


def test_resnet_blocks_start_as_identities_and_pool_over_places(resnet):
    _, _, variables = resnet
    flat = flatten(variables["params"])
    assert all(
        (np.asarray(leaf) == (0.0 if "/conv3/" in path else 1.0)).all()
        for path, leaf in flat.items()
        if path.endswith("bn/scale")
    )
    assert flat["attnpool/pos_embed"].shape == (2, 256)  # one place of 32 pixels and the mean
    assert flat["attnpool/query/kernel"].shape == (256, 4, 64)
