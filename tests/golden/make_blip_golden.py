"""Makes tests/golden/blip: tiny random networks of transformers' three BLIP classes as it saves
them, and what it computes of them.

Run with an environment that has the `peers` extra. The file exists so that the ordinary suite
proves parity without installing transformers.
"""

import pathlib
import shutil
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "peers"))
import conftest  # noqa: F401 (declares torchvision's operators)
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent / "blip"
V, T, DEC, SIDE = 30, 6, 28, 16
TEXT = dict(vocab_size=V, hidden_size=12, intermediate_size=20, num_hidden_layers=2,
            num_attention_heads=3, max_position_embeddings=8, bos_token_id=DEC, sep_token_id=2,
            pad_token_id=0)  # fmt: skip
VISION = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
              image_size=SIDE, patch_size=8, layer_norm_eps=1e-6)  # fmt: skip
KINDS = {"caption": "ConditionalGeneration", "match": "ImageTextRetrieval",
         "answer": "QuestionAnswering"}  # fmt: skip


def make(name: str) -> torch.nn.Module:
    """A network with norms and biases that are not their first values."""
    vision = VISION | (dict(hidden_size=12, num_attention_heads=3) if name == "answer" else {})
    config = transformers.BlipConfig(
        text_config=TEXT, vision_config=vision, image_text_hidden_size=10
    )
    model = getattr(transformers, f"BlipFor{KINDS[name]}")(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def computed(name: str, model: torch.nn.Module, batch: dict[str, np.ndarray]) -> dict:
    """What the network gives: {name: tensor}."""
    mean, std = (np.array(getattr(transformers.image_utils, f"OPENAI_CLIP_{k}"), np.float32)
                 for k in ("MEAN", "STD"))  # fmt: skip
    pixels = torch.from_numpy((batch["image"] / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    mask = torch.from_numpy(batch["text_mask"]).long()

    def ids(first: int) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(
            [np.full((len(mask), 1), first), batch["text"][:, 1:]], 1)).long()  # fmt: skip

    states = model.vision_model(pixels).last_hidden_state
    found = {"image_states": states}
    if name == "caption":
        found["lm_logits"] = model(pixels, ids(DEC), mask).logits
    elif name == "match":
        found["match"] = model(ids(DEC + 1), pixels, True, mask).itm_score
        found["cosines"] = model(ids(1), pixels, False, mask).itm_score
    else:
        rows = []  # one by one, since its cross-attention loses the mask that it is given
        for row, count in enumerate(batch["text_mask"].sum(1)):
            one, how = slice(row, row + 1), dict(encoder_hidden_states=states[row : row + 1])
            read = model.text_encoder(ids(DEC + 1)[one, :count], **how).last_hidden_state
            how = dict(encoder_hidden_states=read)
            rows.append(model.text_decoder(ids(DEC)[one, :4], mask[one, :4], **how).logits)
        found["answer_logits"] = torch.cat(rows)
    return found


def main() -> None:
    """Writes everything."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8),
        "text": rng.integers(3, DEC, (2, T)).astype(np.int32),
        "text_mask": np.arange(T) < np.array([[6], [3]]),
    }
    found = dict(batch)
    for name in KINDS:
        model = make(name)
        model.save_pretrained(FOLDER / name)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        with torch.no_grad():
            rows = computed(name, model, batch)
        found |= {f"{name}.{key}": value.numpy() for key, value in rows.items()}
    np.savez(FOLDER / "expected.npz", **found)


if __name__ == "__main__":
    main()
