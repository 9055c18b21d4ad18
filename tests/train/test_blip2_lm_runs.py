"""A run of BLIP-2 whose queries read questions by a tokenizer of their own: what a batch holds, the
evaluators of answers and captions, what is asked of the run, and its export."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import vlp_jax
from vlp_jax.api.config import load_config
from vlp_jax.api.convert import convert
from vlp_jax.api.train import train
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.train import trainer as trainers

RECIPE = pathlib.Path(__file__).parents[2] / "configs" / "blip2" / "vqa.py"
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "question", "answer", ":", "what", "colour", "is", "it"]
WORDS += ["?", "red", "green", "blue"]
QUERY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS[4:]]
SIZES = {
    "image_size": 16, "method.image.patch_size": 8, "method.image.width": 16,
    "method.image.num_layers": 1, "method.image.head_width": 8, "method.image.stem": (),
    "method.qformer.vocab_size": len(QUERY) + 1, "method.qformer.width": 16,
    "method.qformer.num_layers": 2, "method.qformer.num_heads": 2,
    "method.qformer.num_queries": 2, "method.qformer.context_length": 16,
    "method.lm.vocab_size": len(WORDS) + 1, "method.lm.width": 16, "method.lm.num_layers": 1,
    "method.lm.num_heads": 2, "method.lm.hidden": 24, "method.lm.context_length": 32,
    "method.prompt_length": 12, "method.dtype": "float32", "method.lm_dtype": "float32",
    "data.tokenizers.prompt.context_length": 12, "data.tokenizers.qformer.context_length": 12,
    "data.context_length": 4, "batch_size": 4, "steps": 2, "log_every": 1, "data.workers": 0,
    "method.remat": "none", "sharding": "replicated", "allow_random_frozen": True, "epochs": 0.0,
    "eval_batch_size": 4, "evals.vqa.how.max_new": 3, "evals.vqa.how.beams": 2,
    "evals.ranked.type": "vqa", "evals.ranked.mode": "rank", "evals.said.type": "caption",
    "evals.ranked.prompt": "question : {question} answer :", "evals.said.caption": "answers",
    "evals.vqa.prompt": "question : {question} answer :", "evals.said.how.max_new": 3,
    "evals.said.prompt": "question : what colour is it ? answer :",
    "data.fields.prompt.templates": ("question : {c} answer :",),
    "data.fields.instruction.templates": ("question : {c} answer :",),
    "optim.layer_decay": 1.0, "method.image_norm_eps": 1e-6,  # as transformers has it
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(config, folder, results) of a run on ten pictures of three colours."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    home, rng = tmp_path_factory.mktemp("answers"), np.random.default_rng(0)
    own = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", None, [("<s>", 1), ("</s>", 2)]
    )
    own.save(str(home / "tokenizer.json"))
    (home / "vocab.txt").write_text("\n".join(QUERY) + "\n")
    rows = []
    for i in range(10):
        picture = np.zeros((16, 16, 3), np.uint8) + rng.integers(0, 40, (16, 16, 3), np.uint8)
        picture[..., i % 3] += 200
        Image.fromarray(picture).save(home / f"{i}.png")
        answer = WORDS[12 + i % 3]
        rows.append({"image": f"{i}.png", "question": "what colour is it ?", "answers": [answer]})
    (home / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = str(home / "asked.jsonl")
    paths = {f"evals.{name}.path": data for name in ("vqa", "ranked", "said")}
    files = {"data.tokenizer": str(home / "tokenizer.json"), "data.path": data}
    files["data.tokenizers.qformer.name"] = str(home / "vocab.txt")
    flags = {key: str(value) for key, value in {**SIZES, **paths, **files}.items()}
    config = load_config(f"{RECIPE}:g,opt-125m", flags)
    one = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "make_mesh", lambda shape: one)
        yield config, home, train(config, home / "run").results


def test_a_batch_has_each_text_by_its_tokenizer(made):
    config, *_ = made
    batch = next(trainers.Trainer(config).pipeline.batches())
    assert (batch["prompt"][:, :4] == [1, 4, 6, 7]).all() and not (batch["prompt"] == 2).any()
    assert (batch["prompt_mask"].sum(1) == 10).all()
    assert (batch["instruction"][:, 0] == 2).all() and (batch["instruction"][:, 10] == 3).all()
    assert np.isin(batch["text"][:, 0], [12, 13, 14]).all() and (batch["text"][:, 1] == 2).all()


def test_evaluators_ask_as_it_was_trained(made):
    _, home, results = made
    assert 0 <= results["vqa"].metrics["accuracy"] <= 1 and "cider_d" in results["said"].metrics
    answers = results["ranked"].details["answers"]
    assert len(answers) == 10 and set(answers) <= {"red", "green", "blue"}
    model = vlp_jax.load(str(home / "run"))
    asked = "question : what colour is it ? answer :"
    pictures = [str(home / f"{i}.png") for i in range(4)]
    scores = model.score(pictures, ["red", "green", "blue"], asked)
    ranked = [["red", "green", "blue"][k] for k in scores.argmax(1)]
    assert ranked == answers[:4]
    assert len(model.generate(pictures, asked, max_new=3)) == 4


def test_a_run_is_written_with_both_tokenizers(made, tmp_path):
    _, home, _ = made
    convert(str(home / "run"), str(tmp_path / "hf"), to="hf")
    assert (tmp_path / "hf" / "qformer_tokenizer" / "tokenizer.json").is_file()
    said = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert said["architectures"] == ["InstructBlipForConditionalGeneration"]
    assert said["image_token_index"] == len(WORDS) and said["num_query_tokens"] == 2
