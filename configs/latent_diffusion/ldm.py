"""The models of the paper (arXiv:2112.10752, tables 1, 3, 5, 6; CompVis/latent-diffusion configs):
unconditional, by class, super-resolution, inpainting, from class maps, from layouts.

python -m vlp_jax train --config=configs/latent_diffusion/ldm.py:cin256
    --config.init_from.autoencoder=VQ:autoencoder --config.init_from.latent_scale=VQ:latent_scale
    --workdir=W

Rates are the reference's base rate times its batch. A layout is a caption of words of its own
vocabulary, up to 30 objects of three: class, top left, bottom right (OpenImages; LAYOUT). The file
exists as those recipes; argument: one of MODELS.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, LDM, recipe
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.models.archs.autoencoder import autoencoder
from vlp_jax.models.archs.unet import unet

NET = "tfds:imagenet2012:train"
# Their encoder learns along; the reference's has no biases before its attentions. 92 are the words
# and what begins and ends them.
LAYOUT = dict(
    name="text", vocab_size=8192, context_length=92, width=512, num_layers=16, num_heads=8,
    causal=False, pool="first",
)  # fmt: skip
STILL = ("inpainting", "semantic", "layout")  # the last two say where things are
# name -> (U-Net, autoencoder, fields of the method, batch, rate, steps, data)
MODELS = {
    "cin256": ("ldm-cin256-v2", "vq-f4", dict(classes=1000, drop=0.1), 1200, 1e-4, 178_000, NET),
    "cin-f8": ("ldm-cin-vq-f8", "vq-f8", dict(classes=1000, drop=0.0), 1200, 1e-4, 178_000, NET),
    "ffhq": ("ldm-unconditional", "vq-f4", dict(drop=0.0), 42, 8.4e-5, 635_000, "ffhq"),
    "celeba": ("ldm-unconditional", "vq-f4", dict(drop=0.0), 48, 9.6e-5, 410_000, "celeba_hq"),
    "bedrooms": ("ldm-unconditional", "vq-f4", dict(drop=0.0), 48, 9.6e-5, 1_900_000, "bedrooms"),
    "churches": (
        "ldm-churches", "kl-f8", dict(drop=0.0, distance="l1", schedule={"end": 0.0155}),
        96, 5e-5, 500_000, "churches",
    ),
    "sr": (
        "ldm-bsr-sr", "vq-f4", dict(drop=0.0, joins="low", schedule={"end": 0.0155}),
        64, 6.4e-5, 860_000, NET,
    ),
    "inpainting": (
        "ldm-inpainting-big", "vq-f4-noattn",
        dict(drop=0.0, joins="mask", mask_whole=0.0, distance="l1", schedule={"end": 0.0205}),
        64, 6.4e-5, 360_000, "places",
    ),
    "semantic": (
        "ldm-semantic", "vq-f4",
        dict(drop=0.0, joins="map", distance="l1", schedule={"end": 0.0205}),
        48, 4.8e-5, 86_000, "landscapes",
    ),
    "layout": (
        "ldm-layout", "vq-f4",
        dict(
            drop=0.0, distance="l1", schedule={"end": 0.0205}, text=LAYOUT, learn_text=True,
            empty=(2, 3, 0),
        ),
        24, 4.8e-5, 4_400_000, "layouts/train-*.tar",
    ),
}  # fmt: skip


def get_config(name: str = "cin256") -> ConfigDict:
    """Args: one of MODELS."""
    name = name or "cin256"
    if name not in MODELS:
        raise UserError(f"latent_diffusion/ldm.py: unknown {name!r}{nearest(name, MODELS)}")
    net, coder, own, batch, rate, steps, path = MODELS[name]
    own = own | {"schedule": LDM | {"end": 0.0195} | own.get("schedule", {})}
    own |= {"latent_scale": 1.0} if coder.startswith("vq") else {}
    c = recipe(256, unet=unet(net), autoencoder=autoencoder(coder), **own, **BFLOAT16)
    c.batch_size, c.optim.lr, c.steps, c.data.path = batch, rate, steps, path
    c.optim.warmup_steps = 10_000 if name == "churches" else 0
    c.method.augment.flip = 0.0 if name in STILL else 0.5
    if c.method.classes:
        c.data.label = "label"
    if name == "layout":
        c.data.tokenizer, c.data.context_length = "layouts/vocab.txt", LAYOUT["context_length"]
    if name == "semantic":
        c.data.fields.map = {"member": "seg.png", "resample": "nearest"}
    return c
