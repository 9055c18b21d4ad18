"""A small language model of the captions of composed scenes, without a picture.

python -m vlp_jax data prepare emoji_scenes --out=runs/scenes
python -m vlp_jax train --config=configs/language_model/tiny.py:runs/scenes --workdir=runs/lm

The file exists as the frozen language model that small forms of later methods write with; argument:
the folder of the scenes.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.archs.language_model import llama

END = 3  # [SEP] in the vocabulary of the scenes


def get_config(scenes: str = "") -> ConfigDict:
    """Args: the folder of the scenes."""
    scenes = scenes or "runs/scenes"
    c = common.base()
    net = llama(128, 4, 4, 352, vocab_size=160, context_length=64, tied=True)
    switches = {"name": net["name"], **common.defaults(net["name"]), **net}
    c.method = ConfigDict({"name": "language_model", "lm": switches})
    c.method.start_id, c.method.end_ids = -1, (END,)
    c.method.label_smoothing = 0.0
    c.method.dtype, c.method.remat, c.method.unroll = "float32", "none", True
    c.data.path = f"{scenes}/emoji_scenes-train-*.tar"
    c.data.tokenizer = f"{scenes}/vocab.txt"
    c.data.context_length = 32
    c.method.text_length = c.data.get_ref("context_length")
    c.data.buckets = ()
    c.batch_size, c.steps = 64, 2000
    c.optim.lr, c.optim.warmup_steps, c.optim.weight_decay = 2e-3, 100, 0.05
    c.log_every, c.checkpoint_every = 50, 500
    c.evals.texts = {"type": "perplexity", "path": f"{scenes}/emoji_scenes-test-*.tar"}
    return c
