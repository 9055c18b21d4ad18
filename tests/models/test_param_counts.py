"""Every released size exists and its parameter count is the published one, to the last weight."""

import copy

import jax
import pytest

from vlp_jax.core.dispatch import load
from vlp_jax.core.pytree import size
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.align import align_arch
from vlp_jax.models.archs.blip import ARCHS as BLIP
from vlp_jax.models.archs.clip import ARCHS, clip_arch, is_siglip

EXACT = {
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "RN50x4": 178_300_601,
    "RN50x16": 290_979_217,
    "RN50x64": 623_258_305,
    "ViT-B-32": 151_277_313,
    "ViT-B-16": 149_620_737,
    "ViT-L-14": 427_616_513,
    "ViT-L-14-336": 427_944_193,
    "ViT-H-14": 986_109_441,
    "ViT-g-14": 1_366_678_273,
    "ViT-bigG-14": 2_539_567_105,
    "ViT-B-16-plus-240": 208_377_345,
    "ViT-B-16-SigLIP": 203_155_970,
}


def count(name):
    method = make_method({"name": "siglip" if is_siglip(name) else "clip", **clip_arch(name)})
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    return size(params), method


@pytest.mark.parametrize("name", EXACT)
def test_exact_parameter_count(name):
    assert count(name)[0] == EXACT[name]


# transformers: BertModel with its pooler; ViTModel without (timm's vit_base_patch16_224 of 0
# classes). The files of models/archs.
ALONE = {
    "bert": {"bert-base-uncased": 109_482_240, "bert-large-uncased": 335_141_888},
    "vit": {"ViT-B-16": 85_798_656, "ViT-L-16": 303_301_632},
}


@pytest.mark.parametrize("file, name", [(f, name) for f, names in ALONE.items() for name in names])
def test_networks_alone(file, name):
    method = make_method({"name": "encoder", **load("models.archs", file, "").ARCHS[name]})
    assert size(jax.eval_shape(method.init, jax.random.key(0))[0]) == ALONE[file][name]


# transformers' AlignModel (289 pixels, 640 numbers): all, its vision model, its text model and
# projection.
def test_align():
    method = make_method({"name": "align", **align_arch("align-base")})
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    counts = {part: size(tree) for part, tree in params.items()}
    assert counts == {"image": 62_143_440, "text": 109_482_240 + 492_160, "temperature": 1}
    assert sum(counts.values()) == 172_117_841


@pytest.mark.parametrize("name", sorted(set(ARCHS) - set(EXACT)))
def test_quickgelu_and_larger_inputs_change_no_count_but_positions(name):
    base = name.removesuffix("-quickgelu")
    if base in EXACT:
        assert count(name)[0] == EXACT[base]
    else:
        assert count(name)[0] > 200e6  # the larger SigLIP sizes; open_clip publishes no exact count


# Forward GFLOP of a picture and a text of full length, as tabled for open_clip.
GFLOPS = {"ViT-B-32": 14.8, "ViT-B-16": 41.1, "ViT-L-14": 175.3, "ViT-H-14": 382, "RN50": 18.2}


@pytest.mark.parametrize("name", GFLOPS)
def test_flops_formula(name):
    counted = 0.04 if name.startswith("RN") else 0.02  # the table counts BatchNorm and pooling too
    assert count(name)[1].flops() / 1e9 == pytest.approx(GFLOPS[name], rel=counted)


# transformers' classes at 384 and, of matching, at 224 pixels (facts of its own modules); the
# paper's 252 M, of all that pre-training has, and its Table 3.
@pytest.mark.parametrize(
    "name, changes, wanted",
    [
        ("blip-image-captioning-base", {}, 223_971_644),
        ("blip-itm-base", {"image": {"image_size": 224}}, 223_452_418 + 1),  # a temperature
        ("blip-base", {}, 252_441_919),
        ("blip-base", {"text": {"share": "all"}}, 224_075_071),
        ("blip-base", {"text": {"share": "except_cross_attention"}}, 252_441_919),
        ("blip-base", {"text": {"share": "none"}}, 361_333_567),
        ("blip-image-captioning-large", {}, 446_290_492),
    ],
)
def test_blip(name, changes, wanted):
    arch = copy.deepcopy(BLIP[name])
    for part, fields in changes.items():
        arch[part] |= fields
    params, _ = jax.eval_shape(make_method({"name": "blip", **arch}).init, jax.random.key(0))
    assert size(params) == wanted


# salesforce/BLIP's blip_nlvr, base at 384 pixels; as LAVIS builds it.
def test_blip_of_two_pictures():
    arch = copy.deepcopy(BLIP["blip-base"])
    arch["image"]["image_size"] = 384
    arch["text"] |= {"roles": "encoder", "merge_from": 6}
    method = make_method({"name": "blip_nlvr", **arch})
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    square = 768 * 768 + 768
    whole = 223_452_418 + (577 - 197) * 768 - 2 * (768 + 1) - 2 * (768 + 1) * 256  # the ITM class
    more = 12 * 4 * square + 6 * (2 * 768 * 768 + 768) + square + 2 * 769
    assert size(params) == whole + more == 259_372_034
