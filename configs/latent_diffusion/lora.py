"""LoRA (arXiv:2106.09685) on the attentions of a released U-Net: a style, or a thing, from some
pictures with captions (ldm.md 4).

python -m vlp_jax train --config=configs/latent_diffusion/lora.py --config.init_from=SD
    --config.data.path=OWN --workdir=W
python -m vlp_jax convert W OUT --to=lora
python -m vlp_jax sample --checkpoint=SD --lora=OUT:0.8 --prompt=... --out=DIR

SD is a converted checkpoint; `sample --checkpoint=W` draws at full strength, too. The same adapters
learn with prior preservation by dreambooth.py and --config.adapt.rank=4. The file exists as that
recipe; argument: the size of models/archs/unet.py.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released


def get_config(size: str = "sd1") -> ConfigDict:
    """Args: the size."""
    c = recipe(1024 if size.startswith("sdxl") else 512, **released(size, drop=0.0), **BFLOAT16)
    pad_texts(c)
    c.adapt.rank, c.adapt.half = 4, True
    c.adapt.paths = (r"unet/.*attn/(qkv|query|key_value|out)/kernel",)
    c.data.path, c.data.workers = "OWN", 0
    c.batch_size, c.steps = 4, 2000
    c.optim.lr, c.optim.warmup_steps, c.optim.clip_norm = 1e-4, 0, 1.0
    c.ema_decay = 0.0
    return c
