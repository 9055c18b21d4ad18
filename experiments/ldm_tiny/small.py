"""The recipes of the study: a classifier, the autoencoder that it judges, a U-Net on its latents,
and all that starts from that U-Net.

The file exists as their list; argument: STAGE,CELLS,SEED, where the earlier stages lie in CELLS.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs.autoencoder import features
from configs.autoencoder import tiny as coder
from configs.latent_diffusion import tiny
from experiments.ldm_tiny.concepts import CONCEPTS, KINDS, NEW_WORD, TEST, TRAIN

LIKE = dict(crop_scale=(0.6, 1.0), hue=0.5, saturation=0.5, contrast=0.4, brightness=0.3, grey=0.5)
ATTENTIONS = r"(unet|text)/.*attn/(qkv|query|key_value|out)/kernel"
PRIOR = ("dreambooth", "lora")  # with pictures that the U-Net drew before
OWN = (*PRIOR, "alone", "inversion")  # stages that learn from five pictures


def get_config(words: str = "unet,runs/ldm_tiny/cells,0") -> ConfigDict:
    """Args: STAGE,CELLS,SEED; the folder of a stage is CELLS/STAGE/seedSEED."""
    stage, cells, seed = words.split(",")
    folder = f"{cells}/{{}}/seed{seed}".format
    if stage == "classifier":
        c = classifier()
    elif stage == "autoencoder":
        c = coder.get_config()
        c.method.perceptual = ConfigDict(features.get_config().method.image.to_dict())
        with c.ignore_type():
            c.init_from = ConfigDict({"features": f"{folder('classifier')}:image"})
    else:
        c = _drawer(stage, folder)
    c.keep_checkpoints = 1
    return c


def classifier() -> ConfigDict:
    """Tells the kinds by their shapes: colours are drawn anew."""
    c = features.get_config()
    c.method.augment.update(LIKE)
    c.method.num_classes, c.data.label = KINDS, "kind"
    c.data.path, c.evals.test.path = TRAIN, TEST
    c.steps = 600
    return c


def _drawer(stage: str, folder: Callable[[str], str]) -> ConfigDict:
    kind = {**dict.fromkeys(("unet", "alone", "inversion"), ""), **dict.fromkeys(PRIOR, "prior")}
    kind = kind.get(stage, stage)
    start = "" if stage == "unet" else folder("unet")
    c = tiny.get_config(f"{CONCEPTS},{kind},{start}")
    if stage == "unet":
        parts = ("autoencoder", "latent_scale")
        with c.ignore_type():
            c.init_from = ConfigDict({part: f"{folder('autoencoder')}:{part}" for part in parts})
        return c
    c.steps, c.optim.lr, c.optim.warmup_steps = 1000, 3e-4, 50
    if stage == "control":
        c.optim.lr = 1e-3
    if stage in OWN:
        c.steps, c.batch_size, c.ema_decay, c.method.drop = 400, 16, 0.0, 0.0
        c.optim.lr, c.optim.warmup_steps, c.optim.schedule = 2e-4, 0, "constant"
    if stage in PRIOR:
        c.data.weights = (1.0, 1.0)
    if stage == "lora":
        c.optim.lr, c.adapt.rank, c.adapt.paths = 3e-3, 4, (ATTENTIONS,)
    if stage == "inversion":
        c.data.tokenizer_options.new = (f"{NEW_WORD}=green",)
        c.method.text.new_rows, c.method.text.vocab_size = 1, tiny.VOCABULARY + 1
        c.adapt.learn, c.optim.lr = ("text/token_embed/new_rows",), 1e-2
    return c
