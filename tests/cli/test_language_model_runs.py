"""A small language model by commands: trained on captions, measured, asked, exported; what is
refused."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import vlp_jax
from vlp_jax.__main__ import main
from vlp_jax.api.writing import generate
from vlp_jax.core.errors import UserError

RECIPE = str(pathlib.Path(__file__).parents[2] / "configs" / "language_model" / "tiny.py")
NET = dict(vocab_size=259, width=32, num_layers=1, num_heads=2, hidden=48, context_length=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the workdir of a run of two steps, its data)."""
    home = tmp_path_factory.mktemp("lm")
    (home / "data").mkdir()
    for i in range(8):
        Image.fromarray(np.full((8, 8, 3), 30 * i, np.uint8)).save(home / "data" / f"{i}.png")
        (home / "data" / f"{i}.txt").write_text(f"a picture of {i} things")
    flags = {f"method.lm.{key}": value for key, value in NET.items()}
    flags |= {"data.path": home / "data", "data.tokenizer": "bytes", "method.end_ids": "(258,)"}
    flags |= {
        "batch_size": 8,
        "eval_batch_size": 8,
        "steps": 2,
        "evals.texts.path": home / "data",
        "log_every": 1,
    }
    words = [f"--config.{key}={value}" for key, value in flags.items()]
    assert main(["train", f"--config={RECIPE}", f"--workdir={home / 'run'}", *words]) == 0
    return home / "run", home / "data"


def test_its_perplexity_is_that_of_the_texts(run, tmp_path, capsys):
    """About that of guessing bytes: 258."""
    workdir, data = run
    call = ["eval", f"--checkpoint={workdir}", f"--config.evals.texts.path={data}", "--json"]
    assert main([*call, f"--out={tmp_path / 'R'}", "--config.evals.texts.type=perplexity"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["eval"]["texts"]
    assert 100 < said["metrics"]["perplexity"] < 400 and said["protocol"]["texts"] == 8


def test_what_follows_each_line(run, tmp_path):
    workdir, _ = run
    (tmp_path / "prompts").write_text("a picture\n\na\n")
    call = ["generate", f"--checkpoint={workdir}", f"--prompts={tmp_path / 'prompts'}"]
    assert main([*call, f"--out={tmp_path / 'f.jsonl'}", "--max-new=3"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a picture", "", "a"]
    assert all(list(row) == ["prompt", "text", "score", "ids"] for row in rows)
    model = vlp_jax.load(str(workdir))
    alone = generate(model, prompt="a", max_new=3)
    assert [[one.ids for one in made] for made in alone] == [[rows[2]["ids"]]]


def test_what_is_refused(run, tmp_path):
    workdir, data = run
    model = vlp_jax.load(str(workdir))
    with pytest.raises(UserError, match="sees no pictures; give prompts"):
        model.generate([data / "0.png"], "a")
    with pytest.raises(UserError, match=r"prompt: 'aaaa.*' is too long; the model reads 32 tokens"):
        model.generate(prompt="a" * 40)
    with pytest.raises(UserError, match="max_new=30: after 9 tokens more than the model's 32"):
        model.generate(prompt="a" * 8, max_new=30)
    (tmp_path / "empty").write_text("")
    call = ["generate", f"--checkpoint={workdir}", f"--prompts={tmp_path / 'empty'}"]
    assert main([*call, f"--out={tmp_path / 'f.jsonl'}"]) == 2


def test_it_becomes_a_folder_of_transformers(run, tmp_path):
    workdir, _ = run
    assert main(["convert", str(workdir), str(tmp_path / "hf"), "--to=hf"]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["eos_token_id"] == 258
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    again = vlp_jax.load(str(tmp_path / "back"))
    how = dict(prompt=["a picture", "a"], max_new=3)
    assert again.generate(**how) == vlp_jax.load(str(workdir)).generate(**how)
