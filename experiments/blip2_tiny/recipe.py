"""BLIP-2 from a small eye and a small language model: both stages, and the second without the first
(arXiv:2301.12597, Figure 5).

Small form: scenes of emoji; the frozen eye is what BLIP's small form starts from, the frozen
language model is trained here on the scenes' texts. The second stage answers questions and names
what there is, once on queries of the first stage, once on new ones, equally long. Full form: ViT-g
and OPT-2.7B, zero-shot VQAv2.
"""

from functools import partial
from typing import Any

from configs.blip.tiny import captions, pairs
from experiments.blip2_tiny import measures
from experiments.blip2_tiny.scenes import ASK, SCENES, TEST, UNSEEN, VAL, VQA_TEST, prepare
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend
from vlp_jax.core.errors import UserError

SMALL = "experiments/blip2_tiny/small.py"
WORDS, FIRST, SECOND, ALONE = "language model", "stage 1", "stage 2", "stage 2 alone"
VQA, CONSTANT, NAMED, SHUFFLED = "VQA", "one answer a type", "all named", "of another picture"
VQA_OTHER, NAMED_OTHER = "VQA, other style", "all named, other style"
TR, IR = "TR@1", "IR@1"
TEXTS, BEFORE, AFTER = "perplexity", "its perplexity before", "after"
CHANGED, LOSS = "frozen leaves changed", "loss"
WRITING, MATCHING, LATER = "queries moved, writing", "matching", "words moved by later ones"
FOLDER = "{{out}}/cells/{}/seed{{seed}}"
VQAV2 = "vqa/v2_OpenEnded_mscoco_val2014_questions.json"


def folder(cell: str) -> str:
    """A cell's workdir, in a config's argument."""
    return FOLDER.format(cell.replace(" ", "_"))


def first(**how: Any) -> Cell:
    """The first stage."""
    retrieval = {**pairs(str(SCENES)), "rerank": 8}
    written = captions(str(SCENES))
    evals = {"retrieval": retrieval, "captions": {**written, "path": VAL}, "other": written}
    return Cell(config=f"{SMALL}:first", evals=evals, **how)


def second(before: str, words: str, **how: Any) -> Cell:
    """The second stage after the cell `before` ('': none), in front of the cell `words`."""
    what = f"second,{before and folder(before)},{folder(words)}"
    asked = {"type": "vqa", "path": UNSEEN, "how": {"max_new": 6}}
    named = {**captions(str(SCENES)), "path": VAL, "prompt": ASK, "how": {"max_new": 20}}
    evals = {"vqa": asked, "captions": named}
    evals |= {"vqa_other": {**asked, "path": VQA_TEST}, "other": {**named, "path": TEST}}
    needs = tuple(filter(None, (before, words)))
    return Cell(config=f"{SMALL}:{what}", evals=evals, needs=needs, **how)


def small() -> Study:
    """About 25 minutes."""
    texts = {"texts": {"type": "perplexity", "path": TEST}}
    cells = {
        WORDS: Cell(config=f"{SMALL}:words", evals=texts, aside=True),
        FIRST: first(after=partial(measures.blind, FIRST)),
        SECOND: second(FIRST, WORDS, after=partial(told, SECOND)),
        ALONE: second("", WORDS, after=partial(told, ALONE)),
    }
    return Study(
        title="BLIP-2: the second stage with and without the first (%)",
        minutes=25,
        cells=cells,
        evals={},
        columns=columns(),
        trends=trends(),
        prepare=prepare,
    )


def told(cell: str, *where: Any) -> dict[str, float]:
    """What stayed as it was, and sheets."""
    return measures.kept(cell, WORDS, *where) | measures.answers(cell, *where)


def columns() -> dict[str, Column]:
    """Of the small form."""
    return {
        VQA: Column("vqa.accuracy"),
        CONSTANT: Column("vqa.constants"),
        NAMED: Column("captions.named"),
        SHUFFLED: Column("captions.chance_named"),
        VQA_OTHER: Column("vqa_other.accuracy"),
        NAMED_OTHER: Column("other.named"),
        TR: Column("retrieval.i2t_r1"),
        IR: Column("retrieval.t2i_r1"),
        TEXTS: Column("texts.perplexity", 1.0),
        BEFORE: Column("kept.before", 1.0),
        AFTER: Column("kept.after", 1.0),
        CHANGED: Column("kept.changed", 1.0),
        WRITING: Column("blind.writing", 1.0),
        MATCHING: Column("blind.matching", 1.0),
        LATER: Column("blind.later", 1.0),
        LOSS: Column("loss", 1.0),
    }


def trends() -> tuple[Trend, ...]:
    """What must be reached."""
    both = (SECOND, ALONE)
    return (
        Trend("after stage 1 stage 2 answers 15 points better than without",
              lambda v: v[SECOND][VQA] >= v[ALONE][VQA] + 15),
        Trend("its loss is lower", lambda v: v[SECOND][LOSS] < v[ALONE][LOSS]),
        Trend("after stage 1 alone captions name all there is in 60 % of unseen scenes",
              lambda v: v[FIRST][NAMED] >= 60),
        Trend("so do lists that the language model writes", lambda v: v[SECOND][NAMED] >= 60),
        Trend("what is written moves no bit of the queries, nor of the words before it",
              lambda v: v[FIRST][WRITING] == v[FIRST][LATER] == 0),
        Trend("what is matched moves them", lambda v: v[FIRST][MATCHING] > 0),
        Trend("frozen parts have the digests they had",
              lambda v: all(v[cell][CHANGED] == 0 for cell in both)),
        Trend("the language model reads texts as before",
              lambda v: all(v[cell][BEFORE] == v[cell][AFTER] for cell in both)),
    )  # fmt: skip


def published() -> Study:
    """ViT-g and OPT-2.7B; PARTS of the command line: BERT, the eye, the language model."""
    config = "configs/blip2/stage2.py:g,opt-2.7b"
    eye = {"init_from.image": f"{folder(FIRST)}:image"}
    how = {"beams": 5, "length_penalty": -1.0, "max_new": 10}
    asked = {"type": "vqa", "path": VQAV2, "prompt": "Question: {question} Answer:", "how": how}
    return Study(
        title="BLIP-2: the second stage with and without the first, zero-shot VQAv2 val (%)",
        cells={
            FIRST: Cell(config="configs/blip2/pretrain.py:g", aside=True),
            SECOND: Cell(config=f"{config},{folder(FIRST)}", needs=(FIRST,), paper={VQA: 53.5}),
            ALONE: Cell(config=config, changes=eye, needs=(FIRST,)),
        },
        evals={"vqa": asked},
        columns={VQA: Column("vqa.accuracy"), LOSS: Column("loss", 1.0)},
        trends=trends()[:2],
    )


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji."""
    if data != DataSet():
        raise UserError("blip2_tiny: composes scenes of the embedded emoji; leave --data out")
    return published() if full else small()
