"""Live parity with transformers' ViTMAEForPreTraining: random weights, the same noise; and with
timm's ViT, which reads facebookresearch/mae's files.

Versions of transformers leave position tables and mask token of a random model at zero, and its
released weights hold the fixed tables; `random_model` puts them there, by transformers' own rule.
"""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers.models.vit_mae import modeling_vit_mae as theirs  # noqa: E402

from vlp_jax.api import export  # noqa: E402
from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.api.weights import expected_shapes, split_extra  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.core.errors import UserError  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402
from vlp_jax.methods.base import make_method  # noqa: E402
from vlp_jax.models.archs.mae import mae_tower  # noqa: E402
from vlp_jax.nn.masks import is_hidden, shuffle  # noqa: E402

TINY = dict(
    image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, decoder_hidden_size=32, decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2, decoder_intermediate_size=128, layer_norm_eps=1e-6,
)  # fmt: skip
CASES = {
    "tiny": dict(TINY, norm_pix_loss=True),
    "tiny-pixels-half": dict(TINY, norm_pix_loss=False, mask_ratio=0.5, layer_norm_eps=1e-12),
    "ViT-B-16": dict(norm_pix_loss=True),
}


def their_table(grid, width):
    """MAE's order of the columns: w before h, the reverse of what the builder gives."""
    build = theirs.build_2d_sinusoidal_position_embedding
    table = build(height=grid, width=grid, embed_dim=width, cls_token=True)
    return torch.cat([table[:, width // 2 :], table[:, : width // 2]], dim=1)[None]


def random_model(**fields):
    config = transformers.ViTMAEConfig(**fields)
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(config).eval()
    grid = config.image_size // config.patch_size
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1 or "token" in name:
                tensor.add_(0.05 * torch.randn_like(tensor))
        model.vit.embeddings.position_embeddings.copy_(their_table(grid, config.hidden_size))
        model.decoder.decoder_pos_embed.copy_(their_table(grid, config.decoder_hidden_size))
    return model


def inputs(method, count=2):
    """(batch of ours, normalised pixels for theirs, noise)."""
    rng = np.random.default_rng(0)
    side, patches = method.image_tower.image_size, method.image_tower.grid**2
    coarse = rng.integers(0, 256, (count, side // 4, side // 4, 3)).repeat(4, 1).repeat(4, 2)
    images = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
    noise = rng.random((count, patches), np.float32)
    pixels = np.array(method.prepare(jnp.asarray(images), None)).transpose(0, 3, 1, 2)
    return {"image": images, "noise": noise}, torch.from_numpy(pixels), torch.from_numpy(noise)


@pytest.mark.parametrize("name", CASES)
def test_same_noise_same_masks_logits_and_loss_and_back(name, tmp_path):
    model = random_model(**CASES[name])
    model.save_pretrained(tmp_path / "hf")
    arch = [] if name.startswith("tiny") else [f"--arch={name}"]
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours"), *arch]) == 0
    loaded = load_model(str(tmp_path / "ours"))
    method = loaded.method
    assert (method.norm_pix == model.config.norm_pix_loss and not arch) or method.keep == 49
    batch, pixels, noise = inputs(method)
    with torch.no_grad():
        out = model(pixels, noise=noise)

    order, rank = shuffle(jnp.asarray(batch["noise"]))
    np.testing.assert_array_equal(rank, out.ids_restore.numpy())
    v, x = Vars(loaded.params, {}), Inputs.of(batch)
    places = method.visible(x)
    np.testing.assert_array_equal(places, np.sort(order[:, : method.keep]))
    hidden = is_hidden(places, noise.shape[1])
    np.testing.assert_array_equal(np.asarray(hidden, np.float32), out.mask.numpy())
    with jax.default_matmul_precision("highest"):
        ready = method.prepare(jnp.asarray(batch["image"]), None)
        logits = jax.jit(method.predict)(v, x, ready, places)
        loss, _ = method.loss(v, x)
        tokens, _ = method.encoder.apply({"params": loaded.params["image"]}, ready)
    np.testing.assert_allclose(logits, out.logits.numpy(), atol=2e-4)
    assert float(loss) == pytest.approx(float(out.loss), abs=1e-5)
    with torch.no_grad():  # nothing hidden: the features
        model.config.mask_ratio = model.vit.config.mask_ratio = 0.0
        order = torch.arange(noise.shape[1])[None].float().expand(len(noise), -1)
        seen = model.vit(pixels, noise=order).last_hidden_state.numpy()
    np.testing.assert_allclose(tokens, seen, atol=1e-4)

    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=hf"]) == 0
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        back = again.eval()(pixels, noise=noise)
    np.testing.assert_allclose(back.logits.numpy(), out.logits.numpy(), atol=1e-6)
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    kept = [key for key in said if hasattr(model.config, key) and key != "architectures"]
    assert {k: said[k] for k in kept if k != "mask_ratio"} == {
        k: getattr(model.config, k) for k in kept if k != "mask_ratio"
    }


@pytest.mark.parametrize("decoder", [True, False])
def test_our_export_gives_timm_our_features(decoder, tmp_path):
    """A file of --to=mae, loaded with strict=False as facebookresearch/mae fine-tunes and timm
    reads it.
    """
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    config = {"name": "mae", "image": mae_tower(32, 8, 2, 64, 16)}
    config["decoder"] = dict(num_layers=1, width=32, num_heads=2) if decoder else None
    method = make_method(config)
    rng = np.random.default_rng(0)
    arrays = {
        path: rng.normal(0, 0.1, shape).astype(np.float32)
        for path, shape in expected_shapes(method).items()
    }
    how = dict(mean=method.image_mean, std=method.image_std)
    export.write(str(tmp_path / "m"), "mae", arrays, {"method": config, "preprocessing": how})
    state = load_file(tmp_path / "m" / "model.safetensors")
    model = vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=0
    ).eval()
    found = model.load_state_dict(state, strict=False)
    assert not found.missing_keys
    assert all("decoder" in key or key == "mask_token" for key in found.unexpected_keys)
    assert bool(found.unexpected_keys) == decoder

    batch, pixels, _ = inputs(method)
    with jax.default_matmul_precision("highest"):
        v = Vars(split_extra(arrays)[0], {})
        features = method.functions()["features"](v, Inputs.of(batch))
    with torch.no_grad():
        np.testing.assert_allclose(features, model(pixels).numpy(), atol=1e-4)


def test_a_random_model_without_its_tables_is_noticed(tmp_path):
    """The encoder's positions become weights, a decoder's are refused."""
    model = random_model(**TINY)
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.mul_(0.5)
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    loaded = load_model(str(tmp_path / "ours"))
    assert loaded.method.image_tower.pos_embed == "learned"
    table = model.vit.embeddings.position_embeddings[0].detach().numpy()
    np.testing.assert_array_equal(loaded.params["image"]["pos_embed"], table)
    with torch.no_grad():
        model.decoder.decoder_pos_embed.zero_()
    model.save_pretrained(tmp_path / "bad")
    with pytest.raises(UserError, match="decoder/pos_embed is not the fixed sine-cosine table"):
        convert.main([str(tmp_path / "bad"), str(tmp_path / "out")])
