"""MAE, Tables 1a, 1c and 2: decoder depth, mask tokens in the encoder, and what they cost
(arXiv:2111.06377; ViT-L, 800 epochs; hours on 128 TPU-v3 cores).
"""

from experiments import common
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend

DEPTHS = {1: (65.5, 84.8), 2: (70.0, 84.9), 4: (71.9, 84.9), 8: (73.5, 84.9), 12: (73.3, 84.4)}
IN_ENCODER = "mask token in encoder"
SPEED_UP = {"depth 1": 3.7, "depth 8": 2.8, IN_ENCODER: 1.0}  # Table 2
IN_ENCODER_FLOPS = 3.3  # Table 1c, over the same depth without
SMALL = (1, 2, 4)


def get_study(full: bool, data: DataSet) -> Study:
    """Published depths, or three of them on `data`; the last cell has the slow encoder."""
    shared = {"method.norm_pix": False} | ({} if full else common.small_mae(data))
    usual = 8 if full else 2
    config = common.MAE_FULL if full else common.MAE_SMALL
    depths = DEPTHS if full else SMALL
    cells = {f"depth {n}": {"method.decoder.num_layers": n} for n in depths}
    cells[IN_ENCODER] = {
        "method.decoder.num_layers": usual,
        "method.mask_token_in_encoder": True,
    }
    paper = {
        f"depth {n}": dict(zip(("linear", "fine-tuned"), DEPTHS[n], strict=True)) for n in depths
    }
    flops = {f"depth {usual}": 1.0, IN_ENCODER: IN_ENCODER_FLOPS}
    paper[IN_ENCODER] = {"linear": 59.6, "fine-tuned": 84.2}
    for name, numbers in paper.items():
        found = {"speed-up": SPEED_UP.get(name), "FLOPs": flops.get(name)}
        numbers |= {title: value for title, value in found.items() if value}
        if not full:
            del numbers["fine-tuned"]
    columns = {
        "linear": common.linear(full),
        "speed-up": Column("examples_per_s", 1.0, IN_ENCODER),
        "FLOPs": Column("gflops", 1.0, f"depth {usual}"),
    }
    if full:
        columns["fine-tuned"] = Column("tuned.test.top1")
    fast, deep = f"depth {usual}", "depth 8" if full else "depth 4"
    return Study(
        title="MAE, Tables 1a, 1c, 2: decoder depth and mask tokens in the encoder",
        minutes=0 if full else 15,
        cells={
            name: Cell(config=config, changes={**shared, **own}, paper=paper[name])
            for name, own in cells.items()
        },
        evals=common.evaluators(full, data),
        columns=columns,
        trends=(
            Trend(
                f"a decoder of {deep} probes better than depth 1",
                lambda v: v[deep]["linear"] > v["depth 1"]["linear"],
            ),
            Trend(
                "mask tokens in the encoder probe worse",
                lambda v: v[IN_ENCODER]["linear"] < v[fast]["linear"],
            ),
            Trend(
                "leaving them out is at least twice as fast per picture",
                lambda v: v[fast]["speed-up"] >= 2,
            ),
            Trend(
                "depth 1 is the fastest",
                lambda v: v["depth 1"]["speed-up"] == max(c["speed-up"] for c in v.values()),
            ),
        ),
        follow_ups=common.mae_follow_ups(full),
    )
