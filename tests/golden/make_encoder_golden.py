"""Makes tests/golden/encoder: a tiny random BERT, and a ViT in bfloat16, as transformers saves
them, with what it computes of them.

Run with an environment that has the `peers` extra. The file exists so that the ordinary suite
proves parity without installing transformers.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "peers"))
import conftest  # noqa: F401 (declares torchvision's operators)
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent / "encoder"
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases that are not their first values."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def bert() -> None:
    """BertModel with its pooler, on texts of three lengths."""
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=12, **SIZES)
    model = randomise(transformers.BertModel(config))
    model.save_pretrained(FOLDER / "bert")
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 60, (3, 12)).astype(np.int32)
    mask = np.arange(12) < np.array([[12], [7], [1]])
    with torch.no_grad():
        out = model(torch.from_numpy(ids).long(), torch.from_numpy(mask).long())
    arrays = dict(text=ids, text_mask=mask, pooler=out.pooler_output.numpy())
    np.savez(FOLDER / "bert.npz", tokens=out.last_hidden_state.numpy(), **arrays)


def vit() -> None:
    """ViTModel with its pooler; what it computes is of the rounded weights in float32."""
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SIZES)
    model = randomise(transformers.ViTModel(config)).to(torch.bfloat16)
    model.save_pretrained(FOLDER / "vit")
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        out = model.float()(pixels)
    tokens, pooler = out.last_hidden_state.numpy(), out.pooler_output.numpy()
    np.savez(FOLDER / "vit.npz", image=image, tokens=tokens, pooler=pooler)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    bert()
    vit()
