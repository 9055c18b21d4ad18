"""Live parity with transformers' language models: random weights through converted folders, and
back; logits, and texts that both write.
"""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

import vlp_jax  # noqa: E402
from vlp_jax.api.forward import forward  # noqa: E402
from vlp_jax.cli import convert, generate  # noqa: E402
from vlp_jax.interop.family import families  # noqa: E402
from vlp_jax.models.archs.language_model import ARCHS  # noqa: E402

WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, 60))]
LLAMA = dict(
    vocab_size=64, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=40,
)  # fmt: skip
GROUPED = LLAMA | {"num_key_value_heads": 2}
OPT = dict(
    vocab_size=64, hidden_size=48, ffn_dim=80, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=40, word_embed_proj_dim=48,
)  # fmt: skip
MPT = dict(vocab_size=64, d_model=48, n_layers=2, n_heads=4, max_seq_len=40)
NEOX = LLAMA | {"hidden_act": "gelu"}
GPT2 = dict(vocab_size=64, n_embd=48, n_layer=2, n_head=4, n_positions=40)
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 10,
}  # fmt: skip


def roped(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **more}}


CASES = {
    "llama": ("Llama", LLAMA),
    "grouped": ("Llama", GROUPED | {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "biases": ("Llama", GROUPED | {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "linear": ("Llama", LLAMA | roped("linear", factor=2.0)),
    "dynamic": ("Llama", LLAMA | {"max_position_embeddings": 8} | roped("dynamic", factor=4.0)),
    "llama3": ("Llama", GROUPED | {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 5}),
    "opt": ("OPT", OPT),
    "opt_350m": ("OPT", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "opt_bare": ("OPT", OPT | {"enable_bias": False, "_remove_final_layer_norm": True}),
    "opt_untied": ("OPT", OPT | {"tie_word_embeddings": False}),
    "mpt": ("Mpt", MPT),
    "mpt_clipped": (
        "Mpt",
        MPT | {"n_heads": 6, "attn_config": {"clip_qkv": 0.3, "softmax_scale": 0.2}},
    ),
    "neox": ("GPTNeoX", NEOX | roped("default", partial_rotary_factor=0.5)),
    "neox_serial": ("GPTNeoX", NEOX | {"use_parallel_residual": False, "attention_bias": False}),
    "gpt2": ("GPT2", GPT2),
}
ENDS = {"GPT2": "LMHeadModel"}


def randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_((0.02 if "norm" in name else 0.15) * torch.randn_like(tensor))
    return model.eval()


def made(kind, config):
    config = getattr(transformers, f"{kind}Config")(**config)
    return randomise(getattr(transformers, f"{kind}{ENDS.get(kind, 'ForCausalLM')}")(config))


def write_tokenizer(folder, starts=True):
    """A word a token, <s> in front, as the tokenizers of LLaMA put it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: i for i, word in enumerate(WORDS)}
    found = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.add_special_tokens(["<s>", "</s>"])
    if starts:
        found.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    found.save(str(folder / "tokenizer.json"))
    said = {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """(transformers' model, ours, the folder of both)."""
    folder = tmp_path_factory.mktemp("lm")
    model = made(*CASES[request.param])
    model.save_pretrained(folder / "hf")
    write_tokenizer(folder / "hf")
    assert convert.main([str(folder / "hf"), str(folder / "ours")]) == 0
    return model, vlp_jax.load(str(folder / "ours")), folder


def test_logits(both):
    model, ours, _ = both
    ids = np.random.default_rng(0).integers(3, 60, (4, 14)).astype(np.int32)
    mask = np.arange(14) < np.array([[14], [9], [2], [1]])
    with torch.no_grad():
        given = {"input_ids": torch.from_numpy(ids).long()}
        wanted = model(**given, attention_mask=torch.from_numpy(mask).long()).logits.numpy()
    found = forward(ours, "lm_logits", {"text": ids, "text_mask": mask})["out"]
    assert found.shape == (4, 14, 64) and found.dtype == np.float32
    np.testing.assert_allclose(found[mask], wanted[mask], atol=1e-4)
    whole = forward(ours, "lm_logits", {"text": ids[:1]})["out"]
    np.testing.assert_allclose(whole, wanted[:1], atol=1e-4)


def test_greedy_texts(both, tmp_path, capsys):
    """Prompts of unequal lengths, of which each is written as it is alone."""
    model, ours, folder = both
    prompts = ["w5 w9 w7 w30", "w11", "w40 w41 w42 w43 w44 w45 w46", "w8 w8"]
    (tmp_path / "prompts").write_text("\n".join(prompts) + "\n")
    call = [f"--checkpoint={folder / 'ours'}", f"--prompts={tmp_path / 'prompts'}"]
    assert generate.main([*call, f"--out={tmp_path / 'out.jsonl'}", "--max-new=8"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    end = model.config.eos_token_id
    for prompt, row in zip(prompts, rows, strict=True):
        ids = torch.tensor([[1, *(WORDS.index(word) for word in prompt.split())]])
        with torch.no_grad():
            model(ids[:, :1])  # transformers' dynamic places remember longer texts until then
            out = model.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=0)
        wanted = out[0, ids.shape[1] :].tolist()
        wanted = wanted[: wanted.index(end)] if end in wanted else wanted
        assert row["ids"] == wanted and row["prompt"] == prompt and "image" not in row
    assert ours.generate(prompt=prompts[:2], max_new=8) == [row["text"] for row in rows[:2]]
    assert "4 prompts" in capsys.readouterr().out


@pytest.mark.parametrize("starts", [True, False])
def test_likelihood(starts, tmp_path):
    """All of a text and its end count, also where the tokenizer has no start, after a prompt or
    after what the config says that texts begin with."""
    model = made("GPT2", GPT2)
    model.save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf", starts)
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    ours, texts = vlp_jax.load(str(tmp_path / "ours")), ["w5 w9 w30", "w11"]
    reads = ours.method.functions()["loglik"].reads
    given = ours.text_arrays(reads["texts"], "texts")(texts)
    given = {name: each[None, :, :6] for name, each in given.items()}
    begun = ours.text_arrays(reads["prompt"], "prompt")(["w7 w8"])
    begun = {name: each[:, :4] for name, each in begun.items()}
    for prompt, ids in ((begun, [1, 7, 8] if starts else [7, 8]), ({}, [1])):
        wanted = []
        for text in texts:
            told = [*(WORDS.index(word) for word in text.split()), 2]
            with torch.no_grad():
                log_p = model(torch.tensor([ids + told])).logits[0].log_softmax(-1)
            wanted.append(sum(log_p[len(ids) - 1 + i, one].item() for i, one in enumerate(told)))
        found = forward(ours, "loglik", {**prompt, **given})["out"]
        np.testing.assert_allclose(found, [wanted], atol=1e-4)


def test_there_and_back(both):
    model, _, folder = both
    assert convert.main([str(folder / "ours"), str(folder / "back"), "--to=hf"]) == 0
    back, report = type(model).from_pretrained(folder / "back", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        model(ids[:, :1])
        same = model(ids).logits.numpy(), back.eval()(ids).logits.numpy()
    np.testing.assert_allclose(*same, atol=1e-5)  # GELU by tanh has two names there
    theirs, again = (
        transformers.AutoTokenizer.from_pretrained(folder / name) for name in ("hf", "back")
    )
    prompt = "w5 w9 w7 " * 30  # no end behind it, and none of it cut
    assert again(prompt)["input_ids"] == theirs(prompt)["input_ids"]
    assert again.model_max_length == theirs.model_max_length and again.eos_token_id == 2


def test_bfloat16_stays_in_shards(tmp_path):
    model = made(*CASES["grouped"]).bfloat16()
    model.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    write_tokenizer(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    ours = vlp_jax.load(str(tmp_path / "ours"))
    assert ours.params["lm"]["token_embed"]["embedding"].dtype == "bfloat16"
    ids = np.arange(3, 15)[None].astype(np.int32)
    model = type(model).from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids).long()).logits.numpy()
    np.testing.assert_allclose(forward(ours, "lm_logits", {"text": ids})["out"], wanted, atol=1e-4)


SAID = {"llama": "Llama", "opt": "OPT", "mpt": "Mpt", "gpt_neox": "GPTNeoX", "gpt2": "GPT2"}


@pytest.mark.parametrize("name", SAID)
def test_the_defaults_that_we_read_by_are_transformers(name):
    family, theirs = families()[f"hf_{name}"], getattr(transformers, f"{SAID[name]}Config")
    read = family.method({"model_type": theirs.model_type}, "x")
    assert read == family.method(theirs().to_dict(), "x")
    if name == "llama":
        config = transformers.MistralConfig().to_dict()
        assert family.method({"model_type": "mistral"}, "x") == family.method(config, "x")


NAMES = ("llama-3-8b", "mistral-7b", "opt-350m", "mpt-1b", "redpajama-incite-3b", "gpt2-medium")


@pytest.mark.parametrize("name", NAMES)
def test_published_sizes(name):
    """transformers' class of our config has as many parameters."""
    import jax

    from vlp_jax.api.switches import described
    from vlp_jax.core.pytree import size
    from vlp_jax.methods.base import make_method

    method = make_method({"name": "language_model", **ARCHS[name]})
    said = described(method)
    (family,) = (f for f in families().values() if f.to == "hf" and f.takes(said))
    config = family.configs(said, {}, None)["config.json"]
    kind = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        theirs = kind(kind.config_class.from_dict(config))
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    assert size(params) == sum(p.numel() for p in theirs.parameters())
