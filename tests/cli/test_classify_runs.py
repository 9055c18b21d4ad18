"""From a run to its probe on the command line: the tower is taken over, the head is fresh."""

import json

import numpy as np
import pytest
from PIL import Image
from small_runs import ROOT

from vlp_jax.__main__ import main
from vlp_jax.api.model import load_model
from vlp_jax.core.pytree import flatten
from vlp_jax.models import resnet_v1

CONFIG = ROOT / "configs" / "classify"
SMALL = (
    *("--config.steps=2", "--config.batch_size=8", "--config.optim.warmup_steps=0"),
    *("--config.data.label=class", "--config.method.num_classes=3", "--config.data.threads=1"),
    *("--config.method.augment.crop_scale=(1.0, 1.0)", "--config.method.unroll=false"),
    "--config.eval_batch_size=16",
)
TOWER = tuple(
    f"--config.method.image.{key}={value}"
    for key, value in dict(patch_size=8, width=16, num_layers=1, head_width=8).items()
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir of a supervised run, class folders)."""
    folder = tmp_path_factory.mktemp("classify")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    assert train(folder / "w", folder / "data", "", *TOWER) == 0
    return folder / "w", folder / "data"


def train(workdir, data, start, *more):
    paths = (f"--config.data.path={data}", f"--config.evals.test.path={data}")
    config = f"--config={CONFIG / 'tiny.py'}" + (f":{start}" if start else "")
    return main(["train", config, f"--workdir={workdir}", *paths, *SMALL, *more])


def test_a_probe_takes_the_tower_of_a_run_and_leaves_it(run, tmp_path):
    workdir, data = run
    probe = tmp_path / "probe"
    linear = ("--config.method.linear=true", "--config.method.head_norm=batch")
    assert train(probe, data, workdir, *linear) == 0
    before, after = (flatten(load_model(str(w)).params) for w in (workdir, probe))
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        same = np.array_equal(after[path], leaf)
        assert same == path.startswith("image/"), path
    last = json.loads((probe / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["eval/test/top1"] <= 1 and last["eval/test/chance_top1"] == pytest.approx(
        1 / 3
    )


def test_few_labels_start_from_the_first_layer_of_simclr_s_head(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(resnet_v1.LAYERS, 18, (1, 0, 0, 1))  # four times less to compile
    data, simclr = run[1], tmp_path / "simclr"
    config = ROOT / "configs" / "simclr" / "tiny.py"
    sizes = ("steps=2", "batch_size=8", "image_size=32", "data.threads=1", "optim.warmup_steps=0")
    sizes += ("eval_batch_size=16",)
    words = [f"--config.{size}" for size in sizes] + [f"--config.data.path={data}"]
    few = [f"--config.evals.{name}.limit=40" for name in ("knn", "probe", "neighbours")]
    assert main(["train", f"--config={config}", f"--workdir={simclr}", *words, *few]) == 0
    tuned, flags = tmp_path / "tuned", [*words, "--config.data.label=class", "--config.steps=1"]
    flags += [f"--config.evals.test.path={data}", "--config.method.num_classes=3"]
    flags += ["--config.data.workers=0", "--config.optim.lr=0.0"]
    config = CONFIG / "simclr_finetune.py"
    assert main(["train", f"--config={config}:{simclr},v2", f"--workdir={tuned}", *flags]) == 0
    before, after = (flatten(load_model(str(w)).params) for w in (simclr, tuned))
    kept = {path for path in after if not path.startswith("head/out/")}
    assert {path.split("/")[1] for path in kept if path[:4] == "head"} == {"layer1", "layer1_bn"}
    for path in kept:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    for start, message in {
        f"{simclr},v3": "unknown 'v3'; did you mean 'v2'",
        f"{run[0]},v2": "a run of 'classify', which has no projection head",
    }.items():
        assert main(["train", f"--config={config}:{start}", f"--workdir={tmp_path / 'x'}"]) == 2
        assert message in capsys.readouterr().err


def test_the_untrained_tower_is_the_baseline(run, capsys):
    workdir, data = run
    trained, fresh = (load_model(f"{name}{workdir}") for name in ("", "fresh:"))
    a, b = flatten(trained.params), flatten(fresh.params)
    assert a.keys() == b.keys() and any((a[path] != b[path]).any() for path in a)
    flags = [f"--config={CONFIG / 'baselines.py'}", "--only=knn,pixel_knn", "--json"]
    for name in ("knn", "pixel_knn"):
        sets = {"train": data, "path": data, "label": "class", "k": "(1,)"}
        flags += [f"--config.evals.{name}.{key}={value}" for key, value in sets.items()]
    found = []
    for name in ("", "fresh:"):
        assert main(["eval", f"--checkpoint={name}{workdir}", *flags]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1])["eval"])
    for part in found:  # every picture is its own neighbour
        assert part["knn"]["metrics"]["top1_k1"] == part["pixel_knn"]["metrics"]["top1_k1"] == 1
    trained_on = [part["pixel_knn"]["protocol"].pop("trained on", "") for part in found]
    assert trained_on == ["12 of 12 pictures", ""]
    assert found[0]["pixel_knn"] == found[1]["pixel_knn"]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.data.label=", "data.label: this method learns from labels"),
        ("--config.method.num_classes=4", "has 3 classes but method.num_classes=4"),
        ("--config.data.label=klass", "did you mean 'class'"),
        ("--config.method.linear=2", "must be true or false"),
        ("--config.init_from=/no/such:image/.*", "/no/such"),
        ("--config.optim.train_blocks=9", "optim.train_blocks=9: at most 1"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, flag, message):
    assert train(tmp_path / "w", run[1], "", *TOWER, flag) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "w").exists()


def test_numbered_folders_must_be_the_trained_ones(run, tmp_path, capsys):
    """A folder's number is its rank in its own set: without `ant` a bee would count as an ant."""
    for name in ("bee", "cat"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / name / "0.png")
    test = f"--config.evals.test.path={tmp_path / 'test'}"
    assert train(tmp_path / "w", run[1], "", *TOWER, test, "--config.data.label=label") == 2
    error = capsys.readouterr().err
    assert "evals.test.label='label' numbers the class folders of each set" in error
    assert "path (bee, cat) are not those of train (ant, bee, cat); set it to 'class'" in error
    assert not (tmp_path / "w").exists()
    assert train(tmp_path / "w", run[1], "", *TOWER, test) == 0


def test_a_start_that_does_not_fit_names_what_differs(run, tmp_path, capsys):
    wide = ("--config.method.image.width=32", f"--config.init_from={run[0]}:image/.*")
    assert train(tmp_path / "w", run[1], "", *TOWER, *wide) == 2
    error = capsys.readouterr().err
    assert "image/blocks/attn/out/b" in error and "needs [" in error
    assert "(its network is another one; give --config.method.image.width=16)" in error
    assert train(tmp_path / "w", run[1], tmp_path / "nothing") == 2
    assert "no training workdir" in capsys.readouterr().err
