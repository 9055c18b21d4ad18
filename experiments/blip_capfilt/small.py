"""configs/blip/tiny.py on web texts, and what is fine-tuned from it or goes on with other texts.

The file exists as the recipes of the study's small form; argument: web, captioner, filter, joint or
on.
"""

from ml_collections import ConfigDict

from configs.blip import tiny
from experiments.blip_capfilt.scenes import HUMAN, SCENES, WEB

TASKS = {"captioner": ("lm",), "filter": ("itc", "itm"), "joint": ("itc", "itm", "lm")}
ROLES = {"captioner": "decoder", "filter": "encoder", "joint": "both"}


def get_config(what: str = "web") -> ConfigDict:
    """Args: web, captioner, filter, joint or on."""
    c = tiny.get_config(str(SCENES))
    c.data.path = f"{WEB}/*.tar,{HUMAN}"
    c.steps, c.keep_checkpoints = 1100, 1
    if what == "web":
        return c
    c.method.alpha_examples = 0  # the teacher has learned already
    if what == "on":
        c.steps, c.optim.lr, c.optim.warmup_steps = 500, 3e-4, 50
        return c
    c.data.path = HUMAN
    c.steps, c.optim.lr, c.optim.warmup_steps = 400, 2e-4, 40
    c.method.losses, c.method.text.roles = TASKS[what], ROLES[what]
    if what != "captioner":
        c.method.negatives, c.method.negative_floor = "own", 0.0
    return c
