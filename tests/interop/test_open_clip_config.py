"""What open_clip builds from a config: expectations are written by hand from open_clip's classes,
never by the writer."""

import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.interop import open_clip_config
from vlp_jax.interop.hf import image_side, mlp_ratio

TRUNK = {"timm_model_name": "vit_large_patch16_siglip_512", "timm_pool": "map", "timm_proj": "none"}
LAYERS = {"activation": "gelu", "norm_eps": 1e-5}


def read(vision=None, text=None, **model):
    config = {"embed_dim": 64, "vision_cfg": vision or {}, "text_cfg": text or {}, **model}
    return open_clip_config.read(config, "here")


def test_an_empty_config_is_open_clips_default():
    assert read() == {
        "name": "clip",
        "embed_dim": 64,
        "image": dict(
            name="vit", image_size=224, patch_size=16, width=768, num_layers=12, head_width=64,
            mlp_ratio=4.0, pool="cls", cls_token=True, pos_embed="learned", pre_norm=True,
            conv_bias=False, head_bias=False, **LAYERS,
        ),
        "text": dict(
            name="text", vocab_size=49408, context_length=77, width=512, num_layers=12, num_heads=8,
            mlp_ratio=4.0, causal=True, pool="argmax", head_bias=False, project=True, **LAYERS,
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "vision, expected",
    [
        ({"pool_type": "avg"}, {"pool": "gap"}),
        ({"pool_type": "avg", "final_ln_after_pool": True}, {"pool": "gap_norm"}),
        ({"final_ln_after_pool": True}, {"pool": "cls"}),
        ({"no_ln_pre": True}, {"pre_norm": False}),
        ({"pos_embed_type": "sin_cos_2d"}, {"pos_embed": "sincos"}),
        ({"norm_kwargs": {"eps": 1e-6}}, {"norm_eps": 1e-6}),
        ({"act_kwargs": {"approximate": "tanh"}}, {"activation": "gelu_tanh"}),
        ({"image_size": [96, 96], "layers": 3}, {"image_size": 96, "num_layers": 3}),
        ({"head_width": 32, "mlp_ratio": 2.5}, {"head_width": 32, "mlp_ratio": 2.5}),
        ({"patch_dropout": 0.5, "qk_norm": False, "output_tokens": True}, {}),
    ],
)
def test_switches_of_the_image_tower(vision, expected):
    found = read(vision)["image"]
    assert found == read()["image"] | expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ({"no_causal_mask": True, "pool_type": "last"}, {"causal": False, "pool": "last"}),
        ({"pool_type": "first"}, {"pool": "first"}),
        ({"pool_type": "eos", "eos_id": 49407}, {"pool": "argmax"}),
        ({"proj_bias": True}, {"head_bias": True}),
        ({"proj_type": "none", "proj_bias": True}, {"project": False}),
        ({"norm_kwargs": {"eps": 1e-6}, "mlp_ratio": 3.0}, {"norm_eps": 1e-6, "mlp_ratio": 3.0}),
        ({"heads": 4, "layers": 2, "width": 64}, {"num_heads": 4, "num_layers": 2, "width": 64}),
        ({"hf_tokenizer_name": "x", "tokenizer_kwargs": {"clean": "lower"}, "pad_id": 1}, {}),
    ],
)
def test_switches_of_the_text_tower(text, expected):
    assert read(text=text)["text"] == read()["text"] | expected


def test_quick_gelu_reaches_both_of_open_clips_towers_and_no_other():
    found = read(quick_gelu=True)
    assert [found[side]["activation"] for side in ("image", "text")] == ["quick_gelu"] * 2
    trunk = read(TRUNK, quick_gelu=True)
    assert trunk["image"]["activation"] == "gelu_tanh"  # timm's large trunk at 512
    assert trunk["text"]["activation"] == "quick_gelu"
    assert "activation" not in read({"layers": [1, 1, 1, 1]}, quick_gelu=True)["image"]


def test_trunks_of_timm_are_what_their_names_say():
    found = read(TRUNK, init_logit_bias=-10)
    assert found["name"] == "siglip"
    assert found["image"] == dict(
        name="vit", image_size=512, patch_size=16, width=1024, num_layers=24, head_width=64,
        mlp_ratio=4.0, pool="map", pos_embed="learned", pre_norm=False, conv_bias=True,
        head_bias=False, project=False, activation="gelu_tanh", norm_eps=1e-6,
    )  # fmt: skip
    base = read(TRUNK | {"timm_model_name": "vit_base_patch16_siglip_224"})["image"]
    assert (base["activation"], base["width"], base["num_layers"]) == ("gelu", 768, 12)
    so = TRUNK | {"timm_model_name": "vit_so400m_patch14_siglip_384", "timm_proj": "linear"}
    so = read(so | {"timm_proj_bias": True})["image"]
    assert int(so["width"] * so["mlp_ratio"]) == 4304 and so["head_width"] == 72
    assert so["project"] and so["head_bias"]


def test_a_resnet_has_four_stages():
    found = read({"layers": [3, 4, 6, 3], "width": 64, "image_size": 224, "patch_size": None})
    expected = {"name": "resnet", "layers": (3, 4, 6, 3), "width": 64, "image_size": 224}
    assert found["image"] == expected
    for wrong in ({"layers": [1, 1]}, {"layers": [1, 1, 1, 1], "head_width": 32}):
        with pytest.raises(UserError, match="four stages and head_width 64"):
            read(wrong)


@pytest.mark.parametrize(
    "model, message",
    [
        (dict(vision={"ls_init_value": 1e-5}), "vision_cfg.ls_init_value=1e-05 is not known"),
        (dict(vision={"attentional_pool": True}), "vision_cfg.attentional_pool"),
        (dict(vision={"pos_embed_type": "rope"}), "vision_cfg.pos_embed_type='rope'"),
        (dict(vision={"pool_type": "max"}), "vision_cfg.pool_type='max'"),
        (dict(vision={"image_size": [32, 64]}), r"\[32, 64\] is not square"),
        (dict(vision={"norm_kwargs": {"bias": False}}), "bias"),
        (dict(vision={"act_kwargs": {"approximate": "x"}}), "approximate"),
        (dict(vision={"timm_model_name": "convnext_base"}), "'convnext_base' is not known"),
        (dict(vision=TRUNK | {"timm_pool": "avg"}), "is not known; SigLIP's trunks"),
        (dict(vision={"timm_model_name": "vit_base_patch16_siglip_300"}), "siglip_300"),
        (dict(text={"embed_cls": True}), "text_cfg.embed_cls=True"),
        (dict(text={"hf_model_name": "bert"}), "text_cfg.hf_model_name='bert'"),
        (dict(text={"pool_type": "eos", "eos_id": 7}), "text_cfg.pool_type='eos'"),
        (dict(text={"act_kwargs": {"approximate": "tanh"}}, quick_gelu=True), "text_cfg"),
        (dict(multimodal_cfg={"width": 1}), "model_cfg.multimodal_cfg"),
    ],
)
def test_what_our_towers_have_not_is_refused(model, message):
    with pytest.raises(UserError, match=f"here: .*{message}|here: {message}") as error:
        read(**model)
    assert "\n" not in str(error.value)


def test_widths_of_the_mlp_come_back():
    """hidden / width times width may be a unit short, as for 61 at width 448."""
    assert int(448 * (61 / 448)) == 60 and int(448 * mlp_ratio(448, 61)) == 61
    assert mlp_ratio(768, 3072) == 4.0
    assert image_side(32, "x") == image_side([32, 32], "x") == 32
