"""BLIP fine-tuned to answer questions, VQAv2 (arXiv:2201.12086, section 5.3 and Table 14): an
encoder of the question beside the picture at 480 pixels, and a decoder of answers that weigh what
their annotators do.

python -m vlp_jax train --config=configs/blip/vqa.py:base --workdir=W
    --config.init_from.image=PRETRAINED:image --config.init_from.text=PRETRAINED:text
    --config.init_from.answer=PRETRAINED:text --config.data.path=v2_OpenEnded_..._questions.json

The file exists as that recipe; argument: base, or the folder of `data prepare emoji_scenes` for its
small form.
"""

from ml_collections import ConfigDict

from configs.blip.common import published, recipe, texts
from configs.blip.tiny import END, small_towers


def get_config(what: str = "base") -> ConfigDict:
    """Args: base, or a folder of scenes."""
    what = what or "base"
    c = _of(published(what, 480) if what == "base" else small_towers())
    return c if what == "base" else _small(c, what)


def _of(towers: dict) -> ConfigDict:
    towers["answer"] = {**towers["text"], "roles": "decoder"}
    towers["text"] |= {"roles": "encoder"}
    c = recipe(towers, "blip_vqa")
    texts(c, 35)
    c.method.answer.dropout = 0.1
    c.method.answers = 4
    c.method.answer_length = 10
    c.data.tokenizers.answer = {"name": c.data.get_ref("tokenizer"), "context_length": 10}
    c.data.fields.text = {"key": "question"}
    c.data.fields.answer = {"key": "answers"}
    c.data.path = "vqa/v2_OpenEnded_mscoco_train2014_questions.json"
    c.batch_size, c.epochs = 256, 10.0
    c.optim.lr, c.optim.schedule = 2e-5, "cosine"
    return c


def _small(c: ConfigDict, scenes: str) -> ConfigDict:
    c.data.context_length = 20  # method.text_length refers to it
    c.method.end_id = END
    c.method.unroll = True
    c.method.answer_length = c.data.tokenizers.answer.context_length = 6
    c.method.text.dropout = c.method.answer.dropout = 0.0
    c.method.augment.flip, c.method.augment.crop_scale = 0.0, (1.0, 1.0)
    c.method.rand_augment.magnitude = 0.0
    c.data.path = f"{scenes}/emoji_scenes-vqa-train-*.tar"
    c.data.tokenizer = f"{scenes}/vocab.txt"
    c.batch_size, c.steps, c.epochs = 64, 2000, 0.0
    c.optim.lr, c.optim.warmup_steps, c.optim.clip_norm = 5e-4, 100, 1.0
    c.optim.lr_by_epoch = False
    asked = {"type": "vqa", "path": f"{scenes}/emoji_scenes-vqa-test-*.tar", "limit": 1000}
    c.evals.vqa = {**asked, "how": {"max_new": 6, "beams": 3}}
    c.evals.ranked = {**asked, "mode": "rank"}
    c.log_every, c.checkpoint_every = 50, 500
    return c
