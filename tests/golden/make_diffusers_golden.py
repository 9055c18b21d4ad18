"""Makes tests/golden/diffusers/*.npz: configs of tiny models of diffusers and what they give.

Run with an environment that has the `peers` extra. Weights are a formula of a tensor's name and
shape, so that files hold configs and outputs alone; the test fills our networks with the same. The
file exists so that the ordinary suite proves parity without installing diffusers.
"""

import json
import math
import pathlib
import sys
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "diffusers"
UNET = dict(
    block_out_channels=(8, 16),
    norm_num_groups=4,
    layers_per_block=1,
    cross_attention_dim=6,
    attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
CODER = dict(
    block_out_channels=(8, 16),
    norm_num_groups=4,
    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
)
MODELS = {
    "kl": ("AutoencoderKL", CODER),
    "vq": ("VQModel", CODER | dict(num_vq_embeddings=30, vq_embed_dim=4)),
    "sd1": ("UNet2DConditionModel", UNET),
    "xl": (
        "UNet2DConditionModel",
        UNET
        | dict(
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=10 + 6 * 4,
        ),
    ),
    "classes": (
        "UNet2DModel",
        dict(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            attention_head_dim=4,
            num_class_embeds=5,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
    ),
    "control": (
        "ControlNetModel",
        {k: v for k, v in UNET.items() if k != "up_block_types"}
        | dict(conditioning_embedding_out_channels=(4, 8)),
    ),
}


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32[shape] in [-1, 1] that look random and follow from the name."""
    n = np.arange(math.prod(shape), dtype=np.float64)
    return (
        np.cos(n * 12.9898 + n**2 * 0.078233 + zlib.crc32(name.encode()) % 9973)
        .astype(np.float32)
        .reshape(shape)
    )


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`numbers` in the size of a kernel's, a gain's or a bias's."""
    if len(shape) == 1:
        return 0.2 * numbers(name, shape) + (name.endswith("weight"))
    return numbers(name, shape) * np.float32((3 / math.prod(shape[1:])) ** 0.5)


def inputs() -> dict[str, np.ndarray]:
    """What the networks are given, channels last."""
    return {
        "picture": numbers("picture", (2, 8, 12, 3)),
        "latent": numbers("latent", (2, 4, 6, 4)),
        "time": np.float32([7, 801]),
        "context": numbers("context", (2, 3, 6)),
        "pooled": numbers("pooled", (2, 10)),
        "time_ids": np.float32([[64, 48, 0, 8, 64, 64], [32, 32, 3, 0, 64, 48]]),
        "labels": np.int32([1, 4]),
        "hint": numbers("hint", (2, 8, 12, 3)) / 2 + 0.5,
    }


def main() -> None:
    """Writes the files."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "peers"))
    import conftest  # noqa: F401 (declares torchvision's operators)
    import diffusers
    import torch

    FOLDER.mkdir(exist_ok=True)
    first = lambda x: torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))  # noqa: E731
    last = lambda x: np.moveaxis(x.numpy(), 1, -1)  # noqa: E731
    x = inputs()
    for name, (kind, config) in MODELS.items():
        model = getattr(diffusers, kind)(**config).eval()
        state = {
            k: torch.from_numpy(weight(k, tuple(v.shape))) for k, v in model.state_dict().items()
        }
        model.load_state_dict(state)
        how = {"encoder_hidden_states": torch.from_numpy(x["context"])}
        if name == "xl":
            how["added_cond_kwargs"] = {
                "text_embeds": torch.from_numpy(x["pooled"]),
                "time_ids": torch.from_numpy(x["time_ids"]),
            }
        if kind == "UNet2DModel":
            how = {"class_labels": torch.from_numpy(x["labels"]).long()}
        with torch.no_grad():
            if name == "kl":
                found = model.encode(first(x["picture"])).latent_dist
                out = {"mean": last(found.mean), "logvar": last(found.logvar)}
                out["decoded"] = last(model.decode(found.mean).sample)
            elif name == "vq":
                found = model.encode(first(x["picture"])).latents
                out = {"mean": last(found), "index": model.quantize(found)[2][2].numpy()}
                out["decoded"] = last(model.decode(found).sample)
            else:
                latent = first(x["latent"][..., : model.config.in_channels])
                seen = latent, torch.from_numpy(x["time"])
                if name == "control":
                    skips, middle = model(
                        *seen, controlnet_cond=first(x["hint"]), return_dict=False, **how
                    )
                    out = {f"skip{n}": last(skip) for n, skip in enumerate(skips)}
                    out["middle"] = last(middle)
                else:
                    out = {"out": last(model(*seen, **how).sample)}
        config = {"_class_name": kind, **model.config}
        np.savez_compressed(FOLDER / f"{name}.npz", config=json.dumps(config, default=list), **out)


if __name__ == "__main__":
    main()
