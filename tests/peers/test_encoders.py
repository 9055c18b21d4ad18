"""Live parity with transformers' BertModel and ViTModel: random weights through converted files,
and back.
"""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402
from vlp_jax.interop.family import families  # noqa: E402

SIZES = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96)
BERT = dict(SIZES, vocab_size=99, max_position_embeddings=20)
VIT = dict(SIZES, image_size=32, patch_size=8)


def randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval()


def convert_both_ways(model, folder):
    """(our model, transformers' of our export)."""
    model.save_pretrained(folder / "hf")
    assert convert.main([str(folder / "hf"), str(folder / "ours")]) == 0
    assert convert.main([str(folder / "ours"), str(folder / "back"), "--to=hf"]) == 0
    kind = type(model.base_model)
    back, report = kind.from_pretrained(folder / "back", output_loading_info=True)
    poolers = {"pooler.dense.weight", "pooler.dense.bias"}
    assert not report["unexpected_keys"] and set(report["missing_keys"]) <= poolers
    return load_model(str(folder / "ours")), back.eval()


def ours(model, name, batch):
    run = model.method.functions()[name]
    return np.asarray(run(Vars(model.params, model.extra), Inputs.of(batch)))


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu_pytorch_tanh", "type_vocab_size": 1}])
def test_bert(kind, changes, tmp_path):
    model = randomise(getattr(transformers, kind)(transformers.BertConfig(**BERT | changes)))
    loaded, back = convert_both_ways(model, tmp_path)
    ids = np.random.default_rng(0).integers(1, 99, (4, 20)).astype(np.int32)
    mask = np.arange(20) < np.array([[20], [13], [2], [1]])
    with torch.no_grad():
        given = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
        out, again = model.base_model(*given), back(*given)
    tokens = ours(loaded, "tokens", {"text": ids, "text_mask": mask})
    np.testing.assert_allclose(tokens[mask], out.last_hidden_state.numpy()[mask], atol=1e-4)
    same = out.last_hidden_state.numpy()[mask], again.last_hidden_state.numpy()[mask]
    np.testing.assert_allclose(*same, atol=1e-6)
    short = ours(loaded, "tokens", {"text": ids[1:2, :13]})  # no mask: all are real
    np.testing.assert_allclose(short[0], tokens[1, :13], atol=1e-5)
    if kind == "BertModel":
        pooled = ours(loaded, "pooler", {"text": ids, "text_mask": mask})
        np.testing.assert_allclose(pooled, out.pooler_output.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_vit(kind, tmp_path):
    model = randomise(getattr(transformers, kind)(transformers.ViTConfig(**VIT)))
    loaded, back = convert_both_ways(model, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    pixels = np.array(loaded.method.prepare(image, None)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        out, again = (m(torch.from_numpy(pixels)) for m in (model.base_model, back))
    tokens = ours(loaded, "tokens", {"image": image})
    np.testing.assert_allclose(tokens, out.last_hidden_state.numpy(), atol=1e-4)
    np.testing.assert_allclose(tokens, again.last_hidden_state.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours(loaded, "features", {"image": image}), tokens[:, 0], atol=1e-5)
    if kind == "ViTModel":
        pooled = ours(loaded, "pooler", {"image": image})
        np.testing.assert_allclose(pooled, out.pooler_output.numpy(), atol=1e-4)


def test_the_defaults_that_we_read_by_are_transformers():
    for family, theirs in (("bert", transformers.BertConfig), ("hf_vit", transformers.ViTConfig)):
        read = families()[family].method
        assert read({"model_type": theirs.model_type}, "x") == read(theirs().to_dict(), "x")
