"""SimCLR, figure 9 and Table B.1: batch size and epochs, learning rate proportional to the
batch (arXiv:2002.05709; ResNet-50). By its square root small batches do better (Table B.1).
"""

from experiments import common
from vlp_jax.api.study import Cell, DataSet, Study, Trend

EPOCHS = (100, 200, 400, 800)
TABLE = {
    256: (57.5, 61.9, 64.7, 66.6),
    512: (60.7, 64.0, 66.2, 67.8),
    1024: (62.8, 65.3, 67.2, 68.5),
    2048: (64.0, 66.1, 68.1, 68.9),
    4096: (64.6, 66.5, 68.2, 68.9),
    8192: (64.8, 66.6, 67.8, 69.0),
}
SMALL = {256: 32, 1024: 128, 4096: 512}  # published -> ours
PASSES = {100: 3072 * 3, 800: 3072 * 9}  # published epochs -> pictures seen


def get_study(full: bool, data: DataSet) -> Study:
    """The published table, or three sizes and two lengths on `data`: each cell stands for the
    published one of its name.
    """
    cells = {}
    for size in TABLE if full else SMALL:
        for epochs in EPOCHS if full else PASSES:
            own = {"batch_size": size, "epochs": float(epochs), "optim.lr": 0.3 * size / 256}
            if not full:
                own = common.small_simclr(data, PASSES[epochs] // SMALL[size])
                own["batch_size"] = SMALL[size]
                own["optim.lr"] = 1e-3 * SMALL[size] / 128
            cells[f"{size} / {epochs}"] = Cell(
                config=common.SIMCLR_FULL if full else common.SIMCLR_SMALL,
                changes=own,
                paper={"linear": TABLE[size][EPOCHS.index(epochs)]},
            )
    least, most = min(SMALL), max(SMALL)

    def gain(v: dict, epochs: int) -> float:
        return v[f"{most} / {epochs}"]["linear"] - v[f"{least} / {epochs}"]["linear"]

    return Study(
        title="SimCLR, figure 9: batch size / epochs, linear accuracy (%)",
        minutes=0 if full else 15,
        cells=cells,
        evals=common.evaluators(full, data),
        columns={"linear": common.linear(full)},
        trends=(
            Trend(
                "longer training is better at every batch size",
                lambda v: all(
                    v[f"{size} / 800"]["linear"] > v[f"{size} / 100"]["linear"]
                    for size in (TABLE if full else SMALL)
                ),
            ),
            Trend("larger batches are better in short training", lambda v: gain(v, 100) > 0),
            Trend(
                "larger batches matter less in long training",
                lambda v: gain(v, 800) < gain(v, 100),
            ),
        ),
        follow_ups=common.simclr_follow_ups(full),
    )
