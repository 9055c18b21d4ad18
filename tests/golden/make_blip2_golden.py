"""Makes tests/golden/blip2: tiny random networks of transformers' BLIP-2 classes without a language
model as it saves them, and what it computes of them.

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

FOLDER = pathlib.Path(__file__).parent / "blip2"
V, T, SIDE, Q = 30, 6, 16, 3
VISION = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
              image_size=SIDE, patch_size=8, layer_norm_eps=1e-6)  # fmt: skip
QFORMER = dict(vocab_size=V, hidden_size=12, intermediate_size=20, num_hidden_layers=2,
               num_attention_heads=3, max_position_embeddings=8, encoder_hidden_size=16,
               use_qformer_text_input=True)  # fmt: skip
KINDS = ("match", "joint", "queries")


def make(kind: str, layers: int = 2, every: int = 2, seed: int = 0) -> torch.nn.Module:
    """A network with norms and biases that are not their first values: `match` is
    Blip2ForImageTextRetrieval, the others Blip2QFormerModel with and without a text's MLP."""
    words = QFORMER | dict(num_hidden_layers=layers, cross_attention_frequency=every)
    if kind == "match":
        text = transformers.OPTConfig(vocab_size=V, hidden_size=8, ffn_dim=8, num_hidden_layers=1,
                                      num_attention_heads=1, word_embed_proj_dim=8)  # fmt: skip
        config = transformers.Blip2Config(
            vision_config=VISION, qformer_config=words, text_config=text.to_dict(),
            num_query_tokens=Q, image_text_hidden_size=10,
        )  # fmt: skip
        model = transformers.Blip2ForImageTextRetrieval(config)
    else:
        words["use_qformer_text_input"] = kind == "joint"
        model = transformers.Blip2QFormerModel(transformers.Blip2QFormerConfig(**words))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            step = 0.1 * torch.randn_like(tensor)
            if name.endswith("qkv.bias"):  # an EVA-CLIP's keys have none
                step[len(step) // 3 : 2 * len(step) // 3] = 0
            tensor.add_(step)
    return model.eval()


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of all classes."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "image": rng.integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8),
        "text": rng.integers(3, V - 1, (2, T)).astype(np.int32),
        "text_mask": np.arange(T) < np.array([[6], [3]]),
        "queries": draw(2, Q, 12),
        "embedded": draw(2, T, 12),
        "image_states": draw(2, 5, 16),
    }


def computed(kind: str, model: torch.nn.Module, batch: dict[str, np.ndarray]) -> dict:
    """What the network gives: {name: tensor}."""
    given = {name: torch.from_numpy(rows) for name, rows in batch.items() if name != "image"}
    if kind != "match":
        states, queries = given["image_states"], given["queries"]
        found = {"query_states": model(queries, encoder_hidden_states=states)}
        if kind == "joint":
            both = torch.cat([queries, given["embedded"]], 1)
            how = dict(query_length=Q, encoder_hidden_states=states)
            found["joint_states"] = model(both, **how)
        return {name: out.last_hidden_state for name, out in found.items()}
    mean, std = (np.array(getattr(transformers.image_utils, f"OPENAI_CLIP_{k}"), np.float32)
                 for k in ("MEAN", "STD"))  # fmt: skip
    pixels = (batch["image"] / np.float32(255) - mean) / std
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    ids, mask = given["text"].long(), given["text_mask"].long()
    states = model.vision_model(pixels).last_hidden_state
    queries = model.query_tokens.expand(2, -1, -1)
    asked = model.qformer(queries, encoder_hidden_states=states).last_hidden_state
    cosines = model(pixels, ids, mask)
    return {
        "queries": asked,
        "match": model(pixels, ids, mask, use_image_text_matching_head=True).logits_per_image,
        "embed_image": cosines.image_embeds,
        "embed_text": cosines.text_embeds,
        "cosines": cosines.logits_per_image,
    }


def main() -> None:
    """Writes everything."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    inputs = batch()
    found = dict(inputs)
    for kind in KINDS:
        model = make(kind)
        model.save_pretrained(FOLDER / kind)
        with torch.no_grad():
            rows = computed(kind, model, inputs)
        found |= {f"{kind}.{key}": value.numpy() for key, value in rows.items()}
    np.savez(FOLDER / "expected.npz", **found)


if __name__ == "__main__":
    main()
