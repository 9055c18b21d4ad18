"""Two pictures: a file under salesforce/BLIP's names, converted, against PyTorch's own layers, put
together as blip.md 3.4 describes the network, and timm's ViT. transformers has no such class.
"""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
timm = pytest.importorskip("timm", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402
from vlp_jax.models.archs import blip as archs  # noqa: E402

B, T, V, D, HEADS, LAYERS, FIRST = 3, 7, 40, 24, 3, 3, 1
VIT = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0)


def shapes():
    """Of the text's encoder and the classifier."""
    pair = lambda name, out, into: {f"{name}.weight": (out, into), f"{name}.bias": (out,)}  # noqa: E731
    gain = lambda name: {f"{name}.weight": (D,), f"{name}.bias": (D,)}  # noqa: E731
    found = {"embeddings.word_embeddings.weight": (V, D), **gain("embeddings.LayerNorm")}
    found |= {"embeddings.position_embeddings.weight": (12, D)}
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for name, wide in (("attention.self", D), *((f"crossattention.self{i}", 32) for i in "01")):
            found |= pair(f"{at}.{name}.query", D, D)
            found |= pair(f"{at}.{name}.key", D, wide) | pair(f"{at}.{name}.value", D, wide)
        for name in ("attention", "crossattention"):
            found |= gain(f"{at}.{name}.output.LayerNorm")
        for name in ("attention.output.dense", *(f"crossattention.output.dense{i}" for i in "01")):
            found |= pair(f"{at}.{name}", D, D)
        if layer >= FIRST:
            found |= pair(f"{at}.crossattention.output.merge_layer", D, 2 * D)
        found |= pair(f"{at}.intermediate.dense", 4 * D, D) | pair(f"{at}.output.dense", D, 4 * D)
        found |= gain(f"{at}.output.LayerNorm")
    found = {f"text_encoder.{name}": shape for name, shape in found.items()}
    return found | pair("cls_head.0", D, D) | pair("cls_head.2", 2, D)


def judged(state, states, ids, mask):
    """Logits of the sentence ids about the states of two pictures."""
    linear = lambda name, x: F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])  # noqa: E731

    def norm(name, x):
        return F.layer_norm(x, (D,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    def look(name, x, at, seen=None):
        split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = (split(linear(f"{name}.{w}", t)) for w, t in zip(
            ("query", "key", "value"), (x, at, at), strict=True))  # fmt: skip
        out = F.scaled_dot_product_attention(q, k, v, seen)
        return out.transpose(1, 2).flatten(2)

    root = "text_encoder"
    x = state[f"{root}.embeddings.word_embeddings.weight"][ids]
    x = x + state[f"{root}.embeddings.position_embeddings.weight"][:T]
    x = norm(f"{root}.embeddings.LayerNorm", x)
    for layer in range(LAYERS):
        at = f"{root}.encoder.layer.{layer}"
        own = look(f"{at}.attention.self", x, x, mask[:, None, None, :])
        x = norm(
            f"{at}.attention.output.LayerNorm", x + linear(f"{at}.attention.output.dense", own)
        )
        cross = f"{at}.crossattention"
        both = [
            linear(f"{cross}.output.dense{i}", look(f"{cross}.self{i}", x, states[i]))
            for i in range(2)
        ]
        if layer < FIRST:
            seen = (both[0] + both[1]) / 2
        else:
            seen = linear(f"{cross}.output.merge_layer", torch.cat(both, -1))
        x = norm(f"{cross}.output.LayerNorm", x + seen)
        wide = F.gelu(linear(f"{at}.intermediate.dense", x))
        x = norm(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", wide))
    return linear("cls_head.2", linear("cls_head.0", x[:, 0]).relu())


def test_a_converted_file_judges_as_its_network(tmp_path, monkeypatch):
    image = archs.blip_towers("base", 32)["image"] | dict(
        patch_size=8, num_layers=2, width=32, head_width=8
    )
    text = dict(name="med", vocab_size=V, width=D, num_layers=LAYERS, num_heads=HEADS)
    sizes = {"image": image, "text": text | {"context_length": 12}, "text_length": T, "end_id": 2}
    monkeypatch.setitem(archs.ARCHS, "tiny", sizes)
    torch.manual_seed(0)
    tower = timm.models.VisionTransformer(**VIT).eval()
    state = {f"visual_encoder.{name}": p for name, p in tower.state_dict().items()}
    state |= {name: torch.zeros(shape) for name, shape in shapes().items()}
    with torch.no_grad():
        for name in state:
            state[name] = state[name] + 0.2 * torch.randn_like(state[name])
    tower.load_state_dict({n.removeprefix("visual_encoder."): p for n, p in state.items()
                           if n.startswith("visual_encoder.")})  # fmt: skip
    torch.save({"model": state, "epoch": 3}, tmp_path / "model_base_nlvr.pth")
    made = str(tmp_path / "ours")
    assert convert.main([str(tmp_path / "model_base_nlvr.pth"), made, "--arch=tiny"]) == 0
    model = load_model(made)
    assert model.method.text_net.merge_from == FIRST
    rng = np.random.default_rng(0)
    batch = {n: rng.integers(0, 256, (B, 32, 32, 3), np.uint8) for n in ("image", "second_image")}
    ids = rng.integers(3, V - 2, (B, T)).astype(np.int32)
    mask = np.arange(T) < np.array([[7], [4], [5]])
    run = model.method.functions()["pair_logits"]
    given = Inputs.of({**batch, "text": ids, "text_mask": mask})
    found = np.asarray(run(Vars(model.params, model.extra), given))
    pixels = [np.array(model.method.prepare(p, None)).transpose(0, 3, 1, 2) for p in batch.values()]
    ids[:, 0] = V - 1  # [ENC]
    with torch.no_grad():
        states = [tower.forward_features(torch.from_numpy(p)) for p in pixels]
        wanted = judged(state, states, torch.from_numpy(ids).long(), torch.from_numpy(mask))
        turned = judged(state, states[::-1], torch.from_numpy(ids).long(), torch.from_numpy(mask))
    assert float((wanted - turned).abs().max()) > 0.05, "the order counts"
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4)
