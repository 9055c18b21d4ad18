"""Tiny pipelines of diffusers with random weights, for live parity.

The file exists so that every test of pipelines begins with the same ones.
"""

import json

import diffusers
import torch
from test_encoders import randomise
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

SIDE, FACTOR, LENGTH = 8, 2, 12  # of latents, and tokens
WIDTHS = {"text_encoder": 16, "text_encoder_2": 24}
POOLED = 20
SIZES = dict(block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1, sample_size=SIDE)
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
SCHEDULE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
DDIM = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False)
PNDM = diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
_LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
# "!" is id 0, as in CLIP's vocabulary, where it pads the texts of SD 2
VOCABULARY = ["!", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "ca", "cat</w>"]
VOCABULARY += ["<|startoftext|>", "<|endoftext|>"]


def tokenizer(folder, pad="<|endoftext|>"):
    """A CLIPTokenizer of a handful of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    files = (str(folder / name) for name in ("vocab.json", "merges.txt"))
    return CLIPTokenizer(*files, model_max_length=LENGTH, pad_token=pad)


def text_encoder(name="text_encoder", layers=2, act="quick_gelu", kind=CLIPTextModel):
    width, count = WIDTHS[name], len(VOCABULARY)
    sizes = dict(hidden_size=width, intermediate_size=2 * width, num_attention_heads=2)
    words = dict(vocab_size=count, max_position_embeddings=LENGTH, eos_token_id=count - 1)
    words |= dict(bos_token_id=count - 2, pad_token_id=0, projection_dim=POOLED)
    config = CLIPTextConfig(**sizes, **words, num_hidden_layers=layers, hidden_act=act)
    return randomise(kind(config))


def vae(**changes):
    sizes = dict(block_out_channels=(8, 16), norm_num_groups=4, sample_size=SIDE * FACTOR)
    sides = dict(down_block_types=("DownEncoderBlock2D",) * 2)
    sides |= dict(up_block_types=("UpDecoderBlock2D",) * 2)
    return randomise(diffusers.AutoencoderKL(**sizes | sides | changes))


def unet(**changes):
    usual = dict(down_block_types=DOWN, up_block_types=UP, cross_attention_dim=16)
    sizes = SIZES | usual | dict(attention_head_dim=4)
    return randomise(diffusers.UNet2DConditionModel(**sizes | changes))


def controlnet(**changes):
    sizes = {key: value for key, value in SIZES.items() if key != "sample_size"}
    sizes |= dict(down_block_types=DOWN, cross_attention_dim=16, attention_head_dim=4)
    hint = dict(conditioning_embedding_out_channels=(8, 12))
    return randomise(diffusers.ControlNetModel(**sizes | hint | changes))


def pipeline(kind, folder, scheduler=DDIM, seed=0, **parts):
    """A pipeline of a class of diffusers with the components of SD 1, or `parts` in their place."""
    torch.manual_seed(seed)
    made = {
        "vae": parts.pop("vae", None) or vae(),
        "text_encoder": parts.pop("text_encoder", None) or text_encoder(),
        "tokenizer": parts.pop("tokenizer", None) or tokenizer(folder / "words"),
        "unet": parts.pop("unet", None) or unet(),
        "scheduler": scheduler,
    }
    if "XL" not in kind.__name__:
        made |= {"safety_checker": None, "feature_extractor": None}
        made["requires_safety_checker"] = False
    found = kind(**made | parts)
    found.set_progress_bar_config(disable=True)
    return found


def xl(kind, folder, scheduler=DDIM, **parts):
    """The same of XL."""
    torch.manual_seed(1)
    width = sum(WIDTHS.values())
    sizes = dict(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=POOLED + 6 * 8,
        cross_attention_dim=width,
    )
    second = text_encoder("text_encoder_2", 3, "gelu", CLIPTextModelWithProjection)
    made = dict(text_encoder_2=second, tokenizer_2=tokenizer(folder / "words_2", "!"))
    made |= dict(unet=unet(**sizes), vae=vae(scaling_factor=0.13025))
    return pipeline(kind, folder, scheduler, **made | parts)
