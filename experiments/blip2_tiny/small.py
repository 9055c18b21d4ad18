"""The recipes of the study: a small language model of the scenes' texts, the first stage, and the
second in front of that model or of a released one.

The file exists as their list; argument: words, first, second[,FIRST[,LM]] or smollm2[,FIRST[,LM]],
the folders of the first stage ('' for none: the eye alone) and of the language model.
"""

from ml_collections import ConfigDict

from configs import common
from configs.blip2.common import recipe, start
from configs.blip2.tiny import get_config as first_stage
from configs.blip2.tiny import on_scenes, tiny_towers
from configs.language_model import tiny as words
from experiments.blip2_tiny.scenes import CAPTIONS, EYE, SCENES, STATES
from vlp_jax.models.archs.language_model import ARCHS

SPEAKERS = ("image_norm", "queries", "qformer")  # what the second stage takes of the first
SMOLLM2 = "smollm2-135m"
PROMPT = "Question: {c} Answer:"  # of released models (LAVIS, OPT)
END = 2  # <|im_end|>


def get_config(what: str = "first") -> ConfigDict:
    """Args: STAGE[,FIRST[,LM]]."""
    stage, first, lm = [*what.split(","), "", ""][:3]
    if stage == "words":
        c = _words()
    elif stage == "first":
        c = first_stage(f"{SCENES},{EYE}")
        c.data.context_length = 16  # 4 % of the captions are longer
        c.steps, c.optim.lr = 1400, 1e-3
    else:
        c = _second(first, lm) if stage == "second" else _smollm2(first, lm)
    if stage != "words":
        c.data.path = STATES[CAPTIONS]
    if stage == "second":
        c.data.path, c.data.weights = ",".join(STATES.values()), (0.4, 0.6)
    c.keep_checkpoints = 1
    return c


def _words() -> ConfigDict:
    c = words.get_config(str(SCENES))
    c.data.path = f"{CAPTIONS}/*.tar"
    c.data.fields.text = {"key": "said"}
    c.data.context_length = 48
    c.method.lm.hidden, c.method.lm.weight_init = 256, "mae"
    c.batch_size, c.steps = 32, 4500  # small steps: it finds out sooner that it can look back
    c.optim.lr, c.optim.warmup_steps = 3e-3, 200
    return c


def _second(first: str, lm: str) -> ConfigDict:
    c = recipe(tiny_towers(texts="none"), 14, "blip2_lm")
    net = _words().method.lm.to_dict()
    c.method.lm, c.method.end_ids = ConfigDict(net), (words.END,)
    on_scenes(c, str(SCENES), "train")
    _answering(c)
    _start(c, first, lm)
    c.steps, c.optim.lr, c.ema_decay = 1000, 1e-3, 0.99
    c.optim.lr_groups = (("proj/.*", 10.0),)  # queries of stage 1 change little with the picture
    return c


def _smollm2(first: str, lm: str) -> ConfigDict:
    """Lists alone: what it is asked for."""
    c = recipe(tiny_towers(texts="none"), 12, "blip2_lm")
    net = ARCHS[SMOLLM2]["lm"]
    c.method.lm = ConfigDict({**common.defaults(net["name"]), **net})
    c.method.lm.unlock()
    c.method.end_ids, c.method.lm_dtype = (END,), "float32"
    on_scenes(c, str(SCENES), "train")
    c.method.unroll = False  # thirty layers
    _answering(c)
    c.data.tokenizer, c.data.tokenizer_options.clean = f"{lm}/tokenizer.json", "none"
    c.data.fields.prompt.templates = (PROMPT,)
    c.data.fields.text.templates = (" {c}",)  # its words begin with their space
    _start(c, first, lm)
    c.data.context_length = 12  # the prompt has ten; one in 300 texts is longer
    c.batch_size, c.steps, c.optim.lr, c.optim.warmup_steps = 16, 700, 1e-3, 30
    c.optim.lr_groups = (("proj/.*", 3.0),)
    c.ema_decay, c.eval_batch_size, c.log_every, c.checkpoint_every = 0.98, 64, 10, 100
    return c


def _answering(c: ConfigDict) -> None:
    """Answers to questions, both of so many tokens as texts have."""
    c.method.qformer.dropout = 0.0
    c.method.prompt_length = c.data.get_ref("context_length")
    with c.ignore_type():
        c.data.fields = ConfigDict({"text": {"key": "answers"}, "prompt": {"key": "question"}})


def _start(c: ConfigDict, first: str, lm: str) -> None:
    found = {"image": f"{EYE}:image", "image_norm": f"{EYE}:image/norm_post"}
    found |= {part: f"{first}:{part}" for part in SPEAKERS} if first else {}
    start(c, found | ({"lm": f"{lm}:lm"} if lm else {}))
