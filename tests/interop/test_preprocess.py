"""Preprocessing files: every form that releases use, both ways, and what is refused in one line."""

import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    SOURCE,
    from_hf,
    to_hf,
    to_open_clip,
)

CENTER = {"crop": "center_floor", "share": 1.0, "image_size": 224}
SQUASH = {"crop": "squash", "image_size": 224}
HF = {  # (file, class where it names none): what it says beside the class's own values
    "clip alone": ({}, "CLIP", CENTER),
    "siglip alone": ({}, "Siglip", SQUASH),
    "vit alone": ({}, "ViT", SQUASH),
    "clip's int is the shortest side": ({"size": 224, "crop_size": 224}, "CLIP", CENTER),
    "vit's int is a square": ({"size": 224}, "ViT", SQUASH),
    "256 cut to 224": ({"size": {"shortest_edge": 256}, "crop_size": 224}, "CLIP",
                       CENTER | {"share": 0.875}),
    "vit cut": ({"size": {"shortest_edge": 224}, "do_center_crop": True}, "ViT", CENTER),
    "another size": ({"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
                     "CLIP", CENTER | {"image_size": 336}),
    "square and no crop": ({"size": {"height": 224, "width": 224}, "do_center_crop": False}, "CLIP",
                           SQUASH),
    "square and the same crop": ({"size": [224, 224], "crop_size": 224}, "CLIP", SQUASH),
    "named by its file": ({"image_processor_type": "SiglipImageProcessor"}, "CLIP", SQUASH),
    "an old name": ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, "CLIP", SQUASH),
    "a fast name": ({"image_processor_type": "CLIPImageProcessorFast"}, "ViT", CENTER),
    "nulls are unsaid": ({"size": None, "do_resize": None, "do_center_crop": None}, "CLIP", CENTER),
    "no conversion": ({"do_convert_rgb": False}, "CLIP", CENTER),
    "filters by number": ({"resample": 1}, "CLIP", CENTER | {"resample": "lanczos"}),
    "filters by name": ({"resample": "box"}, "CLIP", CENTER | {"resample": "box"}),
    "own numbers": ({"image_mean": [0.1, 0.2, 0.3], "image_std": 0.5}, "CLIP",
                    CENTER | {"mean": (0.1, 0.2, 0.3), "std": HALF}),
}  # fmt: skip
OWN = {
    "CLIP": {"mean": CLIP_MEAN, "std": CLIP_STD, "resample": "bicubic"},
    "Siglip": {"mean": HALF, "std": HALF, "resample": "bicubic"},
    "ViT": {"mean": HALF, "std": HALF, "resample": "bilinear"},
}


@pytest.mark.parametrize("name", HF)
def test_forms_of_hugging_face(name):
    said, kind, expected = HF[name]
    own = {"named by its file": "Siglip", "an old name": "ViT", "a fast name": "CLIP"}
    assert from_hf(said, "here", kind) == SOURCE | OWN[own.get(name, kind)] | expected


def test_scales_are_folded_into_mean_and_std():
    """(x r - m) / s of a byte x, whatever r is and whatever is left out."""
    byte = 51  # 0.2 of 255
    for said, expected in (
        ({"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1}, 0.4 - 1),
        ({"rescale_factor": 1 / 127.5, "do_normalize": False}, 0.4),
        ({"do_rescale": False, "image_mean": 120, "image_std": 60}, (51 - 120) / 60),
        ({"do_rescale": False, "do_normalize": False}, 51),
        ({"do_normalize": False}, 0.2),
    ):
        how = from_hf(said, "here", "ViT")
        assert (byte / 255 - how["mean"][2]) / how["std"][0] == pytest.approx(expected), said
    assert from_hf({"rescale_factor": 0.00392156862745098}, "here")["mean"] == CLIP_MEAN


@pytest.mark.parametrize("said,message", [
    ({"do_resize": False}, "do_resize False cannot be followed"),
    ({"do_pad": True}, "do_pad True cannot be followed"),
    ({"do_center_crop": False}, "size {'shortest_edge': 224} with no crop cannot be followed"),
    ({"crop_size": 256}, "with crop_size 256 cannot be followed"),
    ({"crop_size": {"height": 224, "width": 192}}, "crop_size .* must be squares"),
    ({"size": {"height": 224, "width": 192}}, "size .* must be squares"),
    ({"size": {"height": 200, "width": 200}}, "with crop_size 224 cannot be followed"),
    ({"size": {"longest_edge": 224}}, "size .* must be squares"),
    ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "size .* must be squares"),
    ({"size": "224"}, "size '224' must be a whole number"),
    ({"size": {"shortest_edge": 0}}, "size 0 must be a whole number of at least 1"),
    ({"resample": 6}, "resampling 6 is not known"),
    ({"resample": "cubic"}, "resampling 'cubic' is not known"),
    ({"rescale_factor": 0}, "rescale_factor 0 must be .* above 0"),
    ({"image_std": [1, 1]}, "image_std .* must be three numbers"),
    ({"image_mean": ["0.5"] * 3}, "image_mean .* must be three numbers"),
    ({"image_processor_type": "ViTImageProccessor"}, "did you mean 'ViTImageProcessor'"),
    ({"image_processor_type": "ConvNextImageProcessor"}, "'ConvNextImageProcessor' is not known"),
])  # fmt: skip
def test_what_cannot_be_followed_is_refused_in_one_line(said, message):
    with pytest.raises(UserError, match=f"^p.json: .*{message}") as error:
        from_hf(said, "p.json")
    assert "\n" not in str(error.value)


def test_siglip_with_an_int_leaves_the_aspect():
    with pytest.raises(UserError, match="size 224 with no crop"):
        from_hf({"size": 224}, "here", "Siglip")


def test_forms_of_open_clip():
    own = SOURCE | OWN["CLIP"] | {"crop": "center"}  # its PreprocessCfg where the file is silent
    for said, changed in (
        ({"resize_mode": "longest"}, {"crop": "pad"}),
        ({"fill_color": 9}, {"fill": 9}),
        ({"interpolation": "bilinear"}, {"resample": "bilinear"}),
    ):
        assert preprocess.from_open_clip(said, "here") == own | changed
    unsaid = {"resize_mode": None, "interpolation": "random", "size": 224, "mode": "RGB"}
    assert preprocess.from_open_clip(unsaid, "here") == own
    numbers = preprocess.from_open_clip({"mean": 0.5, "std": [1, 2, 3]}, "here")
    assert numbers["mean"] == HALF and numbers["std"] == (1, 2, 3)
    for said, message in (
        ({"resize_mode": "squish"}, "resize_mode 'squish' is not known; did you mean 'squash'"),
        ({"interpolation": "lanczos"}, "resampling 'lanczos' is not known"),
        ({"fill_color": [0, 0, 0]}, "fill_color .* whole number"),
        ({"std": 0}, "std 0 must be three numbers above 0"),
    ):
        with pytest.raises(UserError, match=f"^here: {message}"):
            preprocess.from_open_clip(said, "here")


BASE = SOURCE | OWN["CLIP"]


def test_what_is_written_to_hugging_face_comes_back():
    for how in (
        {"crop": "center_floor"},
        {"crop": "center_floor", "share": 0.875},
        {"crop": "squash"},
        {"crop": "squash", "resample": "lanczos"},
        {"crop": "squash", "resample": "nearest"},
    ):
        how = BASE | how
        assert from_hf(to_hf(how, 224, "CLIP"), "x") == how | {"image_size": 224}
    written = to_hf(BASE | {"crop": "center_875"}, 224, "CLIP")
    assert written["size"] == {"shortest_edge": 256} and written["crop_size"]["width"] == 224
    assert from_hf(written, "x")["share"] == 0.875
    assert to_hf(BASE | {"crop": "center"}, 224, "CLIP")["do_center_crop"]
    for crop in ("pad", "random"):
        with pytest.raises(UserError, match=f"--to=hf: its config cannot say the crop '{crop}'"):
            to_hf(BASE | {"crop": crop}, 224, "CLIP")


def test_what_is_written_to_open_clip_comes_back():
    for how in ({"crop": "center"}, {"crop": "squash"}, {"crop": "pad", "fill": 255},
                {"crop": "center", "resample": "bilinear"}):  # fmt: skip
        assert preprocess.from_open_clip(to_open_clip(BASE | how), "x") == BASE | how
    assert to_open_clip(BASE | {"crop": "center_floor"})["resize_mode"] == "shortest"
    for how, message in (
        ({"crop": "center_875"}, "the crop 'center_875' of 0.875 of the shortest side"),
        ({"crop": "center", "share": 0.5}, "the crop 'center' of 0.5 of"),
        ({"crop": "random"}, "the crop 'random'"),
        ({"crop": "center", "resample": "lanczos"}, "the filter 'lanczos'"),
    ):
        with pytest.raises(UserError, match=f"^--to=open_clip: its config cannot say {message}"):
            to_open_clip(BASE | how)


def test_what_the_other_library_does_otherwise_is_noted():
    assert preprocess.unsaid(BASE | {"crop": "center_floor"}, "center_floor") == []
    assert preprocess.unsaid(BASE | {"crop": "center"}, "center") == []
    assert preprocess.unsaid(BASE | {"crop": "squash"}, "center_floor") == []
    assert "odd rest" in preprocess.unsaid(BASE | {"crop": "center"}, "center_floor")[0]
    (note,) = preprocess.unsaid(BASE | {"crop": "squash", "alpha": "white"}, "center")
    assert "transparent" in note


def test_pictures_of_another_size_than_the_model_are_refused():
    assert preprocess.for_model({"a": 1}, 32, "here") == {"a": 1, "image_size": 32}
    assert preprocess.for_model({"image_size": 32}, 32, "here") == {"image_size": 32}
    for size in (16, 48):
        with pytest.raises(UserError, match=rf"here: .* of 32 pixels, the model takes {size}"):
            preprocess.for_model({"image_size": 32}, size, "here")
