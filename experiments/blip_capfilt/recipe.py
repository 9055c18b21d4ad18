"""BLIP, Tables 1 to 4: what CapFilt brings, how its captions are written, whether captioner and
filter share weights, and what encoder and decoder share (arXiv:2201.12086).

One pre-training on noisy web texts is the start of all: captioner and filter are fine-tuned from it
on people's captions. Full form: ViT-B/16 on 14M pictures, every row trained from scratch as in the
paper, then fine-tuned on COCO. Small form: scenes of emoji, 40 % of whose web texts are wrong; the
rows of Tables 1, 2 and 4 go on from the shared pre-training, each for as many steps on its own
texts; what is measured is the pre-trained model itself, on scenes in the other drawing style.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from experiments.blip_capfilt.scenes import HUMAN, TEST, WEB, write_sets
from vlp_jax.api.study import Cell, Column, DataSet, Run, Study, Trend
from vlp_jax.core.errors import UserError

CAPTIONER, FILTER, JOINT = "captioner", "filter", "captioner = filter"
TOWER = "tower"  # of the small form: pictures to words
SMALL = "experiments/blip_capfilt/small.py"
PLAIN, FILTERED, CAPTIONED = "web texts", "filter alone", "captioner alone"
BOTH, BEAM, SHARED = "captioner and filter", "beam search", "captioner and filter are one"
SHARES = {  # Table 3, without CapFilt
    "all shared": ("all", 77.3, 59.5, 125.9, 224),
    "all but cross-attention": ("except_cross_attention", 77.5, 59.9, 126.1, 252),
    "all but self-attention": ("except_self_attention", 78.4, 60.7, 127.8, 252),
    "nothing shared": ("none", 78.3, 60.5, 127.4, 361),
}
USUAL = "all but self-attention"  # the pre-training itself
TR, IR, CIDER, NOISE = "TR@1", "IR@1", "CIDEr", "noise"  # noise: of the written texts, dropped
MILLIONS = "parameters (M)"
PAPER = {  # Tables 1, 2 and 4: COCO after fine-tuning; share of the written texts that is dropped
    PLAIN: {TR: 78.4, IR: 60.7, CIDER: 127.8},
    FILTERED: {TR: 79.1, IR: 61.5, CIDER: 128.2},
    CAPTIONED: {TR: 79.7, IR: 62.0, CIDER: 128.9},
    BOTH: {TR: 80.6, IR: 63.1, CIDER: 129.7, NOISE: 25},
    BEAM: {TR: 79.6, IR: 61.9, CIDER: 128.9, NOISE: 19},
    SHARED: {TR: 79.8, IR: 62.2, CIDER: 129.0, NOISE: 8},
}
MAKERS = {  # who makes a row's texts, and how they are written
    FILTERED: ("", FILTER, {}),
    CAPTIONED: (CAPTIONER, "", {}),
    BOTH: (CAPTIONER, FILTER, {}),
    BEAM: (CAPTIONER, FILTER, {"beams": 3, "top_p": None}),
    SHARED: (JOINT, JOINT, {}),
}
FULL_WEB, FULL_HUMAN = "blip/web-{0000..1300}.tar", "blip/human-{000..100}.tar"
COCO = "coco/dataset_coco.json"


def set_of(row: str) -> str:
    """Where a row's texts lie, below the study's folder."""
    return f"sets/seed{{seed}}/{row.replace(' ', '_')}"


def bootstrap(
    row: str, how: Mapping[str, Any], place: Callable[[str], Path], out: Path, seed: int
) -> dict[str, float]:
    """Writes the texts of a row: {capfilt.noise: the share of written texts that is dropped, and
    right_dropped, wrong_dropped: of the data's own, where it knows}."""
    from vlp_jax.api.capfilt import HOW, Request, capfilt
    from vlp_jax.parallel.hosts import from_first

    captioner, judge, writing = MAKERS[row]
    models = {"captioner": captioner, "filter": judge}
    found = {name: str(place(cell)) for name, cell in models.items() if cell}
    written = dataclasses.replace(HOW, **writing)
    folder = str(out / set_of(row).format(seed=seed))
    counts = capfilt(Request(out=folder, how=written, seed=seed, **found, **how)).get("counts", {})

    def dropped(key: str) -> float:
        kept, lost = (counts.get(f"{key} {word}", 0) for word in ("kept", "dropped"))
        return lost / max(kept + lost, 1)

    names = {"noise": "synthetic"} if captioner and judge else {}
    if judge and how.get("truth"):
        names |= {"right_dropped": "right", "wrong_dropped": "wrong"}
    from_first("")  # the others wait until it is there
    return {f"capfilt.{name}": dropped(key) for name, key in names.items()}


def better(text: str, more: str, less: str, columns: tuple[str, ...] = (TR, IR, CIDER)) -> Trend:
    """One row beats another in most of the columns."""
    rows = f"{text} ({', '.join(columns)}: most of them)" if len(columns) > 1 else text
    wins = lambda v: [v[more][column] > v[less][column] for column in columns]  # noqa: E731
    return Trend(rows, lambda v: 2 * sum(wins(v)) > len(columns))


def trends(plain: str) -> tuple[Trend, ...]:
    """Of the four tables; plain: the row without CapFilt."""
    return (
        better("the filter alone helps", FILTERED, plain),
        better("the captioner alone helps", CAPTIONED, plain),
        better("both beat the web texts", BOTH, plain),
        better("both beat the filter alone", BOTH, FILTERED),
        better("both beat the captioner alone", BOTH, CAPTIONED),
        better("drawn texts beat those of beam search", BOTH, BEAM),
        better("drawn texts are dropped more often", BOTH, BEAM, (NOISE,)),
        better("two models beat one for both tasks", BOTH, SHARED),
        better("two models drop more", BOTH, SHARED, (NOISE,)),
        better("self-attention is better not shared", USUAL, "all shared"),
        better("it is that, not cross-attention", USUAL, "all but cross-attention"),
        better("sharing costs nothing", USUAL, "nothing shared"),
        Trend(
            "parameters grow from all shared to nothing shared",
            lambda v: (
                v["all shared"][MILLIONS] < v[USUAL][MILLIONS] < v["nothing shared"][MILLIONS]
            ),
        ),
    )


def rows(config: str, human: str, data: Mapping[str, Any], start: str = "") -> dict[str, Cell]:
    """The rows of Tables 1, 2 and 4 that CapFilt makes. human: texts beside them; data: of the
    Request; start: the cell from which they go on, '' where they start from nothing."""
    return {
        row: Cell(
            config=config,
            changes={"data.path": f"{{out}}/{set_of(row)},{human}"},
            start=start,
            start_at="",
            needs=tuple(dict.fromkeys(filter(None, (captioner, judge)))),
            before=partial(bootstrap, row, data),
            paper=PAPER[row],
        )
        for row, (captioner, judge, _) in MAKERS.items()
    }


def sharing(config: str, changes: Mapping[str, Any], tower: str = "") -> dict[str, Cell]:
    """The rows of Table 3; the usual one is the pre-training. tower: the cell with whose tower they
    start, '' for none."""
    found = {}
    for row, (share, tr, ir, cider, millions) in SHARES.items():
        own = {"method.text.share": share}
        paper = {TR: tr, IR: ir, CIDER: cider, MILLIONS: millions}
        changed = {**changes, **own}
        found[row] = Cell(config=config, changes=changed, start=tower, paper=paper, then=own)
    return found


def aside(config: str, changes: Mapping[str, Any]) -> Cell:
    """A model that makes texts, fine-tuned from the pre-training."""
    return Cell(config=config, changes=changes, start=USUAL, start_at="", aside=True)


def small() -> Study:
    """Scenes of emoji, about an hour."""
    shares = sharing(f"{SMALL}:web", {}, TOWER)
    data = {"data": f"{WEB}/*.tar", "truth": "clean", "shard_size": 2000}
    cells = {
        TOWER: Cell(config=f"{SMALL}:words", aside=True),
        USUAL: shares.pop(USUAL),
        CAPTIONER: aside(f"{SMALL}:captioner", {}),
        FILTER: aside(f"{SMALL}:filter", {}),
        JOINT: aside(f"{SMALL}:joint", {}),
        PLAIN: Cell(config=f"{SMALL}:on", start=USUAL, start_at="", paper=PAPER[PLAIN]),
        **rows(f"{SMALL}:on", HUMAN, data, USUAL),
        **shares,
    }
    pairs = {"type": "retrieval", "path": TEST, "share_duplicates": True}
    captions = {"type": "caption", "path": TEST, "limit": 300}
    captions["how"] = {"max_new": 20, "beams": 3}
    columns = {
        TR: Column("retrieval.i2t_r1"),
        IR: Column("retrieval.t2i_r1"),
        CIDER: Column("captions.cider_d"),
        NOISE: Column("capfilt.noise"),
        "wrong texts dropped": Column("capfilt.wrong_dropped"),
        "right texts dropped": Column("capfilt.right_dropped"),
        MILLIONS: Column("parameters", 1e-6),
    }
    return Study(
        title="BLIP, Tables 1 to 4: CapFilt and sharing (%)",
        minutes=70,
        cells=cells,
        evals={"retrieval": pairs, "captions": captions},
        columns=columns,
        trends=trends(PLAIN),
        prepare=write_sets,
    )


def published() -> Study:
    """ViT-B/16, 14M pictures; COCO after fine-tuning."""
    config = "configs/blip/pretrain.py:base"
    tasks = {CAPTIONER: "caption", FILTER: "retrieval"}
    tasks = {name: f"configs/blip/{file}.py:base" for name, file in tasks.items()}
    tuned = {"data.path": f"{COCO}:train+restval"}
    joint = {"method.losses": ("itc", "itm", "lm"), "method.text.roles": "both"}
    shares = sharing(config, {"data.path": f"{FULL_WEB},{FULL_HUMAN}"})
    data = {"data": FULL_WEB, "prompt": "a picture of", "batch_size": 64}
    cells = {
        USUAL: shares.pop(USUAL),
        **{name: aside(file, tuned) for name, file in tasks.items()},
        JOINT: aside(tasks[FILTER], {**tuned, **joint}),
        **rows(config, FULL_HUMAN, data),
        **shares,
    }
    measured = {"evals.coco.path": f"{COCO}:test"}
    start = {"init_from": "{run}", **tuned, **measured}
    how = {"prompt": "a picture of ", "how.beams": 3, "how.max_new": 16, "how.min_new": 1}
    caption = {"evals.coco.type": "caption", **{f"evals.coco.{k}": v for k, v in how.items()}}
    columns = {
        TR: Column("retrieval.coco.i2t_r1"),
        IR: Column("retrieval.coco.t2i_r1"),
        CIDER: Column("caption.coco.cider_d"),
        NOISE: Column("capfilt.noise"),
        MILLIONS: Column("parameters", 1e-6),
    }
    return Study(
        title="BLIP, Tables 1 to 4: CapFilt and sharing, COCO after fine-tuning (%)",
        cells=cells,
        evals={},
        columns=columns,
        trends=trends(USUAL),  # from scratch, the row without CapFilt is the usual sharing
        follow_ups={
            "retrieval": Run(
                config=tasks[FILTER], changes={**start, "evals.coco.type": "retrieval"}
            ),
            "caption": Run(config=tasks[CAPTIONER], changes={**start, **caption}),
        },
    )


def get_study(full: bool, data: DataSet) -> Study:
    """Raises UserError for other data than the emoji."""
    if data != DataSet():
        raise UserError("blip_capfilt: composes scenes of the embedded emoji; leave --data out")
    return published() if full else small()
