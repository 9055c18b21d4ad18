"""Models of our own sizes and switches, exported: open_clip and transformers load the folders as
they are, their own tokenizer and processor included, and give our embeddings; what comes back needs
no --arch.
"""

import io

import jax
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
open_clip = pytest.importorskip("open_clip", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

from vlp_jax.api.embed import embedders  # noqa: E402
from vlp_jax.api.golden import golden_embeddings  # noqa: E402
from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.api.weights import expected_shapes, split_extra  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.interop.folder import write_folder  # noqa: E402
from vlp_jax.methods.base import make_method  # noqa: E402

IMAGE = dict(name="vit", image_size=32, patch_size=8, width=48, num_layers=2, head_width=24)
TEXT = dict(name="text", context_length=24, width=32, num_layers=2, num_heads=4)
CLIP = dict(mean=(0.48, 0.45, 0.4), std=(0.26, 0.26, 0.27), crop="center", resample="bicubic")
MAP = dict(pool="map", pre_norm=False, conv_bias=True, project=False, norm_eps=1e-6)
SIGLIP = dict(causal=False, pool="last", head_bias=True, norm_eps=1e-6, activation="gelu_tanh")
TRUNK = dict(image_size=256, patch_size=32, width=768, num_layers=12, head_width=64)
BYTES = dict(name="bytes", vocab_size=259)
OPEN_CLIP = {  # image switches, text switches, method and tokenizer
    "quickstart": ({"activation": "quick_gelu"}, {"activation": "quick_gelu"}, {}),
    "gap": ({"pool": "gap", "cls_token": True, "norm_eps": 1e-6}, {"pool": "first"}, {}),
    "gap_norm": (
        {"pool": "gap_norm", "cls_token": True, "pos_embed": "sincos"},
        {"causal": False, "pool": "last", "mlp_ratio": 2.0},
        {},
    ),
    "no pre-norm": (
        {"pre_norm": False, "mlp_ratio": 3.3, "activation": "gelu_tanh"},
        {"head_bias": True, "norm_eps": 1e-3},
        {"tokenizer": "bytes", "vocab_size": 259},
    ),
    "no text projection": ({}, {"project": False, "width": 48}, {"embed_dim": 48}),
    "sigmoid": ({"pos_embed": "sincos"}, {"activation": "gelu_tanh"}, {"name": "siglip"}),
    "resnet": ({"name": "resnet"}, {"activation": "quick_gelu"}, {}),
    "canonical": ({}, {}, {"options": {"clean": "canonicalize"}}),
    "trunk": (
        MAP | TRUNK | {"project": True, "head_bias": True, "activation": "gelu_tanh"},
        SIGLIP | {"head_bias": False, "activation": "quick_gelu"},
        {"name": "siglip", "tokenizer": "bytes", "vocab_size": 259,
         "options": {"clean": "canonicalize"}},
    ),
}  # fmt: skip
HF = {
    "quickstart": ({"activation": "quick_gelu"}, {"activation": "quick_gelu"}, {}),
    "switches": (
        {"activation": "silu", "norm_eps": 1e-3, "mlp_ratio": 3.3, "pos_embed": "sincos"},
        {"activation": "relu", "norm_eps": 1e-6, "mlp_ratio": 2.0},
        {},
    ),
    "bytes": ({}, {}, {"tokenizer": "bytes", "vocab_size": 259}),
    "bytes in a large vocabulary": ({}, {}, {"tokenizer": "bytes", "vocab_size": 49408}),
    "siglip": (
        MAP | {"activation": "gelu_tanh"},
        SIGLIP | {"width": 48},
        {"name": "siglip", "tokenizer": "bytes", "vocab_size": 259, "embed_dim": 48,
         "options": {"clean": "canonicalize"}, "crop": "squash"},
    ),
}  # fmt: skip
TEXTS = ("a photo of a cat", "A man, riding_a wave!  On top", "naïve 日本 ☃", "word " * 40, "")


def write_ours(folder, image, text, how):
    """A converted folder of a random model in which nothing is trivially right."""
    how = {"name": "clip", "tokenizer": "clip", "vocab_size": 49408, "embed_dim": 40} | how
    image = IMAGE | image
    if image["name"] == "resnet":
        image = dict(name="resnet", image_size=32, layers=(1, 1, 1, 2), width=16)
    config = {
        "name": how["name"],
        "embed_dim": how["embed_dim"],
        "image": image,
        "text": TEXT | text | {"vocab_size": how["vocab_size"]},
        "image_mean": CLIP["mean"],
        "image_std": CLIP["std"],
    }
    method, rng = make_method(config), np.random.default_rng(0)
    arrays = {}
    for path, shape in expected_shapes(method).items():
        around = 1.0 if path.endswith(("scale", "var")) and "logit" not in path else 0.0
        scale = 0.3 if len(shape) < 2 or "embed" in path else max(shape) ** -0.5
        arrays[path] = (around + rng.normal(0, scale, shape)).astype(np.float32)
        if path.endswith("var"):
            arrays[path] = np.abs(arrays[path]) + 0.3
    rows = golden_embeddings(method, embedders(method, *split_extra(arrays)))
    crop = how.get("crop", "center")
    length, options = config["text"]["context_length"], how.get("options", {})
    manifest = {
        "arch": "own",
        "method": config,
        "preprocessing": {"image_size": image["image_size"], **CLIP, "crop": crop},
        "tokenizer": {"name": how["tokenizer"], "context_length": length, "options": options},
        "source": "test",
        "golden": {side: [float(x) for x in row] for side, row in rows.items()},
    }
    write_folder(str(folder), arrays, manifest)
    return load_model(str(folder))


def ours(model, files):
    fns, ids = model.embedders(), model.tokenizer()(list(TEXTS))
    pictures = np.stack([model.decode(file) for file in files])
    return fns["image"]({"image": pictures}), fns["text"]({"text": ids}), ids


def square(files):
    """Square pictures: their centre crops are the same to half a pixel in every library."""
    found = []
    for file in files[:3]:
        out = io.BytesIO()
        Image.open(io.BytesIO(file)).convert("RGB").resize((40, 40)).save(out, "PNG")
        found.append(out.getvalue())
    return found


def comes_back(folder, tmp_path, model, image):
    """The export converts back without --arch, to the same embeddings."""
    assert convert.main([str(folder), str(tmp_path / "again")]) == 0
    again = load_model(str(tmp_path / "again"))
    np.testing.assert_array_equal(again.tokenizer()(list(TEXTS)), model.tokenizer()(list(TEXTS)))
    rows = [fns["text"]({"text": model.tokenizer()(list(TEXTS))})
            for fns in (again.embedders(), model.embedders())]  # fmt: skip
    np.testing.assert_allclose(*rows, atol=1e-6)
    for side, row in model.config["golden"].items():
        np.testing.assert_allclose(again.config["golden"][side], row, atol=1e-6)
    assert type(again.method) is type(model.method)
    jax.clear_caches()


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_loads_the_folder_as_it_is(name, tmp_path, picture_files):
    model, out = write_ours(tmp_path / "ours", *OPEN_CLIP[name]), tmp_path / "out"
    assert convert.main([str(tmp_path / "ours"), str(out), "--to=open_clip"]) == 0
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{out}")
    files = square(picture_files)
    image, text, ids = ours(model, files)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    np.testing.assert_array_equal(tokenizer(list(TEXTS)).numpy(), ids)
    pixels = torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])
    with torch.no_grad():
        found = theirs.eval().encode_image(pixels, normalize=True).numpy()
        words = theirs.encode_text(torch.from_numpy(ids).long(), normalize=True).numpy()
    np.testing.assert_allclose(found, image, atol=1e-4)
    np.testing.assert_allclose(words, text, atol=1e-4)
    assert (theirs.logit_bias is not None) == ("logit_bias" in model.params)
    comes_back(out, tmp_path, model, image)


@pytest.mark.parametrize("name", HF)
def test_transformers_loads_the_folder_as_it_is(name, tmp_path, picture_files):
    model, out = write_ours(tmp_path / "ours", *HF[name]), tmp_path / "out"
    assert convert.main([str(tmp_path / "ours"), str(out), "--to=hf"]) == 0
    theirs, report = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    files = square(picture_files)
    image, text, ids = ours(model, files)
    processor = transformers.AutoProcessor.from_pretrained(out)
    ready = processor(
        text=list(TEXTS),
        images=[Image.open(io.BytesIO(file)) for file in files],
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    words = {key: ready[key] for key in ready if key != "pixel_values"}
    found = ready["input_ids"].numpy()
    if model.tokenizer_spec["name"] == "clip":  # transformers pads with the end, unseen
        end = (ids == 49407).argmax(1)
        kept = np.arange(ids.shape[1]) <= end[:, None]
        found = np.where(kept, found, 0)
    np.testing.assert_array_equal(found, ids)
    with torch.no_grad():
        theirs = theirs.eval()
        rows = [
            theirs.get_image_features(pixel_values=ready["pixel_values"]).pooler_output,
            theirs.get_text_features(**words).pooler_output,
        ]
    rows = [torch.nn.functional.normalize(row, dim=-1).numpy() for row in rows]
    np.testing.assert_allclose(rows[0], image, atol=2e-3)  # its resize rounds by one level
    np.testing.assert_allclose(rows[1], text, atol=1e-4)
    comes_back(out, tmp_path, model, image)
