"""Live parity of preprocessing: files that transformers, open_clip and timm write or read, pictures
of odd sizes and modes, level by level."""

import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")
open_clip = pytest.importorskip("open_clip", reason="live parity needs the `peers` extra")

from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil  # noqa: E402
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil  # noqa: E402

from vlp_jax.data.decode import decode_framed  # noqa: E402
from vlp_jax.data.framing import Framing  # noqa: E402
from vlp_jax.interop.preprocess import from_hf, from_open_clip, to_hf, to_open_clip  # noqa: E402

SIZES = [(1, 1), (1, 40), (40, 1), (3, 200), (200, 3), (17, 23), (31, 32), (32, 32), (33, 31),
         (64, 48), (75, 20), (20, 75), (61, 37), (449, 100), (37, 1000), (223, 224)]  # fmt: skip
PIL_CLASSES = {"CLIP": CLIPImageProcessorPil, "Siglip": SiglipImageProcessorPil,
               "ViT": ViTImageProcessorPil}  # fmt: skip
SMALL = dict(size={"shortest_edge": 32}, crop_size=32)
SQUARE = dict(size={"height": 32, "width": 32})
HF = {
    "clip": ("CLIP", SMALL),
    "clip of the first releases": ("CLIP", dict(size=32, crop_size=32)),
    "clip, 36 cut to 32": ("CLIP", SMALL | {"size": {"shortest_edge": 36}}),
    "clip, squashed": ("CLIP", SQUARE | {"do_center_crop": False}),
    "clip, squashed and cut to the same": ("CLIP", SQUARE | {"crop_size": 32}),
    "siglip": ("Siglip", SQUARE),
    "vit, int": ("ViT", dict(size=32)),
    "vit, pair": ("ViT", dict(size=[32, 32], image_mean=[0.1, 0.5, 0.9])),
    "vit, cut": ("ViT", SMALL | {"do_center_crop": True}),
    "not normalised": ("CLIP", SMALL | {"do_normalize": False}),
    "not scaled": ("CLIP", SMALL | {"do_rescale": False, "image_mean": 120, "image_std": 60.0}),
    "scaled to -1..1": ("ViT", dict(size=32, rescale_factor=1 / 127.5, image_mean=1, image_std=1)),
    "neither": ("ViT", dict(size=32, do_normalize=False, do_rescale=False)),
    **{f"filter {code}": ("CLIP", SMALL | {"resample": code}) for code in range(6)},
}


def picture(width, height, mode="RGB"):
    """A picture file of noise over a ramp; what lies under full transparency is noise, too."""
    rng = np.random.default_rng(width * 1000 + height)
    bands = len(Image.new(mode, (1, 1)).getbands())
    ramp = np.linspace(60, 190, width)[None, :, None] + np.zeros((height, 1, bands))
    pixels = np.clip(ramp + rng.normal(0, 12, ramp.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if bands == 1 else pixels, mode).save(file, "PNG")
    return file.getvalue()


def levels(how, data):
    """Ours, normalised, and the size of one level of each channel: float[H, W, 3], float[3]."""
    pixels, _ = decode_framed(data, 32, Framing.of(how))
    mean, std = np.asarray(how["mean"]), np.asarray(how["std"])
    return (pixels / 255 - mean) / std, 1 / (255 * std)


def check(how, theirs, exact=True, sizes=SIZES):
    """Every picture: equal, or within a level."""
    for width, height in sizes:
        data = picture(width, height)
        ours, level = levels(how, data)
        apart = np.abs(theirs(data) - ours) / level
        assert apart.max() < (0.01 if exact else 1.01), (width, height, apart.max())


def through(processor):
    def run(data):
        image = Image.open(io.BytesIO(data))
        return np.moveaxis(np.asarray(processor(images=image)["pixel_values"][0]), 0, -1)

    return run


@pytest.mark.parametrize("name", HF)
def test_hugging_face_processors(name, tmp_path):
    kind, said = HF[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    processor = PIL_CLASSES[kind].from_pretrained(tmp_path)
    how = from_hf(said, "here", kind)
    assert how["image_size"] == 32
    check(how, through(processor))
    processor.save_pretrained(tmp_path / "saved")  # as it writes itself, with its class
    written = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert from_hf(written, "here") == how
    (tmp_path / "ours").mkdir()
    ours = to_hf(how, 32, "Siglip" if kind == "Siglip" else "CLIP")
    (tmp_path / "ours" / "preprocessor_config.json").write_text(json.dumps(ours))
    check(how, through(PIL_CLASSES["CLIP"].from_pretrained(tmp_path / "ours")))
    assert from_hf(ours, "here") == how


@pytest.mark.parametrize("kind", PIL_CLASSES)
def test_the_fast_processors_within_a_level(kind):
    said = SMALL if kind == "CLIP" else SQUARE
    processor = getattr(transformers, f"{kind}ImageProcessor")(**said)
    check(from_hf(said, "here", kind), through(processor), exact=False)


@pytest.mark.parametrize("said", [
    {}, {"resize_mode": "squash"}, {"resize_mode": "longest"}, {"interpolation": "bilinear"},
    {"resize_mode": "longest", "fill_color": 128, "mean": 0.5, "std": [0.1, 0.2, 0.3]},
    {"resize_mode": None, "interpolation": "random"},
])  # fmt: skip
def test_open_clip_configs(said):
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    def theirs(config):
        transform = image_transform_v2(PreprocessCfg(**merge_preprocess_dict(config, {})), False)
        return lambda data: np.moveaxis(transform(Image.open(io.BytesIO(data))).numpy(), 0, -1)

    sizes = SIZES
    if said.get("resize_mode") == "longest":  # a side of no pixel is an error there
        sizes = [size for size in SIZES if round(32 * min(size) / max(size))]
    how = from_open_clip(said, "here")
    whole = {"size": 32, **{key: value for key, value in said.items() if value is not None}}
    check(how, theirs(whole), sizes=sizes)
    written = to_open_clip(how)
    assert from_open_clip(written, "here") == how
    check(how, theirs({"size": 32, **written}), sizes=sizes)


MODES = ("RGBA", "LA", "L", "palette", "one value")


def odd_picture(mode):
    """A transparent picture file; noise lies under the transparency."""
    data = picture(61, 37, "RGB" if mode in ("palette", "one value") else mode)
    image, file, options = Image.open(io.BytesIO(data)), io.BytesIO(), {}
    if mode == "palette":
        image, options = image.quantize(64), {"transparency": bytes(range(0, 256, 4))}
    elif mode == "one value":
        options = {"transparency": image.getpixel((30, 18))}
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
@pytest.mark.parametrize("mode", MODES)
def test_transparency_as_both_libraries_read_files(mode, tmp_path):
    """By transformers' own reader of files, and as open_clip's data sets hand pictures on. (One
    transparent colour outlives PIL's conversion as a remark, by which transformers 5.24 then lays
    it on white, in files too: that is not followed.)"""
    from open_clip.transform import image_transform

    data = odd_picture(mode)
    (tmp_path / "a.png").write_bytes(data)
    ours, level = levels(from_hf(SMALL, "here"), data)
    pixels = CLIPImageProcessorPil(**SMALL)(images=str(tmp_path / "a.png"))["pixel_values"][0]
    apart = np.abs(np.moveaxis(pixels, 0, -1) - ours).max()
    assert (apart < 0.01 * level.min()) == (mode != "one value")
    ours, level = levels(from_open_clip({}, "here"), data)
    pixels = image_transform(32, False)(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
    assert np.abs(np.moveaxis(pixels, 0, -1) - ours).max() < 0.01 * level.min()
    if mode != "L":
        white, _ = levels(from_hf(SMALL, "here") | {"alpha": "white"}, data)
        assert np.abs(white - ours).max() > 5 * level.max()


def test_the_crop_of_imagenet_classifiers():
    """timm cuts 0.875 of the shortest side with a centre crop."""
    from timm.data import create_transform

    transform = create_transform(56, crop_pct=0.875, interpolation="bicubic", mean=0, std=1)
    for width, height in SIZES:
        data = picture(width, height)
        mine, _ = decode_framed(data, 56, Framing("center_875"))
        theirs = transform(Image.open(io.BytesIO(data))).numpy() * 255
        assert np.abs(np.moveaxis(theirs, 0, -1) - mine).max() < 0.01, (width, height)
