"""SimCLR, figure 8 and Table 5: projection head and temperature (arXiv:2002.05709; ResNet-50).

Of figure 8 the text says that a nonlinear head is better than a linear one by about 3 points and
than none by more than 10, and that h beats g(h) by more than 10; it prints no numbers.
"""

from experiments import common
from vlp_jax.api.study import Cell, Column, DataSet, Study, Trend

HEADS = ("none", "linear", "nonlinear")
TEMPERATURES = {0.05: 59.7, 0.1: 64.4, 0.5: 60.7, 1.0: 58.0}
USUAL = "head nonlinear"


def get_study(full: bool, data: DataSet) -> Study:
    """Three heads and four temperatures; the small form's usual temperature is 0.5, as on CIFAR."""
    shared = {"epochs": 100.0} if full else common.small_simclr(data, 150)
    config = common.SIMCLR_FULL if full else common.SIMCLR_SMALL
    usual = 0.1 if full else 0.5  # temperature of the heads
    cells = {
        f"head {mode}": Cell(
            config=config,
            changes={**shared, "method.head.mode": mode},
            paper={"linear": TEMPERATURES[usual]} if mode == "nonlinear" else {},
        )
        for mode in HEADS
    }
    cells |= {
        f"temperature {value:g}": Cell(
            config=config,
            changes={**shared, "method.temperature": value},
            paper={"linear": number},
        )
        for value, number in TEMPERATURES.items()
        if value != usual
    }
    evals, columns = common.evaluators(full, data), {"linear": common.linear(full)}
    trends = [
        Trend(
            "a nonlinear head beats a linear one",
            lambda v: v[USUAL]["linear"] > v["head linear"]["linear"],
        ),
        Trend(
            "a linear head beats none",
            lambda v: v["head linear"]["linear"] > v["head none"]["linear"],
        ),
        Trend("0.05 is too cold", lambda v: v[USUAL]["linear"] > v["temperature 0.05"]["linear"]),
        Trend("1 is too hot", lambda v: v[USUAL]["linear"] > v["temperature 1"]["linear"]),
    ]
    if not full:
        evals["z"] = data.evaluator(features="projection")
        columns["after the head"] = Column("z.mean_per_class")
        trends.append(
            Trend("h beats g(h)", lambda v: v[USUAL]["linear"] > v[USUAL]["after the head"])
        )
    return Study(
        title="SimCLR, figure 8 and Table 5: projection head and temperature, linear accuracy (%)",
        minutes=0 if full else 16,
        cells=cells,
        evals=evals,
        columns=columns,
        trends=tuple(trends),
        follow_ups=common.simclr_follow_ups(full),
    )
