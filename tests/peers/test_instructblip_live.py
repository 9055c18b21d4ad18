"""Live parity with transformers' InstructBlipForConditionalGeneration in front of a LLaMA and a T5:
random weights with a processor's files through converted folders, and back; queries that read the
instruction, logits, and greedy texts from pictures and words on."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import tokenizers  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
import make_blip2_golden as golden  # noqa: E402

import vlp_jax  # noqa: E402
from vlp_jax.__main__ import main  # noqa: E402
from vlp_jax.cli import convert, forward, generate  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "what", "is", "in", "the", "picture", "red", "cat", "a"]
V, Q, SIDE = 24, 3, golden.SIDE
TEXTS = {
    "llama": dict(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                  num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32),
    "t5": dict(vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
               feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0,
               eos_token_id=2, dense_act_fn="gelu"),
}  # fmt: skip
CLASSES = {"llama": "LlamaConfig", "t5": "T5Config"}
ASKED = ["what is in the picture", "a red cat"]


def build(kind):
    """A random network whose biases and gains are away from 0 and 1."""
    text = getattr(transformers, CLASSES[kind])(**TEXTS[kind])
    words = {k: v for k, v in golden.QFORMER.items() if k != "use_qformer_text_input"}
    config = transformers.InstructBlipConfig(
        vision_config=golden.VISION, qformer_config=words, text_config=text.to_dict(),
        num_query_tokens=Q, image_token_index=len(WORDS),
    )  # fmt: skip
    model = transformers.InstructBlipForConditionalGeneration(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in {id(p): p for p in model.parameters()}.values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def processor(kind, folder):
    """Words as they are, framed as the language model's are, and BERT's for the queries."""
    own = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>")
    )
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    frame, edge = ("<s> $A", ("<s>", 1)) if kind == "llama" else ("$A </s>", ("</s>", 2))
    own.post_processor = tokenizers.processors.TemplateProcessing(frame, None, [edge])
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=own, **names)
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS[4:]]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    queries = transformers.BertTokenizer(str(folder / "vocab.txt"))
    square = {"height": SIDE, "width": SIDE}
    pictures = transformers.BlipImageProcessorPil(size=square)
    return transformers.InstructBlipProcessor(pictures, words, queries, num_query_tokens=Q)


def asked(made, pictures):
    """What the processor makes of each picture with its question, a row each, unpadded."""
    rows = zip(pictures, ASKED, strict=True)
    return [made(images=p, text=text, return_tensors="pt") for p, text in rows]


@pytest.mark.parametrize("kind", TEXTS)
def test_both_ways(kind, tmp_path, capsys):
    model, made = build(kind), processor(kind, tmp_path / "words")
    image = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    pictures = [Image.fromarray(rows) for rows in image]
    model.save_pretrained(tmp_path / "hf")
    made.save_pretrained(tmp_path / "hf")
    assert (tmp_path / "hf" / "qformer_tokenizer").is_dir()
    target = torch.tensor([[0, 5, 9]])
    more = {"decoder_input_ids": target} if kind == "t5" else {}
    given = asked(made, pictures)
    with torch.no_grad():
        wanted = [model(**row, **more) for row in given]
        how = dict(max_new_tokens=5, do_sample=False)
        written = [model.generate(**row, **how)[0].tolist() for row in given]

    ours, back = (str(tmp_path / name) for name in ("ours", "back"))
    assert convert.main([str(tmp_path / "hf"), ours]) == 0
    found = vlp_jax.load(ours)
    assert found.tokenizer("qformer").prefix == (2,) and found.method.instructed
    functions, v = found.method.functions(), Vars(found.params, found.extra)
    for i, row in enumerate(given):
        ids = row["input_ids"].numpy()[:, Q:].astype(np.int32)
        batch = {"image": image[i : i + 1], "text": ids}
        batch["instruction"] = row["qformer_input_ids"].numpy().astype(np.int32)
        batch |= {"target": target.numpy().astype(np.int32)} if kind == "t5" else {}
        asks = ("queries", "lm_logits")
        got = jax.jit(lambda v, x: {n: functions[n](v, x) for n in asks})(v, Inputs.of(batch))
        queries = wanted[i].qformer_outputs.last_hidden_state.numpy()[:, :Q]
        np.testing.assert_allclose(got["queries"], queries, rtol=0, atol=1e-4)
        logits = wanted[i].logits.numpy()[:, 0 if kind == "t5" else Q :]
        np.testing.assert_allclose(got["lm_logits"], logits, rtol=0, atol=1e-3)
    arrays = {name: batch[name] for name in batch}
    np.savez(tmp_path / "in.npz", **arrays)
    flags = ["--fn=lm_logits", f"--inputs={tmp_path / 'in.npz'}", f"--out={tmp_path / 'out.npz'}"]
    assert forward.main([f"--checkpoint={ours}", *flags]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["out"], logits, rtol=0, atol=1e-3)

    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "asked.txt").write_text("\n".join(ASKED))
    flags = [f"--images={tmp_path / '0.png'},{tmp_path / '1.png'}", "--max-new=5"]
    flags += [f"--prompts={tmp_path / 'asked.txt'}", f"--out={tmp_path / 'out.jsonl'}"]
    assert generate.main([f"--checkpoint={ours}", *flags]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, new, before in zip(rows, written, given, strict=True):
        new = new[1 if kind == "t5" else before["input_ids"].shape[1] :]
        assert row["ids"] == new[: len(row["ids"])] and set(new[len(row["ids"]) :]) <= {0, 2}

    assert convert.main([ours, back, "--to=hf"]) == 0
    again, report = type(model).from_pretrained(back, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert again.config.image_token_index == len(WORDS)
    read = transformers.InstructBlipProcessor.from_pretrained(back)
    assert read.num_query_tokens == Q
    with torch.no_grad():
        for row, mine, want in zip(given, asked(read, pictures), wanted, strict=True):
            assert torch.equal(again.eval()(**row, **more).logits, want.logits)
            assert torch.equal(mine["qformer_input_ids"], row["qformer_input_ids"])
            assert torch.allclose(mine["pixel_values"], row["pixel_values"], atol=1e-5)
    capsys.readouterr()


@pytest.mark.parametrize(
    "section, changes, message",
    [
        ("", {"architectures": ["InstructBlipModel"]}, "'InstructBlipModel' is not read; valid: I"),
        ("text_config", {"model_type": "lama"}, "model_type 'lama' is not read; did you mean 'lla"),
        ("qformer_config", {"cross_attention_frequency": 3}, "=3 does not divide num_hidden_laye"),
        ("qformer_config", {"hidden_act": "gelo"}, "hidden_act 'gelo' is not known; did you mean"),
        ("vision_config", {"qkv_bias": False}, "only qkv_bias=true is read"),
        ("", {"text_config": "llama"}, "text_config is 'llama', it must be a mapping"),
        ("text_config", {"eos_token_id": None}, "text_config: names no eos_token_id"),
        ("text_config", {"eos_token_id": 99}, "eos_token_id=99: must be an id below vocab_size=24"),
        ("vision_config", {"hidden_size": 24}, "does not hold what its config says"),
        ("text_config", {"vocab_size": 25}, "does not hold what its config says"),
    ],
)
def test_what_is_not_read(section, changes, message, saved, capsys):
    """And nothing is written."""
    said = json.loads((saved / "config.json").read_text())
    (said[section] if section else said).update(changes)
    (saved / "changed").mkdir(exist_ok=True)
    (saved / "changed" / "config.json").write_text(json.dumps(said))
    target = saved / "changed" / "model.safetensors"
    if not target.exists():
        target.symlink_to(saved / "model.safetensors")
    assert main(["convert", str(saved / "changed"), str(saved / "out")]) == 2
    told = capsys.readouterr().err
    assert message in told.splitlines()[0] and str(saved / "changed") in told
    assert not (saved / "out").exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A class's folder without a processor's files."""
    folder = tmp_path_factory.mktemp("saved")
    build("llama").save_pretrained(folder)
    return folder


def test_queries_without_their_tokenizer(saved, tmp_path, capsys):
    """It is told at once, and where texts need it."""
    made = processor("llama", tmp_path / "words")
    made.tokenizer.save_pretrained(tmp_path / "hf")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "hf" / name).symlink_to(saved / name)
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    assert "no tokenizer in qformer_tokenizer" in "".join(capsys.readouterr())
    picture = Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8))
    picture.save(tmp_path / "p.png")
    flags = [f"--images={tmp_path / 'p.png'}", f"--out={tmp_path / 'o.jsonl'}", "--prompt=a cat"]
    assert main(["generate", f"--checkpoint={tmp_path / 'ours'}", *flags]) == 2
    assert "carries no tokenizer 'qformer'" in capsys.readouterr().err
