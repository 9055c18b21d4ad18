"""Makes tests/golden/clip/: tiny models of open_clip and transformers with weights, inputs and
embeddings.

Run with an environment that has the `peers` extra: python tests/golden/make_clip_golden.py Weights
are random, rounded to float16 (so the files are small and the numbers exact) and used in float32.
The file exists so that the ordinary suite proves parity with the references without installing
them.
"""

import json
import pathlib
import runpy

import numpy as np

HERE = pathlib.Path(__file__).parent
LIBRARY = runpy.run_path(str(HERE.parent / "peers" / "conftest.py"))["LIBRARY"]

import open_clip  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

VIT = dict(name="vit", image_size=32, patch_size=8, width=64, num_layers=2, head_width=32)
TEXT = dict(name="text", vocab_size=100, context_length=12, width=32, num_layers=2, num_heads=2)
SIGLIP = dict(activation="gelu_tanh", norm_eps=1e-6)
ARCHS = {
    "open_clip_vit": dict(embed_dim=24, image=VIT, text=TEXT),
    "open_clip_resnet": dict(
        embed_dim=24,
        image=dict(name="resnet", image_size=64, layers=(1, 2, 1, 1), width=4),
        text=TEXT | dict(activation="quick_gelu"),
    ),
    "hf_clip": dict(
        embed_dim=24,
        image=VIT | dict(activation="quick_gelu"),
        text=TEXT | dict(activation="quick_gelu"),
    ),
    "hf_siglip": dict(
        embed_dim=64,
        image=VIT | SIGLIP | dict(pool="map", pre_norm=False, conv_bias=True, project=False),
        text=TEXT | SIGLIP | dict(causal=False, pool="last", head_bias=True),
    ),
}


def randomise(model: torch.nn.Module) -> None:
    """Every weight and statistic becomes random, so that no bias or scale is trivially right."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.add_(0.05 * torch.randn_like(tensor))
            tensor.copy_(tensor.half().float())
    model.eval()


def make_open_clip(arch: dict, quick_gelu: bool) -> torch.nn.Module:
    image, text = arch["image"], arch["text"]
    vision = {"image_size": image["image_size"], "width": image["width"]}
    if image["name"] == "vit":
        vision |= {
            "layers": 2,
            "head_width": image["head_width"],
            "patch_size": image["patch_size"],
        }
    else:
        vision |= {"layers": list(image["layers"])}
    words = {
        **{key: text[key] for key in ("context_length", "vocab_size", "width")},
        "heads": text["num_heads"],
        "layers": text["num_layers"],
    }
    return open_clip.CLIP(arch["embed_dim"], vision, words, quick_gelu=quick_gelu)


def hf_towers(arch: dict) -> dict:
    image, text = arch["image"], arch["text"]
    size = "projection_size" if "pool" in image else "projection_dim"
    vision = {
        "image_size": 32, "patch_size": 8,
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 256, size: arch["embed_dim"],
    }  # fmt: skip
    words = {
        "vocab_size": 100, "max_position_embeddings": 12, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": text["num_heads"], "intermediate_size": 128, size: arch["embed_dim"],
        "eos_token_id": 99, "bos_token_id": 98, "pad_token_id": 0,
    }  # fmt: skip
    return dict(vision_config=vision, text_config=words)


def make_hf(name: str, arch: dict) -> torch.nn.Module:
    towers = hf_towers(arch)
    if name == "hf_clip":
        return transformers.CLIPModel(
            transformers.CLIPConfig(**towers, projection_dim=arch["embed_dim"])
        )
    return transformers.SiglipModel(transformers.SiglipConfig(**towers))


def inputs(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    text = rng.integers(1, 98, (3, 12))
    for row, end in enumerate((4, 8, 11)):
        text[row, end:] = 0
        text[row, end] = 99
    return rng.integers(0, 256, (3, size, size, 3), np.uint8), text.astype(np.int32)


def embed(
    model: torch.nn.Module, pixels: torch.Tensor, text: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if hasattr(model, "encode_image"):
        return model.encode_image(pixels, normalize=True), model.encode_text(text, normalize=True)
    found = model.get_image_features(pixel_values=pixels), model.get_text_features(input_ids=text)
    rows = [getattr(rows, "pooler_output", rows) for rows in found]
    return tuple(torch.nn.functional.normalize(row, dim=-1) for row in rows)


def make_positions() -> dict[str, np.ndarray]:
    """Square grids of position embeddings and what PyTorch's bicubic interpolation makes of
    them."""
    torch.manual_seed(0)
    arrays = {}
    for old, new in ((7, 12), (7, 5), (12, 4), (3, 7)):
        rows = torch.randn(1 + old * old, 3)
        grid = rows[1:].reshape(1, old, old, 3).permute(0, 3, 1, 2)
        arrays[f"{old} {new}"] = rows.numpy()
        for antialias in (False, True):
            resized = torch.nn.functional.interpolate(
                grid, (new, new), mode="bicubic", antialias=antialias, align_corners=False
            )
            resized = torch.cat([rows[:1], resized.permute(0, 2, 3, 1).reshape(-1, 3)])
            arrays[f"{old} {new} {int(antialias)}"] = resized.numpy()
    return arrays


def main() -> None:
    out = HERE / "clip"
    out.mkdir(exist_ok=True)
    np.savez(out / "positions.npz", **make_positions())
    for name, arch in ARCHS.items():
        torch.manual_seed(0)
        is_hf = name.startswith("hf")
        model = make_hf(name, arch) if is_hf else make_open_clip(arch, name == "open_clip_resnet")
        randomise(model)
        image, text = inputs(arch["image"]["image_size"])
        siglip = name == "hf_siglip"
        mean = np.float32((0.5,) * 3 if siglip else open_clip.OPENAI_DATASET_MEAN)
        std = np.float32((0.5,) * 3 if siglip else open_clip.OPENAI_DATASET_STD)
        pixels = torch.from_numpy((image / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
        with torch.no_grad():
            image_rows, text_rows = embed(model, pixels, torch.from_numpy(text).long())
        state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, out / f"{name}.safetensors")
        np.savez(
            out / f"{name}.npz", image=image, text=text, image_embedding=image_rows.numpy(),
            text_embedding=text_rows.numpy(), arch=json.dumps(arch),
        )  # fmt: skip


if __name__ == "__main__":
    main()
