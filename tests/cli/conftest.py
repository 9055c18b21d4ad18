"""A tiny architecture under the name `tiny`, so that commands run in a second."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

IMAGE = dict(
    name="vit", image_size=16, patch_size=8, width=16, num_layers=2, head_width=8, mlp_ratio=4.0
)
TEXT = dict(name="text", context_length=16, width=8, num_layers=2, num_heads=2)


@pytest.fixture(scope="session")
def tiny_arch():
    """Adds `tiny` (its positions are 2 x 2) and `tiny-24` (3 x 3) to the known architectures."""
    from vlp_jax.models.archs import clip as clip_archs

    arch = dict(
        embed_dim=12, image=IMAGE | dict(activation="gelu"), text=TEXT | dict(activation="gelu")
    )
    larger = arch | dict(image=arch["image"] | dict(image_size=24))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(clip_archs.ARCHS, "tiny", arch)
        patch.setitem(clip_archs.ARCHS, "tiny-24", larger)
        yield "tiny"


@pytest.fixture(scope="session")
def tiny_file(tiny_arch, tmp_path_factory):
    """An open_clip file of `tiny` with random weights, made once."""
    from safetensors.numpy import save_file

    from vlp_jax.api.weights import expected_shapes
    from vlp_jax.interop.family import families
    from vlp_jax.interop.rules import to_theirs
    from vlp_jax.methods.base import make_method
    from vlp_jax.models.archs.clip import clip_arch

    shapes = expected_shapes(make_method({"name": "clip", **clip_arch(tiny_arch)}))
    rng = np.random.default_rng(0)
    tree = {
        path: rng.normal(size=shape, scale=0.3).astype(np.float32) for path, shape in shapes.items()
    }
    file = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(to_theirs(families()["open_clip"].table(tree), tree), file)
    return file


@pytest.fixture(scope="session")
def tiny_folder(tiny_file):
    """`tiny_file` converted, made once."""
    from vlp_jax.cli import convert

    convert.main([str(tiny_file), str(tiny_file.parent / "model"), "--arch=tiny"])
    return tiny_file.parent / "model"


@pytest.fixture
def tiny_weights(tiny_file, tmp_path):
    """A copy of `tiny_file` that a test may change."""
    return pathlib.Path(shutil.copy(tiny_file, tmp_path / "tiny.safetensors"))


@pytest.fixture
def tiny_model(tiny_folder, tmp_path):
    """A copy of `tiny_folder` that a test may change."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def pictures(tmp_path):
    """A folder of five odd pictures, one of them in a sub-folder."""
    return odd_pictures(tmp_path / "pictures")


def odd_pictures(folder):
    """Makes them."""
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    modes = {"c.png": "RGB", "a.jpg": "RGB", "b.webp": "RGB", "sub/d.png": "L", "e.gif": "L"}
    for index, (name, mode) in enumerate(modes.items()):
        shape = (20 + 7 * index, 31, 3)[: 3 if mode == "RGB" else 2]
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    return folder
