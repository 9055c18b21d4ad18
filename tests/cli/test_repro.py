"""`repro`: a fake study of two cells through the runner, its resumption, its verdict; mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp_jax.__main__ import main
from vlp_jax.api import repro
from vlp_jax.api.study import Cell, Run, Study
from vlp_jax.core.errors import UserError

RECIPE = """
from pathlib import Path
from vlp_jax.api.study import Cell, Column, Study, Trend

SMALL = dict(image_size=16, patch_size=8, width=16, num_layers=1, head_width=8, cls_token=True)
SMALL = {{f"method.image.{{key}}": value for key, value in SMALL.items() if key != "image_size"}}
DATA = {data!r}

def get_study(full, data):
    shared = {{**SMALL, "image_size": 16, "steps": 2, "batch_size": 8, "data.path": DATA}}
    shared |= {{"data.threads": 1, "method.decoder.num_layers": 1, "eval_batch_size": 16}}
    shared |= {{"optim.warmup_steps": 0}}
    cells = {{
        f"{{ratio}}": Cell(
            config="configs/mae/tiny.py",
            changes={{**shared, "method.mask_ratio": ratio}},
            paper={{"accuracy": 100 * ratio}},
        )
        for ratio in (0.25, 0.5)
    }}
    knn = {{"type": "knn", "train": DATA, "path": DATA, "label": "class", "k": (1,)}}
    return Study(
        title="fake",
        cells=cells,
        evals={{"knn": knn}},
        columns={{
            "accuracy": Column("knn.top1_k1"),
            "cost": Column("gflops", 1.0, "0.5"),
        }},
        trends=(
            Trend("hiding less costs more", lambda v: v["0.25"]["cost"] {sign} v["0.5"]["cost"]),
            Trend("both have a number", lambda v: v["0.5"]["accuracy"] >= 0),
        ),
        prepare=lambda names: Path(DATA).with_name("prepared").write_text(" ".join(names)),
        notes=("one thing to know",),
    )
"""


def write_recipe(folder, data, sign):
    folder.mkdir(exist_ok=True)
    (folder / "recipe.py").write_text(RECIPE.format(data=str(data), sign=sign))
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(study folder, data, out, exit code) of two finished cells."""
    root = tmp_path_factory.mktemp("repro")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (root / "data" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / "data" / name / f"{i}.png")
    study, out = write_recipe(root / "study", root / "data", ">"), root / "out"
    return study, root / "data", out, main(["repro", study, f"--out={out}"])


def results(out):
    return json.loads((out / "results.json").read_text())


def test_two_cells_and_what_they_leave(run):
    _, _, out, code = run
    assert "\n\none thing to know\n\n| cell |" in (out / "report.md").read_text()
    found = results(out)
    assert code == 0 and list(found["trends"].values()) == [True, True]
    assert found["cells"]["0.25"]["paper"] == {"accuracy": 25.0}
    knn = found["cells"]["0.25"]["measures"][0]["knn.top1_k1"]
    assert found["cells"]["0.25"]["ours"]["accuracy"] == 100 * knn == 100.0  # its own neighbours
    assert found["cells"]["0.5"]["ours"]["cost"] == 1.0 < found["cells"]["0.25"]["ours"]["cost"]
    assert "hiding less costs more | pass" in (out / "report.md").read_text()
    assert Image.open(out / "figure.png").size[0] > 300
    configs = [json.loads(f.read_text()) for f in sorted(out.rglob("config.json"))]
    assert [c["method"]["mask_ratio"] for c in configs] == [0.25, 0.5]


def test_a_finished_cell_is_skipped_and_an_interrupted_one_goes_on(run, tmp_path, monkeypatch):
    study, _, out, _ = run
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "cells" / "0.5" / "seed0" / "measures.json").unlink()
    from vlp_jax.api import train

    seen, real = [], train.train
    monkeypatch.setattr(train, "train", lambda c, w: (seen.append(w.parent.name), real(c, w))[1])
    assert main(["repro", study, f"--out={tmp_path / 'out'}"]) == 0
    assert seen == ["0.5"]
    again, first = results(tmp_path / "out")["cells"], results(out)["cells"]
    for name in first:
        assert again[name]["ours"]["accuracy"] == first[name]["ours"]["accuracy"]
        assert again[name]["measures"][0]["loss"] == first[name]["measures"][0]["loss"]


def test_a_trend_that_fails_is_exit_code_1_with_the_table_written(run, tmp_path, capsys):
    _, data, out, _ = run
    shutil.copytree(out, tmp_path / "out")
    study = write_recipe(tmp_path / "study", data, "<")
    assert main(["repro", study, f"--out={tmp_path / 'out'}", "--json"]) == 1
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert last["trends"]["hiding less costs more"] is False and "FAIL" in printed
    assert results(tmp_path / "out")["trends"] == last["trends"]
    assert "| FAIL" in (tmp_path / "out" / "report.md").read_text()


def test_a_trend_without_its_cell_is_not_run(run, tmp_path):
    study, data, out, _ = run
    shutil.copytree(out, tmp_path / "out")
    assert main(["repro", study, f"--out={tmp_path / 'out'}", "--only=0.25"]) == 0
    assert data.with_name("prepared").read_text() == "0.25"
    assert set(results(tmp_path / "out")["trends"].values()) == {None}


def test_a_cell_starts_from_the_tower_of_another(run, tmp_path, capsys):
    study = write_recipe(tmp_path / "study", run[1], ">")
    text = (tmp_path / "study" / "recipe.py").read_text()
    text = text.replace("knn = {", 'object.__setattr__(cells["0.5"], "start", "0.25")\n    knn = {')
    (tmp_path / "study" / "recipe.py").write_text(text)
    words = ["repro", study, f"--out={tmp_path / 'out'}", "--seeds=2"]
    assert main([*words, "--only=0.5"]) == 2
    assert "starts from '0.25', which" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    for seed in ("seed0", "seed1"):
        cells = tmp_path / "out" / "cells"
        config = json.loads((cells / "0.5" / seed / "config.json").read_text())
        assert config["init_from"] == f"{cells / '0.25' / seed}:(batch_stats/)?image/.*"
    assert main([*words, "--only=0.5"]) == 0  # it is there


def test_another_config_in_the_same_folder_is_refused(run, capsys):
    study, _, out, _ = run
    assert main(["repro", study, f"--out={out}", "--config.steps=3"]) == 2
    assert "steps: 2 -> 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["mae_mask_ration"], "no such study; did you mean 'mae_mask_ratio'?"),
        (["mae_mask_ratio", "--only=0.76"], "--only=0.76: no such cell; did you mean '0.75'?"),
        (["mae_mask_ratio", "--seeds=0"], "--seeds=0: must be at least 1"),
        (["mae_mask_ratio", "--data=NOWHERE"], "--data=NOWHERE: no fashion_mnist-train-*.tar"),
        (["mae_mask_ratio", "--config.stepz=3"], "did you mean 'steps'?"),
        (["mae_mask_ratio", "--config.method.mask_ratio=0.5"], "cells of this study differ in it"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(["repro", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_error_of_the_test_pictures_stands_beside_the_seeds_spread():
    from vlp_jax.api.repro import summary
    from vlp_jax.api.study import Cell, Column, Study
    from vlp_jax.report.study import cell_rows

    columns = {"linear": Column("probe.top1"), "loss": Column("loss", scale=1.0)}
    study = Study(title="x", cells={"a": Cell(config="")}, evals={}, columns=columns, trends=())
    seeds = [
        {"probe.top1": t, "probe.top1_se": e, "loss": 2.0} for t, e in ((0.3, 0.02), (0.5, 0.04))
    ]
    found = summary(study, {"a": seeds}, ["a"])["cells"]
    assert found["a"]["sampling"] == {"linear": pytest.approx(3.0)}
    (row,) = cell_rows(found)
    assert row["linear: ours"] == "40.0 ± 14.1 (± 3.0)" and row["loss: ours"] == "2.0 ± 0.0"


def test_without_a_name_the_studies_are_listed_with_their_minutes(capsys):
    assert main(["repro", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == sorted(names) and {"clip_prompts", "families", "robustness"} <= set(names)
    assert "mae_mask_ratio         9 min  MAE, figure 5: mask ratio, linear accuracy (%)" in lines
    found = {row.pop("study"): row for row in json.loads(last)["studies"]}
    title = "MAE, figure 5: mask ratio, linear accuracy (%)"
    assert found["mae_mask_ratio"] == {"title": title, "cells": 5, "minutes": 9}
    assert len(found) == len(lines)
    longer = {
        name: found.pop(name)["minutes"]
        for name in list(found)
        if name.startswith(("blip", "ldm_"))
    }
    assert longer["blip_capfilt"] == 70 and longer["ldm_tiny"] == 75 == max(longer.values())
    assert all(0 < row["minutes"] <= 20 for row in found.values())
    assert main(["repro", "--full"]) == 0
    assert "mae_mask_ratio       10 runs  MAE" in capsys.readouterr().out


def test_a_study_lists_its_cells_and_runs_nothing(capsys):
    assert main(["repro", "blip_capfilt", "--list", "--json"]) == 0
    title, *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert title == found["title"] and len(lines) == len(found["cells"])
    line = next(line for line in lines if line.startswith("  web texts "))
    assert "paper: TR@1 78.4, IR@1 60.7, CIDEr 127.8; starts from 'all but self-attention'" in line
    assert any("  captioner " in line and "made for the others; starts" in line for line in lines)
    assert {row["cell"]: row["from"] for row in found["cells"]}["tower"] == ""
    assert main(["repro", "no_such", "--list"]) == 2


def test_a_cell_that_others_make_data_for(tmp_path, monkeypatch):
    """`before` is called once, when what it needs is there, `after` once it is trained; a cell
    aside is measured by nothing."""
    config, trained, made = "configs/mae/tiny.py", [], []

    def before(place, out, seed):
        made.append((place("aside").relative_to(out), seed))
        return {"share": 0.5}

    def after(place, out, seed):
        assert place("last").is_dir()  # it is trained
        return {"after": len(trained)}

    def fake_train(config, folder):
        trained.append((folder.name, config.init_from, sorted(config.evals), config.seed))
        folder.mkdir(parents=True)

    monkeypatch.setattr("vlp_jax.api.train.train", fake_train)
    monkeypatch.setattr(repro, "run_measures", lambda *words: {"loss": 1.0})
    cells = {
        "first": Cell(config=config, changes={"data.path": "{out}/sets/{seed}"}),
        "aside": Cell(config=config, start="first", start_at="", aside=True),
        "last": Cell(
            config=config,
            needs=("aside",),
            before=before,
            after=after,
            then={"batch_size": 7},
            evals={"own": {"type": "knn", "path": "{out}/{seed}"}},
        ),
    }
    then = {"then": Run(config=config, changes={"init_from": "{run}"})}
    evals = {"knn": {"type": "knn", "path": "x"}}
    study = Study(title="", cells=cells, evals=evals, columns={}, trends=(), follow_ups=then)
    runs = repro.check_configs(study, list(cells), 1, {}, tmp_path)
    assert runs["first", 0].data.path == f"{tmp_path}/sets/0"
    with pytest.raises(UserError, match="starts from 'aside', which"):
        repro.run_cells(study, {key: runs[key] for key in runs if key[0] == "last"}, tmp_path)
    found = repro.run_cells(study, runs, tmp_path)
    first = str(tmp_path / "cells" / "first" / "seed0")
    assert [name for name, *_ in trained] == ["seed0", "then", "seed0", "seed0", "then"]
    assert [trained[k][2] for k in (0, 2, 3)] == [["knn"], [], ["knn", "own"]]
    assert runs["last", 0].evals.own.path == f"{tmp_path}/0"
    assert trained[2][1] == first and trained[1][1] == first
    assert found["last"] == [{"share": 0.5, "loss": 1.0, "after": 4, "then.loss": 1.0}]
    assert made == [(Path("cells/aside/seed0"), 0)]
    repro.run_cells(study, repro.check_configs(study, list(cells), 1, {}, tmp_path), tmp_path)
    assert len(made) == 1 and len(trained) == 5
    asked = json.loads((tmp_path / "cells" / "last" / "seed0" / "measures.json").read_text())
    assert "'batch_size': 7" in asked["asked"]["then.then"]
