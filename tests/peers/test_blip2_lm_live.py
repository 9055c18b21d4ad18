"""Live parity with transformers' Blip2ForConditionalGeneration in front of an OPT, a LLaMA and a
T5: random weights through converted folders, and back; queries, logits, greedy texts."""

import pathlib
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
import make_blip2_golden as golden  # noqa: E402

from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402

V, Q, T, SLOT = 40, 3, 6, 39
TEXTS = {
    "opt": dict(vocab_size=V, hidden_size=16, ffn_dim=24, num_hidden_layers=2, pad_token_id=1,
                num_attention_heads=2, word_embed_proj_dim=16, max_position_embeddings=32),
    "llama": dict(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                  num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32),
    "t5": dict(vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
               feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0),
}  # fmt: skip
CLASSES = {"opt": "OPTConfig", "llama": "LlamaConfig", "t5": "T5Config"}


def build(kind):
    """A random network whose biases and gains are away from 0 and 1."""
    text = getattr(transformers, CLASSES[kind])(**TEXTS[kind])
    words = golden.QFORMER | {"use_qformer_text_input": False}
    config = transformers.Blip2Config(
        vision_config=golden.VISION, qformer_config=words, text_config=text.to_dict(),
        num_query_tokens=Q, image_token_index=SLOT,
    )  # fmt: skip
    model = transformers.Blip2ForConditionalGeneration(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in {id(p): p for p in model.parameters()}.values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


@pytest.mark.parametrize("kind", TEXTS)
def test_both_ways(kind, tmp_path):
    model, given = build(kind), golden.batch()
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    ours = load_model(str(tmp_path / "ours"))
    functions, v = ours.method.functions(), Vars(ours.params, ours.extra)
    ids = np.random.default_rng(1).integers(3, SLOT, (2, T)).astype(np.int32)
    target = np.concatenate([np.zeros((2, 1), np.int32), ids[:, :3]], 1)
    batch = {"image": given["image"], "text": ids} | ({"target": target} if kind == "t5" else {})
    mean, std = (np.array(getattr(transformers.image_utils, f"OPENAI_CLIP_{k}"), np.float32)
                 for k in ("MEAN", "STD"))  # fmt: skip
    pixels = (given["image"] / np.float32(255) - mean) / std
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    slots = torch.from_numpy(np.concatenate([np.full((2, Q), SLOT), ids], 1)).long()
    more = {"decoder_input_ids": torch.from_numpy(target).long()} if kind == "t5" else {}
    with torch.no_grad():
        how = dict(attention_mask=torch.ones_like(slots))
        wanted = model(pixels, slots, **how, **more)
        written = model.generate(pixels, slots, **how, max_new_tokens=5, do_sample=False)
    logits = wanted.logits.numpy()
    logits = logits if kind == "t5" else logits[:, Q:]
    asked = ("queries", "lm_logits")
    found = jax.jit(lambda v: {name: functions[name](v, Inputs.of(batch)) for name in asked})(v)
    queries = wanted.qformer_outputs.last_hidden_state.numpy()
    np.testing.assert_allclose(found["queries"], queries, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["lm_logits"], logits, rtol=0, atol=1e-3)
    prompt = {"image": given["image"], "prompt": ids}
    made = functions["generate_text"](v, Inputs.of(prompt), {"max_new": 5})
    new = written.numpy()[:, 1:] if kind == "t5" else written.numpy()[:, -5:]
    for row, count in enumerate(np.asarray(made["length"])[:, 0]):
        said = np.asarray(made["ids"])[row, 0, :count]
        np.testing.assert_array_equal(said, new[row, :count])
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=hf"]) == 0
    back, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    theirs = dict(model.named_parameters())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in back.named_parameters())
    assert back.config.image_token_index == SLOT
    with torch.no_grad():
        assert torch.equal(back.eval()(pixels, slots, **how, **more).logits, wanted.logits)
