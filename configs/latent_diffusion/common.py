"""What the recipes of latent diffusion share: every switch of the method, the released sizes, AdamW
at a constant rate with a moving average (arXiv:2112.10752, appendix E; Stable Diffusion's cards).

The file exists so that each recipe says only what it changes.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from vlp_jax.augment.pictures import Augment
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.methods.latent_diffusion import LatentDiffusion
from vlp_jax.models.archs.autoencoder import autoencoder
from vlp_jax.models.archs.clip import clip_arch
from vlp_jax.models.archs.unet import unet

# LDM's schedules by their last beta (ldm.md 3.2); Stable Diffusion's is the default.
LDM = dict(name="scaled_linear", start=0.0015)
BFLOAT16 = dict(dtype="bfloat16", remat="full")


def text_encoder(name: str, **others) -> dict:
    """The text network of a CLIP: "ViT-L-14-quickgelu", ..."""
    return clip_arch(name)["text"] | others


def method(image_size: int, **own) -> ConfigDict:
    """The `method` section; own: what differs, `unet` and `autoencoder` at least.

    A network is the fields that a table of sizes gives it, with every switch it has beside.
    """
    plain = {f.name: f.default for f in dataclasses.fields(LatentDiffusion)}
    found = {name: value for name, value in plain.items() if common.known(value)}
    found |= {"name": "latent_diffusion", "image_size": image_size}
    found["augment"] = dataclasses.asdict(Augment())
    found["schedule"] = dataclasses.asdict(Schedule(**own.pop("schedule", {})))
    for part in ("unet", "autoencoder", "text", "text_2"):
        sizes = own.pop(part, {})
        found[part] = {**common.defaults(sizes["name"]), **sizes} if sizes else {}
    section = ConfigDict({**found, "control": {}, **own})
    for part in ("unet", "autoencoder", "text", "text_2", "control", "schedule"):
        section[part].unlock()
    return section


def recipe(image_size: int, **own) -> ConfigDict:
    """A recipe on pictures of `image_size` whose short side is that; own: see `method`."""
    c = common.base()
    c.image_size = image_size
    c.method = method(image_size, **own)
    c.method.image_size = c.get_ref("image_size")
    c.data.image.crop = c.data.image.eval_crop = "center"
    c.batch_size = 2048
    c.sharding = "fsdp"
    c.ema_decay = 0.9999
    c.optim.lr, c.optim.schedule, c.optim.warmup_steps = 1e-4, "constant", 10_000
    c.optim.b2, c.optim.eps, c.optim.weight_decay = 0.999, 1e-8, 1e-2
    c.optim.no_decay, c.optim.clip_norm = (), 0.0
    c.data.path = "LAION/{00000..99999}.tar"
    c.data.workers = 16
    c.checkpoint_every = 5000
    return c


def released(name: str, **own) -> dict:
    """The networks of a size of models/archs/unet.py: its U-Net, KL-f8 and its text encoders."""
    large = text_encoder("ViT-L-14-quickgelu")
    if name.startswith("sdxl"):
        big = text_encoder("ViT-bigG-14", embed_dim=1280)
        texts = dict(text_2=big) if name == "sdxl-refiner" else dict(text=large, text_2=big)
        texts |= dict(states="penultimate", null="zeros")
    elif name.startswith(("sd2", "sd-x4")):
        # The released encoder lacks its last block, so what it gives is the penultimate's states.
        texts = dict(text=text_encoder("ViT-H-14", num_layers=23), empty=(49406, 49407, 0))
    else:
        texts = dict(text=large)
    name = "sd-x4-upscaler" if name == "sd-x4" else name
    return dict(unet=unet(name), autoencoder=autoencoder("kl-f8"), **texts, **own)


def pad_texts(c: ConfigDict) -> None:
    """The padding of the tokenizers: Stable Diffusion 1 and SDXL's first encoder see the end's id
    after the end, the others 0."""
    c.data.context_length = 77
    c.data.tokenizer = "clip"
    c.data.tokenizer_options.pad_id = 49407 if len(c.method.empty) == 2 else -1
    if c.method.text_2:
        c.data.tokenizers.text_2 = "clip"


def start_from(c: ConfigDict, folder: str) -> None:
    """A ControlNet beside the networks of a checkpoint, whose U-Net it copies."""
    parts = ["autoencoder", "latent_scale", "unet"]
    parts += [name for name in ("text", "text_2") if c.method[name]]
    named = {name: f"{folder}:{name}" for name in parts} | {"control": f"{folder}:unet"}
    with c.ignore_type():
        c.init_from = ConfigDict(named)
    c.fresh = (r"control/(hint|zero).*",)
