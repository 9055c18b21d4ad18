"""The data of BLIP-2's studies: scenes as questions with answers, the texts that a language model
learns from, the states of the frozen eye; and that eye.

The file exists because the second stage asks a caption and an answer alike, by a question, and
because no cell has to run the eye.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlp_jax.data.scenes.layout import QUESTIONS as EACH
from vlp_jax.data.source import Example

SCENES, EYE = Path("runs/scenes"), Path("runs/blip/words")  # as in configs/README.md
ASKED = Path("runs/scenes_asked")
CAPTIONS, QUESTIONS = (f"{ASKED}/{name}" for name in ("captions", "questions"))
STATES = {folder: f"{folder}_states" for folder in (CAPTIONS, QUESTIONS)}  # caches of the eye
UNSEEN = f"{ASKED}/unseen/*.tar"  # questions about val, in the style of training
VAL, TEST, VQA_TEST = (
    f"{SCENES}/emoji_scenes-{split}-*.tar" for split in ("val", "test", "vqa-test")
)
ASK = "What is in the picture?"
THEN = " [SEP] [CLS] "  # a text ends, and the next begins, as a prompt behind a picture does
SEVERAL, ANSWERS = 2, 3  # captions, and answers, of a text at most


class Changed:
    """A source that makes `each` samples of one, change(sample, which)."""

    def __init__(self, whole: Any, change: Callable[[Example, int], Example], each: int = 1):
        self.whole, self.change, self.each, self.damage = whole, change, each, whole.damage

    def __len__(self) -> int:
        return len(self.whole) * self.each

    def where(self, i: int) -> str:
        return self.whole.where(i // self.each)

    def __getitem__(self, i: int) -> Example:
        return self.change(self.whole[i // self.each], i % self.each)


def behind(texts: list[str], answers: list[str]) -> list[str]:
    """What a language model reads of a scene: answers with their questions behind no caption, each
    of them, and two, which say the same in other words: so it learns to look back.

    >>> behind(["a pig", "one pig"], ["what ? pig", "how many ? 1"])[:2]
    ['what ? pig [SEP] [CLS] how many ? 1', \
'a pig [SEP] [CLS] how many ? 1 [SEP] [CLS] what ? pig']
    """
    turn = lambda some, i: some[i % len(some) :] + some[: i % len(some)]  # noqa: E731
    alone = [[text] for text in texts]
    several = [turn(texts, i)[:SEVERAL] for i in range(len(texts))]
    starts = [[], *alone, *several]
    return [THEN.join([*start, *turn(answers, i)[:ANSWERS]]) for i, start in enumerate(starts)]


def captioned(example: Example, which: int = 0) -> Example:
    """A scene, asked what it shows: `answers` is the list of all there is; `said` what a language
    model reads: its questions, this one among them, behind its captions.

    >>> ask = {"question": "how many ?", "answer": "1"}
    >>> scene = {"text": ["a pig", "there is a pig"], "meta": {"style": "noto", "questions": [ask]}}
    >>> captioned(scene)["meta"]["said"][1]
    'a pig [SEP] [CLS] how many ? 1 [SEP] [CLS] What is in the picture? a pig'
    """
    del which
    texts = example["text"]
    answers = [f"{one['question']} {one['answer']}" for one in example["meta"]["questions"]]
    said = behind(texts, [f"{ASK} {texts[0]}", *answers])
    meta = {"question": ASK, "answers": texts[:1], "said": said}
    return {**example, "meta": meta, "members": {}}


def asked(example: Example, which: int = 0) -> Example:
    """A question about a scene, or one of those that a scene has."""
    several = example["meta"].get("questions", [example["meta"]])
    return {**example, "text": [], "meta": several[which], "members": {}}


def prepare(names: list[str]) -> None:
    """Composes the scenes, trains the eye (8 minutes, once), writes the three sets and caches the
    eye's states of two, where they are not there."""
    from vlp_jax.api.data import prepare
    from vlp_jax.parallel.hosts import from_first
    from vlp_jax.parallel.startup import first_process

    del names
    if first_process() and not (SCENES / "vocab.txt").is_file():
        prepare("emoji_scenes", str(SCENES), changes=1.0, train=12000, vqa_train=18000)
    from_first("the scenes are there")
    make_eye()
    if first_process():
        write_sets()
    from_first("the sets are there")
    for folder, states in STATES.items():
        cache_states(folder, states)


def make_eye() -> None:
    """The tower that BLIP's small form starts from; goes on with an unfinished one."""
    from vlp_jax.api.config import load_config
    from vlp_jax.api.study import ROOT
    from vlp_jax.api.train import train
    from vlp_jax.train.checkpoint import Checkpoints

    config = load_config(f"{ROOT}/configs/blip/words.py:{SCENES}", {})
    if (EYE / "checkpoints").is_dir() and config.steps in Checkpoints(EYE / "checkpoints").steps():
        return
    train(config, EYE)


def write_sets() -> None:
    """ASKED, from the splits of training."""
    from vlp_jax.data.export import export
    from vlp_jax.data.open import open_source

    scenes, questions, unseen = (
        open_source(f"{SCENES}/emoji_scenes-{split}-*.tar")
        for split in ("train", "vqa-train", "val")
    )
    for folder, source in (
        (CAPTIONS, Changed(scenes, captioned)),
        (QUESTIONS, Changed(questions, asked)),
        (os.path.dirname(UNSEEN), Changed(unseen, asked, EACH)),
    ):
        if not Path(folder).is_dir():
            partly = Path(f"{folder}.{os.getpid()}")
            export(source, str(partly))
            partly.rename(folder)


def cache_states(folder: str, states: str) -> None:
    """The eye's states of a set's pictures."""
    from vlp_jax.api.cache import Request, cache
    from vlp_jax.api.config import load_config
    from vlp_jax.api.study import ROOT
    from vlp_jax.data.cache import MANIFEST

    if not (Path(states) / MANIFEST).is_file():
        changes = {"data.path": f"{folder}/*.tar", "data.fields.text.key": "question"}
        config = load_config(f"{ROOT}/experiments/blip2_tiny/small.py:first", changes)
        cache(Request(out=states, config=config, functions=("image_states",)))
