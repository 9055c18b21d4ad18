"""Live parity with open_clip: random weights, real pictures, each side's own preprocessing and
tokenizer."""

import dataclasses
import gc
import io

import jax
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
open_clip = pytest.importorskip("open_clip", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

from vlp_jax.api.embed import embedders  # noqa: E402
from vlp_jax.api.released import method_config  # noqa: E402
from vlp_jax.api.switches import computed, described, unlike  # noqa: E402
from vlp_jax.api.weights import expected_shapes, split_extra  # noqa: E402
from vlp_jax.cli import convert, embed  # noqa: E402
from vlp_jax.data.decode import decode_image  # noqa: E402
from vlp_jax.data.text import load_tokenizer  # noqa: E402
from vlp_jax.interop import open_clip_config  # noqa: E402
from vlp_jax.interop.detect import Checkpoint  # noqa: E402
from vlp_jax.interop.family import families  # noqa: E402
from vlp_jax.interop.preprocess import to_open_clip  # noqa: E402
from vlp_jax.interop.rules import to_ours, to_theirs  # noqa: E402
from vlp_jax.interop.tensors import from_arrays  # noqa: E402
from vlp_jax.methods.base import make_method  # noqa: E402
from vlp_jax.models.archs.clip import ARCHS, clip_arch  # noqa: E402

NAMES = (
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-16",
    "ViT-L-14",
    "RN50",
    "RN50x4",
    "ViT-B-16-SigLIP",
)
SQUASH = dict(
    image_mean=(0.5,) * 3,
    image_std=(0.5,) * 3,
    image_interpolation="bicubic",
    image_resize_mode="squash",
)


def make(name):
    """A random model in which no bias, scale or statistic is trivially right, and its eval
    transform."""
    torch.manual_seed(0)
    how = SQUASH if "SigLIP" in name else {}
    model, _, transform = open_clip.create_model_and_transforms(name, **how)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith(
                ("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")
            ):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval(), transform


def their_embeddings(model, transform, files, ids):
    pixels = torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])
    with torch.no_grad():
        image = model.encode_image(pixels, normalize=True)
        return image.numpy(), model.encode_text(
            torch.from_numpy(ids).long(), normalize=True
        ).numpy()


def numpy_state(model):
    return {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def token_ids(name, texts):
    if "SigLIP" in name:  # its vocabulary is not in the package
        return np.random.default_rng(0).integers(0, 32000, (4, 64)).astype(np.int32)
    theirs = open_clip.get_tokenizer(name)(texts).numpy()
    np.testing.assert_array_equal(theirs, load_tokenizer("clip", context_length=77)(texts))
    return theirs.astype(np.int32)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_and_the_way_back(name, picture_files, texts):
    model, transform = make(name)
    files, ids = picture_files, token_ids(name, texts)
    image, text = their_embeddings(model, transform, files, ids)
    siglip = "SigLIP" in name
    state = numpy_state(model)
    family = families()["open_clip_siglip" if siglip else "open_clip"]
    checkpoint = Checkpoint(name, family, from_arrays(state))
    config, _ = method_config(checkpoint, name)
    method = make_method(config)
    arrays = to_ours(checkpoint.table, checkpoint.state, expected_shapes(method), name)
    fns = embedders(method, *jax.device_put(split_extra(arrays)))
    how = family.release
    pictures = [
        decode_image(file, method.image_tower.image_size, how["crop"], None) for file in files
    ]
    np.testing.assert_allclose(fns["image"]({"image": np.stack(pictures)}), image, atol=1e-5)
    np.testing.assert_allclose(fns["text"]({"text": ids}), text, atol=1e-5)

    back = to_theirs(checkpoint.table, arrays)
    assert {key: value.shape for key, value in back.items()} == {
        key: value.shape for key, value in state.items()
    }
    del state, arrays, fns, checkpoint
    gc.collect()
    model.load_state_dict(
        {key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}
    )
    model.load_state_dict(
        {key: torch.from_numpy(value) for key, value in back.items()}, strict=True
    )
    again = their_embeddings(model, transform, files, ids)
    np.testing.assert_array_equal(again[0], image)
    np.testing.assert_array_equal(again[1], text)
    jax.clear_caches()


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "RN50", "ViT-B-16-SigLIP"])
def test_the_config_that_we_write_builds_the_same_model(name):
    siglip = "SigLIP" in name
    family = families()["open_clip_siglip" if siglip else "open_clip"]
    config, _ = method_config(Checkpoint(name, family, {}), name)
    config["name"] = "siglip" if siglip else "clip"
    written = {
        "model_cfg": open_clip_config.write(described(make_method(config)), siglip),
        "preprocess_cfg": to_open_clip(family.release),
    }
    theirs = open_clip.get_model_config(name)
    cls = (
        open_clip.CustomTextCLIP
        if written["model_cfg"].pop("custom_text", False)
        else open_clip.CLIP
    )
    theirs.pop("custom_text", None)
    theirs["text_cfg"] = {
        k: v for k, v in theirs["text_cfg"].items() if not k.startswith(("hf_", "tokenizer"))
    }
    with torch.device("meta"):
        ours, reference = cls(**written["model_cfg"]), cls(**theirs)
    assert str(ours) == str(reference)
    shapes = {key: tensor.shape for key, tensor in reference.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    assert set(to_open_clip(family.release)) == set(written["preprocess_cfg"])


def test_the_defaults_that_we_read_by_are_open_clips():
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    for ours, theirs in ((open_clip_config._VISION, CLIPVisionCfg),
                         (open_clip_config._TEXT, CLIPTextCfg)):  # fmt: skip
        fields = {field.name: field.default for field in dataclasses.fields(theirs)}
        assert ours == {key: fields[key] for key in ours}


def test_published_configs_are_read_as_our_architectures():
    """What open_clip's own files say is what we named so, and the trunks' exact GELU, which the
    weights of SigLIP never saw."""
    known = set(ARCHS) & set(open_clip.list_models())
    assert len(known) > 20
    for name in known:
        config = open_clip.get_model_config(name)
        read = open_clip_config.read(config, name)
        ours = computed(make_method({"name": read["name"], **clip_arch(name)}))
        acts = {"image.activation", "text.activation"} if "SigLIP" in name else set()
        assert set(unlike(ours, computed(make_method(read)))) == acts, name


def test_trunks_are_what_timm_builds():
    timm = pytest.importorskip("timm")
    for size, places in open_clip_config._PLACES.items():
        for (patch, side), activation in places.items():
            name = f"vit_{size}_patch{patch}_siglip_{side}"
            with torch.device("meta"):
                model = timm.create_model(name)
            block = model.blocks[0]
            hidden = block.mlp.fc1.out_features
            own = (model.embed_dim, len(model.blocks), block.attn.num_heads, hidden)
            assert own == open_clip_config._TRUNKS[size], name
            act = {"GELU": "gelu", "GELUTanh": "gelu_tanh"}[type(block.mlp.act).__name__]
            pool = type(model.attn_pool.mlp.act)
            assert act == activation and pool is type(block.mlp.act), name
            assert model.norm.eps == model.attn_pool.norm.eps == 1e-6


def test_commands_from_a_file_and_back(tmp_path, picture_files, texts):
    model, transform = make("ViT-B-32-quickgelu")
    ids = token_ids("ViT-B-32-quickgelu", texts)
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}},
        tmp_path / "in.pt",
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, file in enumerate(picture_files):
        (folder / f"{index}.{'jpg' if file.startswith(bytes([255])) else 'png'}").write_bytes(file)
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    args = [str(tmp_path / "in.pt"), str(tmp_path / "ours"), "--arch=ViT-B-32-quickgelu"]
    assert convert.main(args) == 0
    args = [
        f"--checkpoint={tmp_path / 'ours'}",
        f"--images={folder}",
        f"--texts={tmp_path / 'texts.txt'}",
    ]
    assert embed.main([*args, f"--out={tmp_path / 'e.npz'}", "--json"]) == 0
    found = np.load(tmp_path / "e.npz")
    files = [(folder / path).read_bytes() for path in found["image_paths"]]
    image, text = their_embeddings(model, transform, files, ids)
    np.testing.assert_allclose(found["image"], image, atol=1e-5)
    np.testing.assert_allclose(found["text"], text, atol=1e-5)
    assert found["logit_scale"] == pytest.approx(float(model.logit_scale.detach().exp()), rel=1e-6)
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=open_clip"]) == 0
    again = open_clip.create_model(f"local-dir:{tmp_path / 'back'}").eval()
    again_image, _ = their_embeddings(again, transform, files, ids)
    np.testing.assert_array_equal(again_image, image)
