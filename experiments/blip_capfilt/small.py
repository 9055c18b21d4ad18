"""The recipes of the study's small form: the tower of words and configs/blip/tiny.py on web texts,
and what is fine-tuned from it or goes on with other texts.

The file exists as their list; argument: words, web, captioner, filter, joint or on.
"""

from ml_collections import ConfigDict

from configs.blip import tiny, words
from experiments.blip_capfilt.scenes import HUMAN, SCENES, WEB

TASKS = {"captioner": ("lm",), "filter": ("itc", "itm"), "joint": ("itc", "itm", "lm")}
ROLES = {"captioner": "decoder", "filter": "encoder", "joint": "both"}


def get_config(what: str = "web") -> ConfigDict:
    """Args: words, web, captioner, filter, joint or on."""
    c = (words if what == "words" else tiny).get_config(str(SCENES))
    c.data.path = f"{WEB}/*.tar,{HUMAN}"
    c.keep_checkpoints = 1
    if what in ("words", "web"):
        c.steps = {"words": 1500, "web": 800}[what]
        return c
    c.fresh = ()  # all of the pre-training
    c.method.alpha_examples = 0  # the teacher has learned already
    if what == "on":
        c.steps, c.optim.lr, c.optim.warmup_steps = 300, 3e-4, 50
        return c
    c.data.path = HUMAN
    c.steps, c.optim.lr, c.optim.warmup_steps = 300, 3e-4, 40
    c.method.losses, c.method.text.roles = TASKS[what], ROLES[what]
    if what != "captioner":
        c.method.negatives, c.method.negative_floor = "own", 0.0
    return c
