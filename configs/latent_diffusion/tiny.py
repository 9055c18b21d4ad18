"""Latent diffusion in half an hour on two cores: 32-pixel emoji that follow their captions.

python -m vlp_jax train --config=configs/latent_diffusion/tiny.py:runs/emoji
    --config.init_from.autoencoder=AE:autoencoder --config.init_from.latent_scale=AE:latent_scale
    --workdir=W

Like the study's, the scenes are of `data prepare emoji_scenes --kinds=16 --most=1 --tints=.6
--styles=both --scale=1.4 --changes=.5 --out=runs/emoji`, AE a run of configs/autoencoder/tiny.py.

The text encoder, two layers over words, learns along. The file exists as the small form, and for
what its inpainting, ControlNet and DreamBooth share with it; argument: the folder of tars and
vocab.txt; for those `inpainting`, `control` or `prior` behind a comma, and what they start from.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import recipe, start_from

LENGTH, VOCABULARY = 16, 160
EMPTY = (2, 3, 0)  # [CLS] [SEP], and [PAD] to the end
# That of configs/autoencoder/tiny.py.
CODER = dict(name="autoencoder", latent_channels=4, widths=(32, 64, 64), res_blocks=1, groups=8)
UNET = dict(
    name="unet", in_channels=4, out_channels=4, widths=(64, 128), depths=(1, 1), middle_depth=1,
    heads=(4, 4), res_blocks=1, groups=8,
)  # fmt: skip
TEXT = dict(
    name="text", vocab_size=VOCABULARY, context_length=LENGTH, width=64, num_layers=2, num_heads=2,
    causal=False, pool="first",
)  # fmt: skip


def get_config(words: str = "") -> ConfigDict:
    """Args: folder[,kind[,workdir or converted checkpoint]]."""
    folder, kind, start = [*words.split(","), "", ""][:3]
    own = dict(unet=UNET, autoencoder=CODER, text=TEXT, empty=EMPTY, learn_text=True)
    if kind == "inpainting":
        own |= dict(unet=UNET | {"in_channels": 9}, joins="mask")
    elif kind == "control":
        own |= dict(controls=1, control={"hint_widths": (16, 32, 64)}, learn_text=False, drop=0.5)
    elif kind == "prior":
        own |= dict(prior_weight=1.0, drop=0.0)
    c = small(recipe(32, **own), folder or "runs/emoji")
    if kind == "control":
        start_from(c, start)
        c.data.fields.control = {"member": "edge.png"}
    elif start:
        c.init_from = start
    return c


def small(c: ConfigDict, folder: str) -> ConfigDict:
    """Data, rates and lengths of the small form."""
    c.method.frozen_dtype, c.method.unroll = "float32", True
    c.data.path = f"{folder}/emoji_scenes-train-*.tar"
    c.data.tokenizer, c.data.context_length = f"{folder}/vocab.txt", LENGTH
    c.data.workers, c.data.image.crop = 0, "squash"
    c.data.image.eval_crop = "squash"
    c.sharding = "replicated"
    c.batch_size, c.steps = 64, 4000
    c.optim.lr, c.optim.schedule, c.optim.warmup_steps = 5e-4, "cosine", 100
    c.optim.clip_norm = 1.0
    c.ema_decay = 0.999
    c.log_every, c.checkpoint_every = 50, 1000
    return c
