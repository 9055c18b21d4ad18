"""Live parity with transformers' T5ForConditionalGeneration: random weights through converted
folders, and back; logits, and texts that both write.
"""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

import vlp_jax  # noqa: E402
from vlp_jax.api.forward import forward  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402

SIZES = dict(
    vocab_size=64, d_model=32, d_kv=12, d_ff=48, num_layers=2, num_heads=4,
    feed_forward_proj="gated-gelu", decoder_start_token_id=0, tie_word_embeddings=False,
    relative_attention_num_buckets=8, relative_attention_max_distance=12,
)  # fmt: skip


def test_t5(tmp_path):
    """Its table of what is written is one of its own, as in the released files."""
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**SIZES)).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.randn(64, 32) * 0.2)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    model.save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    whole = load_file(file) | {"lm_head.weight": model.lm_head.weight.detach().numpy()}
    save_file(whole, file, {"format": "pt"})
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    ours = vlp_jax.load(str(tmp_path / "ours"))
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 64, (3, 20)).astype(np.int32)
    mask = np.arange(20) < np.array([[20], [13], [1]])
    target = np.pad(rng.integers(2, 64, (3, 9)).astype(np.int32), ((0, 0), (1, 0)))
    given = {"input_ids": torch.from_numpy(ids).long(), "attention_mask": torch.from_numpy(mask)}
    given["attention_mask"] = given["attention_mask"].long()
    with torch.no_grad():
        wanted = model(**given, decoder_input_ids=torch.from_numpy(target).long()).logits.numpy()
        written = model.generate(**given, do_sample=False, max_new_tokens=7)
    batch = {"text": ids, "text_mask": mask, "target": target}
    np.testing.assert_allclose(forward(ours, "lm_logits", batch)["out"], wanted, atol=1e-4)
    batch.pop("target")
    out = forward(ours, "generate_answer", batch, {"max_new": 7})
    for row, length, theirs in zip(out["ids"][:, 0], out["length"][:, 0], written, strict=True):
        its = theirs[1:].tolist()
        assert row[:length].tolist() == (its[: its.index(1)] if 1 in its else its)
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=hf"]) == 0
    back = load_file(tmp_path / "back" / "model.safetensors")
    for name, array in back.items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)
    assert back.keys() == whole.keys()
