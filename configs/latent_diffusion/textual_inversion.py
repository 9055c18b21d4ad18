"""Textual inversion (arXiv:2208.01618): one new word for what 3 to 5 pictures show; everything but
its row is frozen (ldm.md 4).

python -m vlp_jax train --config=configs/latent_diffusion/textual_inversion.py:"<tint>=red"
    --config.init_from=SD --config.data.path=OWN --workdir=W
python -m vlp_jax sample --checkpoint=W --prompt="a cat in <tint>" --out=DIR
python -m vlp_jax convert W OUT --to=learned_embeds

The pictures' captions are the word. The file exists as that recipe; argument: the word and the one
that it starts from. Further rows of it: `new` lists <tint>_1=red, ... too, and new_rows and
vocab_size count them.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released

TEMPLATES = ("a photo of {c}", "a picture of {c}", "a close-up of {c}", "a drawing of {c}", "{c}")


def get_config(word: str = "<new>=thing") -> ConfigDict:
    """Args: WORD=START."""
    c = recipe(512, **released("sd1", drop=0.0), **BFLOAT16)
    pad_texts(c)
    c.data.tokenizer_options.new = (word,)
    c.method.text.new_rows = 1
    c.method.text.vocab_size += 1
    c.adapt.learn, c.adapt.half = ("text/token_embed/new_rows",), True
    c.data.path, c.data.workers, c.data.templates = "OWN", 0, TEMPLATES
    c.batch_size, c.steps = 4, 3000
    c.optim.lr, c.optim.warmup_steps = 4 * 5e-4, 0
    c.ema_decay = 0.0
    return c
