"""Live parity with transformers' CLIPModel and SiglipModel: random weights, real pictures, own
preprocessing."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil  # noqa: E402

from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.cli import convert, embed  # noqa: E402
from vlp_jax.interop.family import families  # noqa: E402


def randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval()


def their_embeddings(model, processor, files, ids):
    pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = model.get_text_features(input_ids=torch.from_numpy(ids).long()).pooler_output
    return [torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in (image, text)]


def write_pictures(folder, files):
    folder.mkdir()
    for index, file in enumerate(files):
        (folder / f"{index}.{'jpg' if file.startswith(bytes([255])) else 'png'}").write_bytes(file)
    return folder


CASES = {
    "ViT-B-32": lambda: transformers.CLIPModel(transformers.CLIPConfig()),
    "ViT-B-16-SigLIP": lambda: transformers.SiglipModel(transformers.SiglipConfig()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_through_the_commands_and_back(name, tmp_path, picture_files, texts):
    siglip = "SigLIP" in name
    model = randomise(CASES[name]())
    processor = SiglipImageProcessorPil() if siglip else CLIPImageProcessorPil()
    model.save_pretrained(tmp_path / "hf")
    processor.save_pretrained(tmp_path / "hf")
    pictures = write_pictures(tmp_path / "pictures", picture_files)
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours"), f"--arch={name}"]) == 0

    args = [
        f"--checkpoint={tmp_path / 'ours'}",
        f"--images={pictures}",
        f"--out={tmp_path / 'e.npz'}",
    ]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    assert embed.main(args if siglip else [*args, f"--texts={tmp_path / 'texts.txt'}"]) == 0
    found = np.load(tmp_path / "e.npz")
    files = [(pictures / path).read_bytes() for path in found["image_paths"]]
    loaded = load_model(str(tmp_path / "ours"))
    if siglip:  # its vocabulary is not in the package
        ids = np.random.default_rng(0).integers(0, 32000, (4, 64)).astype(np.int32)
        our_text = loaded.embedders()["text"]({"text": ids})
    else:
        ids, our_text = loaded.tokenizer()(texts), found["text"]
    image, text = their_embeddings(model, processor, files, ids)
    np.testing.assert_allclose(found["image"], image, atol=1e-5)
    np.testing.assert_allclose(our_text, text, atol=1e-5)
    fast = (transformers.SiglipImageProcessor if siglip else transformers.CLIPImageProcessor)()
    nearly, _ = their_embeddings(
        model, fast, files, ids
    )  # its resize rounds 0.5 % of the pixels by one level
    np.testing.assert_allclose(nearly, image, atol=1e-3 if siglip else 1e-4)
    assert found["logit_scale"] == pytest.approx(
        float(model.logit_scale.detach().exp().squeeze()), rel=1e-6
    )

    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=hf"]) == 0
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    own = type(processor).from_pretrained(tmp_path / "back")
    for ours, theirs in zip(
        their_embeddings(again.eval(), own, files, ids), (image, text), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_exact_gelu_and_heads_come_from_config_json(tmp_path, picture_files, texts):
    """A LAION-style CLIP in Hugging Face form has exact GELU; the same folder may say another
    number of heads."""
    towers = [
        dict(num_hidden_layers=12, hidden_act="gelu"),
        dict(num_hidden_layers=12, hidden_act="gelu"),
    ]
    towers[0]["num_attention_heads"] = 6
    model = randomise(
        transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=towers[0], text_config=towers[1])
        )
    )
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours"), "--arch=ViT-B-32"]) == 0
    loaded = load_model(str(tmp_path / "ours"))
    files, ids = picture_files[:2], loaded.tokenizer()(texts)
    image, text = their_embeddings(model, CLIPImageProcessorPil(), files, ids)
    fns = loaded.embedders()
    pictures = np.stack([loaded.decode(file) for file in files])
    np.testing.assert_allclose(fns["image"]({"image": pictures}), image, atol=1e-5)
    np.testing.assert_allclose(fns["text"]({"text": ids}), text, atol=1e-5)


def test_the_defaults_that_we_read_by_are_transformers():
    for kind, theirs in (("clip", transformers.CLIPConfig), ("siglip", transformers.SiglipConfig)):
        full, read = theirs().to_dict(), families()[f"hf_{kind}"].method
        assert read({"model_type": kind}, "x") == read(full, "x")


def test_other_activations_and_other_words_for_the_end(tmp_path):
    """relu and silu; an end that is not the largest id is looked for as transformers does."""
    towers = [dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, hidden_act=act,
                   num_attention_heads=4) for act in ("silu", "relu")]  # fmt: skip
    vision = dict(towers[0], image_size=32, patch_size=16)
    text = dict(towers[1], vocab_size=99, max_position_embeddings=9, eos_token_id=2)
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    model = randomise(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    loaded = load_model(str(tmp_path / "ours"))
    ids = np.random.default_rng(0).integers(0, 99, (5, 9)).astype(np.int32)
    with torch.no_grad():
        out = model.get_text_features(input_ids=torch.from_numpy(ids).long()).pooler_output
        pixels = loaded.method.prepare(np.full((1, 32, 32, 3), 77, np.uint8), None)
        pixels = torch.from_numpy(np.array(pixels).transpose(0, 3, 1, 2))
        image = model.get_image_features(pixel_values=pixels).pooler_output
    rows = [torch.nn.functional.normalize(row, dim=-1).numpy() for row in (image, out)]
    fns = loaded.embedders()
    np.testing.assert_allclose(fns["text"]({"text": ids}), rows[1], atol=1e-5)
    found = fns["image"]({"image": np.full((1, 32, 32, 3), 77, np.uint8)})
    np.testing.assert_allclose(found, rows[0], atol=1e-5)
