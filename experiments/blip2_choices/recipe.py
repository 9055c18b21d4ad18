"""BLIP-2, one choice at a time: what writing (ITG) brings to retrieval (arXiv:2301.12597, Table 6),
how many queries there are, how large the language model is (Table 2).

Small form: the eye and the scenes of blip2_tiny, both stages shorter; its language models are
trained here. Full form: ViT-g; Table 6 fine-tuned on COCO, Table 2 on VQAv2 val.
"""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.blip2_tiny.recipe import (
    CONSTANT,
    FIRST,
    IR,
    LOSS,
    NAMED,
    SMALL,
    TEXTS,
    TR,
    VQA,
    VQAV2,
    folder,
)
from experiments.blip2_tiny.recipe import first as first_stage
from experiments.blip2_tiny.recipe import second as second_stage
from experiments.blip2_tiny.scenes import TEST, prepare
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend, Values
from vlp_jax.core.errors import UserError

STEPS = {"first": 400, "second": 300, "words": 3000}
WORDS = "language model"
BASE, PLAIN = "8 queries", "ITC and ITM alone"
QUERIES = {"1 query": 1, "4 queries": 4, "16 queries": 16}
LMS = {  # beside the usual one of four layers of 128
    "2 layers of 64": dict(width=64, num_layers=2, num_heads=2, hidden=128),
    "6 layers of 192": dict(width=192, num_layers=6, num_heads=6, hidden=384),
}
PUBLISHED, COCO = "configs/blip2/pretrain.py", "coco/dataset_coco.json:test"
OPT, ALL = "opt-2.7b", "ITC, ITM and ITG"
TABLE_2 = {OPT: 53.5, "opt-6.7b": 54.3, "flan-t5-xl": 63.1, "flan-t5-xxl": 65.2}
TABLE_6 = {ALL: (("itc", "itm", "itg"), 85.4, 68.3), PLAIN: (("itc", "itm"), 84.5, 67.2)}


def length(stage: str, **changes: Any) -> dict[str, Any]:
    """Changes of a shorter stage."""
    return {"steps": STEPS[stage], "optim.warmup_steps": 50, **changes}


def before(row: str) -> str:
    """The first stage of a row."""
    return f"{FIRST} of {row}"


def sized(sizes: Mapping[str, int]) -> dict[str, int]:
    """Changes of a language model's sizes."""
    return {f"method.lm.{key}": value for key, value in sizes.items()}


def both(row: str, **changes: Any) -> dict[str, Cell]:
    """The two stages of a row that differs from the base in `changes`."""
    return {
        before(row): first_stage(changes=length("first", **changes), aside=True),
        row: second_stage(before(row), WORDS, changes=length("second", **changes)),
    }


def silent() -> dict[str, Cell]:
    """A first stage that does not write."""
    changes = {"method.losses": ("itc", "itm"), "method.qformer.texts": "read"}
    start = first_stage(changes=length("first", **changes), aside=True)
    for written in ("captions", "other"):
        del start.evals[written]
    row = second_stage(before(PLAIN), WORDS, changes=length("second"))
    return {before(PLAIN): start, PLAIN: row}


def language_models() -> dict[str, Cell]:
    """The usual one, then each of the others with a row in front of it, of the base's queries."""
    texts = {"texts": {"type": "perplexity", "path": TEST}}
    how = dict(config=f"{SMALL}:words", evals=texts, aside=True)
    cells = {}
    for row, sizes in LMS.items():
        lm, own = f"{WORDS} of {row}", sized(sizes)
        cells[lm] = Cell(changes=length("words", **own), **how)
        cells[row] = second_stage(before(BASE), lm, changes=length("second", **own))
    return {WORDS: Cell(changes=length("words"), **how), **both(BASE), **cells}


def small() -> Study:
    """About 60 minutes."""
    cells = {**language_models(), **silent()}
    for row, count in QUERIES.items():
        cells |= both(row, **{"method.qformer.num_queries": count})
    return Study(
        title="BLIP-2: what writes in stage 1, queries, language models (%)",
        minutes=60,
        cells=cells,
        evals={},
        columns={
            **retrieved(),
            VQA: Column("vqa.accuracy"),
            CONSTANT: Column("vqa.constants"),
            NAMED: Column("captions.named"),
            TEXTS: Column("texts.perplexity", 1.0),
            LOSS: Column("loss", 1.0),
        },
        trends=trends(),
        prepare=prepare,
    )


def retrieved() -> dict[str, Column]:
    """Of a first stage."""
    return {TR: Column("retrieval.i2t_r1"), IR: Column("retrieval.t2i_r1")}


def trends() -> tuple[Trend, ...]:
    """Of the small form."""
    less, more = LMS

    def saturates(v: Values) -> bool:
        four, eight, sixteen = (v[row][VQA] for row in ("4 queries", BASE, "16 queries"))
        return sixteen - eight < eight - four

    return (
        Trend("ITG does not cost retrieval (TR@1 + IR@1)",
              lambda v: total(v[before(BASE)]) >= total(v[before(PLAIN)])),
        Trend("queries that wrote answer better", grows(PLAIN, BASE)),
        Trend("more queries answer better, up to 8", grows("1 query", "4 queries", BASE)),
        Trend("then it saturates: 16 add less to 8 than 8 to 4", saturates),
        Trend("a larger language model answers better", grows(less, BASE, more)),
    )  # fmt: skip


def grows(*rows: str) -> Callable[[Values], bool]:
    """Whether each row answers better than the one before."""

    def holds(v: Values) -> bool:
        found = [v[row][VQA] for row in rows]
        return found == sorted(set(found))

    return holds


def total(row: Mapping[str, float]) -> float:
    """Both recalls."""
    return row[TR] + row[IR]


def published() -> Study:
    """ViT-g; 32 queries are the usual."""
    cells = {FIRST: Cell(config=f"{PUBLISHED}:g", aside=True)}
    coco = {"type": "retrieval", "path": COCO, "captions": 5, "rerank": 128}
    for row, (losses, tr, ir) in TABLE_6.items():
        cells[row] = Cell(
            config="configs/blip2/retrieval.py:g",
            changes={"method.losses": losses},
            start=FIRST,
            start_at="",
            evals={"retrieval": coco},
            paper={TR: tr, IR: ir},
        )
    for lm, score in TABLE_2.items():
        cells[lm] = answering(lm, FIRST, paper={VQA: score})
    for count in (8, 16):
        row, changes = f"{count} queries", {"method.qformer.num_queries": count}
        cells[before(row)] = Cell(config=f"{PUBLISHED}:g", changes=changes, aside=True)
        cells[row] = answering(OPT, before(row), changes=changes)

    return Study(
        title="BLIP-2: Table 6 on COCO, Table 2 on VQAv2 val (%)",
        cells=cells,
        evals={},
        columns={**retrieved(), VQA: Column("vqa.accuracy")},
        trends=(
            Trend("ITG does not cost retrieval (TR@1 + IR@1)",
                  lambda v: total(v[ALL]) >= total(v[PLAIN])),
            Trend("a larger OPT answers better", grows(OPT, "opt-6.7b")),
            Trend("a larger Flan-T5 answers better", grows("flan-t5-xl", "flan-t5-xxl")),
            Trend("more queries answer better", grows("8 queries", "16 queries", OPT)),
        ),
    )  # fmt: skip


def answering(lm: str, start: str, **how: Any) -> Cell:
    """A second stage on VQAv2 as the paper asks it."""
    short = "Short answer" if lm.startswith("flan") else "Answer"
    asked = {"type": "vqa", "path": VQAV2, "prompt": f"Question: {{question}} {short}:"}
    asked["how"] = {"beams": 5, "length_penalty": -1.0, "max_new": 10}
    config = f"configs/blip2/stage2.py:g,{lm},{folder(start)}"
    return Cell(config=config, needs=(start,), evals={"vqa": asked}, **how)


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji."""
    if data != DataSet():
        raise UserError("blip2_choices: composes scenes of the embedded emoji; leave --data out")
    return published() if full else small()
