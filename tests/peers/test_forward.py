"""`forward` and `similarity` against transformers: the same arrays, the same numbers."""

import csv

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

from vlp_jax.__main__ import main  # noqa: E402

SIZE, LENGTH, VOCAB = 32, 9, 300
MEAN, STD = np.float32([[0.5, 0.4, 0.3], [0.25, 0.3, 0.35]])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(their model, folder of ours)."""
    folder = tmp_path_factory.mktemp("forward")
    size = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    vision = dict(size, image_size=SIZE, patch_size=16)
    text = dict(size, vocab_size=VOCAB, max_position_embeddings=LENGTH, eos_token_id=2)
    torch.manual_seed(0)
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    model.save_pretrained(folder / "hf")
    how = dict(do_resize=True, size={"shortest_edge": SIZE}, crop_size=SIZE, do_center_crop=True)
    how |= dict(image_mean=MEAN.tolist(), image_std=STD.tolist())
    transformers.CLIPImageProcessor(**how).save_pretrained(folder / "hf")
    assert main(["convert", *(str(folder / n) for n in ("hf", "ours")), "--tokenizer=bytes"]) == 0
    return model, folder / "ours"


def pixels(images):
    ready = (images / np.float32(255) - MEAN) / STD
    return torch.from_numpy(ready.transpose(0, 3, 1, 2).copy())


def rows(tensor):
    return torch.nn.functional.normalize(getattr(tensor, "pooler_output", tensor), dim=-1).numpy()


def test_arrays_give_their_numbers(both, tmp_path):
    model, folder = both
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    ids = rng.integers(0, VOCAB, (4, LENGTH - 3)).astype(np.int32)  # shorter than it could be
    with torch.no_grad():
        image = rows(model.get_image_features(pixel_values=pixels(images)))
        text = rows(model.get_text_features(input_ids=torch.from_numpy(ids).long()))
    for name, arrays, wanted in (
        ("embed_image", {"image": images}, image),
        ("embed_text", {"text": ids, "text_mask": np.ones_like(ids)}, text),
    ):
        np.savez(tmp_path / "in.npz", **arrays)
        files = [f"--inputs={tmp_path / 'in.npz'}", f"--out={tmp_path / 'out.npz'}"]
        assert main(["forward", f"--checkpoint={folder}", f"--fn={name}", *files]) == 0
        np.testing.assert_allclose(np.load(tmp_path / "out.npz")["out"], wanted, atol=1e-4)


def test_the_table_is_their_softmax(both, tmp_path):
    model, folder = both
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(images):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i}.png")
    words = [f"--images={tmp_path / 'pictures'}", "--texts=cat,a dog", f"--out={tmp_path / 'r'}"]
    assert main(["similarity", f"--checkpoint={folder}", *words]) == 0
    import vlp_jax

    ids = torch.from_numpy(vlp_jax.load(folder).tokenizer()(["cat", "a dog"])).long()
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels(images))
    with open(tmp_path / "r" / "table.csv", newline="") as file:
        found = [[float(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]]
    np.testing.assert_allclose(found, out.logits_per_image.softmax(1).numpy(), atol=1e-4)
