"""Makes tests/golden/align: a tiny random AlignModel with random batch statistics on pictures of an
odd size, as transformers saves it, with what it computes.

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

FOLDER = pathlib.Path(__file__).parent / "align"
SIDE, LENGTH, VOCAB = 37, 12, 60
VISION = dict(
    image_size=SIDE,
    width_coefficient=0.5,
    depth_coefficient=1.5,
    kernel_sizes=[3, 3, 5],
    in_channels=[32, 16, 24],
    out_channels=[16, 24, 40],
    strides=[1, 2, 2],
    num_block_repeats=[1, 2, 1],
    expand_ratios=[1, 6, 6],
    depthwise_padding=[5],  # the block that halves the third time
    hidden_dim=24,
)
TEXT = dict(
    vocab_size=VOCAB,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=LENGTH,
)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Norms, biases and batch statistics that are not their first values; variances from 0.5 to
    2, kernels that keep the size of what they are given."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.ndim == 4:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
        model.temperature.fill_(0.25)
    return model.eval()


def make(folder: pathlib.Path) -> None:
    """The files and what transformers computes, the loss without smoothing's share too."""
    config = transformers.AlignConfig(
        vision_config=transformers.AlignVisionConfig(**VISION).to_dict(),
        text_config=transformers.AlignTextConfig(**TEXT).to_dict(),
        projection_dim=24,
    )
    model = randomise(transformers.AlignModel(config))
    model.save_pretrained(folder)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    text = rng.integers(1, VOCAB, (3, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < np.array([[12], [7], [2]])
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    given = torch.from_numpy(text).long(), pixels, torch.from_numpy(mask).long()
    with torch.no_grad():
        out = model(*given, return_loss=True)
    np.savez(
        folder / "golden.npz",
        image=image,
        text=text,
        text_mask=mask,
        image_embedding=out.image_embeds.numpy(),
        text_embedding=out.text_embeds.numpy(),
        logits=out.logits_per_image.numpy(),
        loss=out.loss.numpy(),
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    make(FOLDER)
