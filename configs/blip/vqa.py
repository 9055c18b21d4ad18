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
from configs.blip.tiny import small, small_towers


def get_config(what: str = "base") -> ConfigDict:
    """Args: base, or a folder of scenes."""
    what = what or "base"
    if what != "base":
        return _small(what)
    c = _of(published(what, 480), 35, 10)
    c.method.image.drop_path = 0.1  # as blip_vqa.py has it
    c.method.answer.dropout = 0.1
    c.data.path = "vqa/v2_OpenEnded_mscoco_train2014_questions.json"
    c.batch_size, c.epochs = 256, 10.0
    c.optim.lr, c.optim.schedule = 2e-5, "cosine"
    return c


def _of(towers: dict, length: int, answer: int) -> ConfigDict:
    """On questions and answers of so many tokens."""
    towers["answer"] = {**towers["text"], "roles": "decoder"}
    towers["text"] |= {"roles": "encoder"}
    c = recipe(towers, "blip_vqa")
    texts(c, length)
    c.data.tokenizer_options.clean = "blip_question"
    c.method.answers = 4
    c.method.answer_length = answer
    c.data.tokenizers.answer = {"name": c.data.get_ref("tokenizer"), "context_length": answer}
    c.data.fields.text = {"key": "question"}
    c.data.fields.answer = {"key": "answers"}
    return c


def _small(scenes: str) -> ConfigDict:
    c = small(_of(small_towers(), 16, 6), scenes, "vqa-train")
    c.steps, c.optim.lr = 1200, 5e-4
    asked = {"type": "vqa", "path": f"{scenes}/emoji_scenes-vqa-test-*.tar"}
    c.evals.vqa = {**asked, "how": {"max_new": 6, "beams": 3}}
    c.evals.ranked = {**asked, "mode": "rank"}
    return c
