"""The recipes of the stages: what judges, the autoencoder, the U-Net and what goes on from it.

The file exists as their list; argument: stage,scenes[,folder of the study's cells,seed].
"""

from configs.autoencoder import features
from configs.autoencoder import tiny as autoencoder
from ml_collections import ConfigDict

from configs.latent_diffusion import tiny as unet

KINDS = 16
STEPS = {"classifier": 500, "unet": 6000, "inpainting": 800, "control": 800}
KIND = {"inpainting": ",joined", "control": ",control"}
CODER = ("autoencoder", "latent_scale")


def get_config(words: str = "classifier") -> ConfigDict:
    """Args: stage,scenes[,cells,seed]."""
    stage, scenes, cells, seed = [*words.split(","), "", "", ""][:4]
    scenes = scenes or "runs/concepts"
    place = lambda cell: f"{cells}/{cell}/seed{seed}"  # noqa: E731
    train, test = (f"{scenes}/emoji_scenes-{part}-*.tar" for part in ("train", "test"))
    if stage == "classifier":
        c = features.get_config()
        c.data.path, c.data.label, c.method.num_classes = train, "kind", KINDS
        c.evals.test.path = test
    elif stage == "autoencoder":
        c = autoencoder.get_config(place("classifier"))
    else:
        c = unet.get_config(scenes + KIND.get(stage, ""))
        c.data.path = train
        c.evals = ConfigDict(drawn(train, test, place("classifier")))
    c.steps = STEPS.get(stage, c.steps)
    c.keep_checkpoints = 1
    if stage == "unet":
        c.fresh = ("unet/.*", "text/.*")
        c.init_from = ConfigDict({part: f"{place('autoencoder')}:{part}" for part in CODER})
    elif stage == "control":
        c.fresh = ("control/(hint|zero).*",)
        c.data.fields.control = {"member": "edge.png"}
        c.init_from = ConfigDict({"": place("unet"), "control": f"{place('unet')}:unet"})
    elif stage == "inpainting":
        c.init_from = place("unet")
    return c


def drawn(train: str, test: str, judge: str) -> dict:
    """What a classifier of real pictures says of drawn ones, of captions that training had and of
    colours of things that it never had; guidance 0 is without caption."""
    how = {"sampler": "ddim", "steps": 25}
    shared = {"type": "generation", "networks": judge, "label": "kind", "how": how}
    return {
        "drawn": {**shared, "path": train, "count": 320, "guidances": (0.0, 1.0, 3.0)},
        "unseen": {**shared, "path": test, "count": 320, "guidances": (3.0,)},
    }
