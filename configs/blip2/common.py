"""What BLIP-2's recipes share: the published optimiser, pictures and texts, and what parts start
from (arXiv:2301.12597, section 3.4; reference: salesforce/LAVIS).

The file exists so that each recipe states its task only.
"""

from ml_collections import ConfigDict

from configs import common
from configs.blip.common import texts
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.models.archs import language_model, t5
from vlp_jax.models.archs.blip2 import VISION, blip2_towers

LMS = {**language_model.ARCHS, **t5.ARCHS}
IDS = {"opt": (2, 2), "llama": (1, 2), "vicuna": (1, 2), "flan": (0, 1)}  # start, end
STAGE_1 = ("image", "image_norm", "queries", "qformer")
KINDS = ("attn", "norm1", "mlp", "norm2")  # of a BERT's layer, and what the queries' own start from
COPIES = {name: name for name in KINDS} | {"query_mlp": "mlp", "norm_query": "norm2"}


def recipe(towers: dict, length: int, name: str = "blip2") -> ConfigDict:
    """A stage on these towers and texts of so many tokens with the published numbers."""
    c = common.base()
    c.method = common.trunk_method(name, towers)
    c.method.qformer = ConfigDict({**common.defaults("qformer"), **towers["qformer"]})
    c.method.qformer.unlock()
    c.method.qformer.dropout = 0.1
    c.image_size = c.method.image.image_size
    c.method.image.image_size = c.get_ref("image_size")
    c.method.augment.flip = 0.5
    c.method.augment.crop_scale = (0.5, 1.0)
    if name == "blip2":
        c.method.losses = ("itc", "itm", "itg")
    c.method.frozen_tower = True
    c.method.tower_dtype = "float32"
    c.method.image_norm_eps = 1e-5
    c.data.image.crop = c.data.image.eval_crop = "squash"
    c.data.tokenizer_options.clean = "blip"
    c.data.tokenizer = "bert-base-uncased/vocab.txt"
    texts(c, length)
    c.optim.weight_decay = 0.05
    c.optim.no_decay = (r"(.*/)?(bias|scale|temperature)",)
    c.optim.b2, c.optim.eps, c.optim.clip_norm = 0.98, 1e-8, 0.0
    c.optim.schedule, c.optim.lr_by_epoch = "cosine", True
    return c


def published(size: str, image_size: int = 224, **qformer: str) -> dict:
    """Towers of `g` or `L`. Raises UserError for another size."""
    return blip2_towers(size or "g", image_size, **qformer)


def half_precision(c: ConfigDict) -> None:
    """Everything in bfloat16 but what learns, which is float32."""
    c.method.dtype, c.method.tower_dtype = "bfloat16", "bfloat16"


def from_bert(folder: str) -> dict:
    """`init_from` of a Q-Former whose every second layer looks at the picture: a BERT, with a copy
    of its MLP for the queries; what looks, and the head of words, start anew."""
    words = ("token_embed", "pos_embed", "norm_embed")
    found = {f"qformer/{name}": f"{folder}:text/{name}" for name in words}
    return found | {
        f"qformer/layers/at{i}/{ours}": f"{folder}:text/blocks/{theirs}[{i}::2]"
        for i in range(2)
        for ours, theirs in COPIES.items()
    }


def from_tower(size: str, folder: str) -> dict:
    """`init_from` of the eye: a converted tower of the same width, whose last layer is left out
    where it has one more."""
    blocks = f"{folder}:image/blocks[:{VISION[size or 'g']['num_layers']}]"
    return {"image": f"{folder}:image", "image/blocks": blocks}


def start(c: ConfigDict, init_from: dict) -> None:
    """Where parts start from."""
    with c.ignore_type():
        c.init_from = init_from


def before_lm(size: str, name: str, image_size: int, length: int, words: str) -> ConfigDict:
    """A tower and a Q-Former, whose texts are `words`, in front of a frozen language model, which
    reads or writes so many tokens.

    Raises:
      UserError: no language model of models/archs.
    """
    if name not in LMS:
        raise UserError(f"configs/blip2: unknown language model {name!r}{nearest(name, LMS)}")
    lm = LMS[name]["lm"]
    c = recipe(published(size, image_size, texts=words), length, "blip2_lm")
    c.method.lm = ConfigDict({**common.defaults(lm["name"]), **lm})
    c.method.lm.unlock()
    c.method.start_id, end = IDS.get(name.partition("-")[0], (-1, 2))
    c.method.end_ids = (end,)
    if encodes(c):
        c.method.lm.activation = "gelu"  # exact, as the reference has a T5
    half_precision(c)
    c.method.lm_dtype = "bfloat16"
    c.method.remat = "full"
    c.sharding = "fsdp"
    c.data.tokenizer = f"{name}/tokenizer.json"
    c.data.workers = 16
    c.checkpoint_every = 1000
    return c


def encodes(c: ConfigDict) -> bool:
    """Whether the language model is a T5."""
    return c.method.lm.name == "t5"


def prompted(c: ConfigDict, length: int, template: str, key: str) -> None:
    """A prompt of so many tokens from a JSON key, which the queries read too; texts as they are."""
    c.method.prompt_length, c.method.instructed = length, True
    for name in ("prompt", "instruction"):
        c.data.fields[name] = {"key": key, "templates": (template,)}
    c.data.fields.prompt.tokenizer = "prompt"
    c.data.tokenizer_options.clean = "none"
    own = {"context_length": length, "clean": "none"}
    c.data.tokenizers.prompt = {"name": c.data.get_ref("tokenizer"), **own}
    c.data.tokenizers.qformer = {"name": "bert-base-uncased/vocab.txt", **own}


def from_second(folder: str, bert: str) -> dict:
    """`init_from` of a Q-Former that reads: the second stage, and of a BERT what is of texts alone,
    which that lacks; "": of none."""
    found = {part: f"{folder}:{part}" for part in (*STAGE_1, "proj", "lm")} if folder else {}
    own = ("token_embed", "pos_embed", "/mlp", "/norm2")
    words = from_bert(bert) if bert else {}
    return found | {ours: its for ours, its in words.items() if ours.endswith(own)}
