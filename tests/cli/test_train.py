"""`train` end to end: what a workdir holds, what --json prints, what a mistake costs."""

import json
import os
import shutil
import socket
import sys

import pytest
from small_runs import ROOT, finish, make_pictures, start, write_config

import vlp_jax
from vlp_jax.__main__ import main
from vlp_jax.api.config import load_config
from vlp_jax.cli.data import parser as data_parser
from vlp_jax.cli.output import take_switches
from vlp_jax.cli.train import parser as train_parser
from vlp_jax.core.errors import UserError
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.lock import locked
from vlp_jax.train.loop import Loop


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def config(data):
    return write_config(data.parent, data)


def words(config, workdir, *more):
    return ["train", f"--config={config}", f"--workdir={workdir}", "--config.steps=3", *more]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_workdir_tells_the_whole_run(config, data, tmp_path, capsys):
    workdir = tmp_path / "deep" / "w"
    command = words(config, workdir, "--config.optim.lr=2e-3", "--json")
    assert main(command) == 0
    out, error = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert summary.keys() == {"workdir", "step", "seconds", "loss", "parameters", "eval"}
    assert summary["step"] == 3 and summary["loss"] == lines(workdir)[-1]["loss"]
    assert f"{summary['parameters']:,} parameters, 40 examples, steps 0 -> 3" in error
    resolved = json.loads((workdir / "config.json").read_text())
    assert resolved["optim"]["lr"] == 2e-3 and resolved["steps"] == 3
    assert resolved["data"]["path"] == str(data) and resolved["config_file"] == str(config)
    run = json.loads((workdir / "run.json").read_text())
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "git"} <= run["versions"].keys()
    assert len(run["data_digest"]) == 32
    names = {path.name for path in workdir.iterdir()}
    assert names == {"config.json", "run.json", "metrics.jsonl", "tensorboard", "checkpoints"}
    assert all({"step", "loss"} <= line.keys() for line in lines(workdir))
    assert Checkpoints(workdir / "checkpoints").steps() == [3]


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "B"]


def test_a_moved_workdir_reads_texts_as_its_run_did(config, tmp_path, monkeypatch):
    """Its tokenizer, with what says that letters keep their case, is its own; the files may be gone
    or others; a start with other ones leaves those of the checkpoints that there are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Loop, "run", lambda self: {})
    home, said = tmp_path / "words", ["--config.data.tokenizer=words/vocab.txt"]
    home.mkdir()
    (home / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (home / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert main(words(config, "w", *said)) == 0
    names = json.loads((tmp_path / "w" / "run.json").read_text())["tokenizers"]
    (tmp_path / "w" / "checkpoints").mkdir()
    (home / "vocab.txt").write_text("\n".join([*WORDS[:5], "B", "a"]) + "\n")
    held = [path.name for path in (tmp_path / "w" / "tokenizers").rglob("*") if path.is_file()]
    assert sorted(held) == ["tokenizer_config.json", "vocab.txt"]
    shutil.move("w", tmp_path / "there")
    ids = lambda: vlp_jax.load("fresh:there").tokenizer()("a B")[0, :4].tolist()  # noqa: E731
    assert ids() == [2, 5, 6, 3]
    shutil.move("there", "w")
    assert main(words(config, "w", *said, "--force")) == 0
    assert json.loads((tmp_path / "w" / "run.json").read_text())["tokenizers"] != names
    assert (tmp_path / "w" / names["text"]).read_text().split() == WORDS
    shutil.move("w", tmp_path / "there")
    assert ids() == [2, 6, 5, 3]
    shutil.rmtree("there/tokenizers")
    assert ids() == [2, 6, 5, 3], "of a run before they were carried: those of its config"
    (home / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    with pytest.raises(UserError, match=r"words/vocab.txt: is not the tokenizer .* copy is gone"):
        ids()


def test_a_second_start_is_refused_before_it_writes_anything(config, tmp_path, capsys):
    workdir = tmp_path / "w"
    with locked(workdir):
        record = (workdir / "lock").read_text()
        for more in ([], ["--force"], ["--config.data.path=/no/such/folder"]):
            assert main(words(config, workdir, *more)) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert f"--workdir={workdir}: a training holds it ({socket.gethostname()}, " in line
            assert f"pid {os.getpid()}, since" in line
        assert [path.name for path in tmp_path.rglob("*")] == ["w", "lock"]
        assert (workdir / "lock").read_text() == record
    assert list(tmp_path.iterdir()) == []


def test_other_pictures_in_the_folder_are_another_run(config, data, tmp_path, capsys):
    workdir, extra = tmp_path / "w", data / "new.png"
    assert main(words(config, workdir)) == 0
    capsys.readouterr()
    extra.write_bytes((data / "0.png").read_bytes())
    extra.with_suffix(".txt").write_text("new")
    try:
        assert main(words(config, workdir)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "files were added, removed or changed" in line and "--force" in line
    finally:
        extra.unlink()
        extra.with_suffix(".txt").unlink()
    assert main(words(config, workdir)) == 0


def test_evaluations_are_logged_with_the_loss_of_their_step(config, data, tmp_path):
    workdir = tmp_path / "w"
    evals = (f"--config.evals.retrieval.path={data}", "--config.eval_every=2")
    assert main(words(config, workdir, *evals)) == 0
    found = lines(workdir)
    trained = {line["step"]: line["loss"] for line in found if "lr" in line}
    measured = {line["step"]: line["loss"] for line in found if "eval/retrieval/i2t_r1" in line}
    assert list(trained) == [1, 2, 3] and list(measured) == [2, 3]
    assert all(loss == trained[step] for step, loss in measured.items())


OUT_OF_RANGE = {
    "optim.lr=-1": "optim.lr=-1.0 is out of range; it must be at least 0",
    "optim.b2=1.0": "optim.b2=1.0 is out of range",
    "optim.lr_final=7": "it must be from 0 to 1",
    "optim.mu_dtype=floot32": "did you mean 'float32'",
    "optim.no_decay=('[',)": "optim.no_decay: '[' is no regular expression",
    "optim.lr_groups=('a',)": "'a' is no (path regex, factor) pair",
    "freeze=('[',)": "freeze: '[' is no regular expression",
    "ema_decay=1.5": "ema_decay=1.5 is out of range",
    "seed=-1": "seed=-1 is out of range",
    "log_every=0": "log_every=0 is out of range; it must be at least 1",
    "max_bad_steps=0": "max_bad_steps=0 is out of range",
    "checkpoint_every=-5": "checkpoint_every=-5 is out of range",
    "data.workers=-1": "data.workers=-1 is out of range",
    "data.word_dropout=2": "data.word_dropout=2.0 is out of range",
    "data.image.eval_crop=centre": "did you mean 'center'",
    "method.image.num_layers=0": "method.image.num_layers=0 is out of range",
    "image_size=48": "image_size=48 but method.image.image_size=32; make them equal",
    "method.image.patch_size=7": "not a multiple of patch_size 7",
    "steps=1.5": "must be of type int",
    "optim.lr=fast": "must be of type float",
    "steps": "needs a value, as in --config.steps=VALUE",
    "optim=3": "is a section",
    "wandb=project": "pip install",
    "evals.retrieval.path=/no/set": "/no/set",
}


@pytest.mark.parametrize("override", OUT_OF_RANGE)
def test_out_of_range_is_refused_before_anything_is_written(config, tmp_path, capsys, override):
    command = ["train", f"--config={config}", f"--workdir={tmp_path / 'w'}"]
    assert main([*command, f"--config.{override}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and OUT_OF_RANGE[override] in line
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line_of_a_child_too(config, tmp_path):
    for flag in ("--config.bacth_size=3", "--config.data.path=/no/such/folder"):
        child = start("train", f"--config={config}", f"--workdir={tmp_path}", flag)
        code, _, error = finish(child)
        assert code == 2 and len(error.splitlines()) == 1 and error.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text, args, wanted",
    [
        ("def get_config():\n    return base(7)", "", 7),
        ("def get_config(size='4'):\n    return base(size)", "", 4),
        ("def get_config(size='4'):\n    return base(size)", ":5", 5),
        ("def get_config(size):\n    return base(size or 6)", "", 6),
        ("def get_config(*sizes):\n    return base(*sizes or (9,))", "", 9),
        ("get_config = lambda size: base(size)", ":3", 3),
    ],
)
def test_config_files_of_ones_own_folder(tmp_path, monkeypatch, text, args, wanted):
    """They import what lies beside them and configs.common, from whatever folder."""
    own = tmp_path / "mine"
    own.mkdir()
    beside = f"beside_{wanted}_{tmp_path.name}"
    (own / f"{beside}.py").write_text(
        "from configs import common\n\ndef base(size):\n"
        "    c = common.base()\n    c.seed = int(size)\n    return c\n"
    )
    (own / "c.py").write_text(f"from {beside} import base\n{text}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(ROOT)])
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    (tmp_path / "configs").mkdir()  # a folder of that name must not hide ours
    for spec in ("mine/c.py", str(own / "c.py")):
        config = load_config(spec + args, {})
        assert config.seed == wanted and config.batch_size == 256


def test_config_files_that_return_or_take_something_else(tmp_path):
    (tmp_path / "d.py").write_text("def get_config():\n    return 1")
    with pytest.raises(UserError, match="get_config takes no argument, 'x' was given"):
        load_config(f"{tmp_path}/d.py:x", {})
    with pytest.raises(UserError, match=r"d.py: .*get_config returned int, no ConfigDict"):
        load_config(f"{tmp_path}/d.py", {})


def test_our_config_files_are_found_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/clip/folder.py", {}).batch_size == 64
    assert main(["train", "--config=configs/clip/foldr.py", f"--workdir={tmp_path / 'w'}"]) == 2
    assert "did you mean 'configs/clip/folder.py'" in capsys.readouterr().err
    (tmp_path / "configs" / "clip").mkdir(parents=True)
    (tmp_path / "configs" / "clip" / "folder.py").write_text(
        "from configs import common\n\ndef get_config():\n    return common.base()\n"
    )
    assert load_config("configs/clip/folder.py", {}).batch_size == 256, "what is here comes first"


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "false", "FALSE", "0", "no"])
def test_switches_are_said_in_words(text):
    value = text.lower() in ("true", "1", "yes")
    config = load_config("configs/clip/folder.py", {"optim.nesterov": text})
    assert config.optim.nesterov is value
    if text.lower() in ("true", "false"):
        config = load_config("configs/clip/folder.py", {"evals.retrieval.share_duplicates": text})
        assert config.evals.retrieval.share_duplicates is value
    words = ["--workdir=w", f"--json={text}", f"--force={text}", "--config=c.py"]
    args = train_parser().parse_args(take_switches(words, train_parser()))
    assert args.json is value and args.force is value
    words = take_switches(["check", "PATH", f"--json={text}", "--other=true"], data_parser())
    assert words == ["check", "PATH", *["--json"] * value, "--other=true"]


def test_a_switch_that_is_neither_is_refused(capsys, tmp_path):
    assert main(["train", "--config=c.py", f"--workdir={tmp_path}", "--force=perhaps"]) == 2
    assert "--force=perhaps: must be true or false" in capsys.readouterr().err


def test_odd_workdirs(config, tmp_path, capsys, monkeypatch):
    """A home folder, a slash at the end, one beside; no bucket, no empty name, no file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    refused = {
        "": "--workdir=: is empty",
        "gs://bucket/run": "--workdir=gs://bucket/run: is an address; give a folder",
        "~/x": f"--workdir={tmp_path}/home/x: a training holds it",
        "rel/": "--workdir=rel: a training holds it",
        f"{config}/w": f"--workdir={config}/w: {config} is a file, not a folder",
    }
    with locked(tmp_path / "home" / "x"), locked(tmp_path / "rel"):
        for workdir, message in refused.items():
            assert main(["train", f"--config={config}", f"--workdir={workdir}"]) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert line.startswith(f"error: {message}"), line
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


def test_home_is_known_in_a_config_too(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    config = load_config("configs/clip/folder.py", {"data.path": "~/a,b~,~/c.tar"})
    assert config.data.path == "/h/a,b~,/h/c.tar"


def test_a_config_file_that_fails_is_named(tmp_path, capsys):
    broken = tmp_path / "c.py"
    for text, part in {
        "def get_config(_):\n    return 1 / 0": "ZeroDivisionError",
        "x = 1": "get_config",
        "import nothing_of_this_name": "ModuleNotFoundError",
    }.items():
        broken.write_text(text)
        assert main(["train", f"--config={broken}", f"--workdir={tmp_path / 'w'}"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(broken) in line and part in line
    assert main(["train", "--config=configs/clip/foldr.py", f"--workdir={tmp_path / 'w'}"]) == 2
    assert "did you mean 'configs/clip/folder.py'" in capsys.readouterr().err
