"""Archives that PyTorch itself writes, read by interop/torch_file.py, equal torch.load."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `peers` extra")

from vlp_jax.core.errors import UserError  # noqa: E402
from vlp_jax.interop.detect import open_checkpoint  # noqa: E402
from vlp_jax.interop.position import resize_pos_embed  # noqa: E402
from vlp_jax.interop.torch_file import read_torch_file  # noqa: E402


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    return {
        "plain": base,
        "offset and stride": base[1:5:2, 3:7].t(),
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "double": base.double(),
        "long": torch.arange(5),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_view(tmp_path, tensors, protocol):
    wrapped = {
        "epoch": 3,
        "args": {"lr": (1e-3, None)},
        "state_dict": {f"module.{k}": v for k, v in tensors.items()},
    }
    torch.save(wrapped, tmp_path / "x.pt", pickle_protocol=protocol)
    found = read_torch_file(str(tmp_path / "x.pt"))
    assert set(found) == set(tensors)
    for key, tensor in tensors.items():
        assert found[key].shape == tuple(tensor.shape)
        want = tensor.detach().float() if key == "bfloat" else tensor.detach()
        np.testing.assert_array_equal(found[key].read(), want.numpy(), err_msg=key)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_archive_as_openai_released_clip(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    vision = dict(image_size=32, width=64, layers=2, head_width=32, patch_size=8)
    text = dict(context_length=12, vocab_size=100, width=32, heads=2, layers=2)
    model = (
        open_clip.CLIP(24, vision, text, quick_gelu=True, output_dict=False).eval().half().float()
    )
    for name, value in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 100)):
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 12, dtype=torch.int))
    traced = torch.jit.trace(model, example, check_trace=False)
    for parameter in traced.parameters():
        parameter.data = parameter.data.half()
    torch.jit.save(traced, tmp_path / "ViT.pt")
    checkpoint = open_checkpoint(str(tmp_path / "ViT.pt"))
    assert checkpoint.family.name == "openai"
    assert checkpoint.switches()["image"] == {"activation": "quick_gelu"}
    state = {k: v for k, v in model.state_dict().items() if v.ndim or k == "logit_scale"}
    assert set(checkpoint.state) - {"attn_mask"} == set(state)
    for key, tensor in state.items():
        np.testing.assert_array_equal(
            checkpoint.state[key].read(), tensor.half().numpy(), err_msg=key
        )


def test_the_old_format_is_read_and_whole_modules_are_refused(tmp_path):
    old = {"_use_new_zipfile_serialization": False}
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "old.pt", **old)
    (found,) = read_torch_file(str(tmp_path / "old.pt")).values()
    np.testing.assert_array_equal(found.read(), np.arange(6, dtype=np.float32).reshape(2, 3).T)
    for how in ({}, old):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt", **how)
        with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
            read_torch_file(str(tmp_path / "module.pt"))


@pytest.mark.parametrize("old,new", [(7, 14), (7, 16), (14, 7), (16, 5)])
@pytest.mark.parametrize("antialias", [True, False])
def test_position_embeddings_resize_like_interpolate(old, new, antialias):
    torch.manual_seed(0)
    rows = torch.randn(1 + old * old, 6)
    grid = rows[1:].reshape(1, old, old, 6).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(
        grid, (new, new), mode="bicubic", antialias=antialias, align_corners=False
    )
    want = torch.cat([rows[:1], want.permute(0, 2, 3, 1).reshape(-1, 6)])
    got = resize_pos_embed(rows.numpy(), 1 + new * new, prefix=1, antialias=antialias)
    np.testing.assert_allclose(got, want.numpy(), atol=3e-6)
