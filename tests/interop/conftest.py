"""Tiny models of every checkpoint family, and PyTorch archives written without PyTorch."""

import pickle
import struct
import zipfile

import jax
import numpy as np
import pytest

from vlp_jax.core.pytree import flatten
from vlp_jax.interop.family import families
from vlp_jax.methods.base import make_method

VIT = dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=3, head_width=8)
TEXT = dict(name="text", vocab_size=50, context_length=6, width=8, num_layers=2, num_heads=2)
RESNET = dict(name="resnet", image_size=32, layers=(2, 1, 1, 1), width=4)
SIGLIP = dict(
    embed_dim=16,
    image=VIT | dict(pool="map", pre_norm=False, conv_bias=True, project=False),
    text=TEXT | dict(causal=False, pool="last", head_bias=True),
)
ARCHS = {
    "open_clip": dict(embed_dim=12, image=VIT, text=TEXT),
    "resnet": dict(embed_dim=12, image=RESNET, text=TEXT),
    "hf_clip": dict(embed_dim=12, image=VIT, text=TEXT),
    "open_clip_siglip": SIGLIP,
    "hf_siglip": SIGLIP,
}


FAMILIES = {name: name for name in ARCHS} | {"resnet": "open_clip"}


@pytest.fixture(scope="session")
def tiny_table(tiny_shapes):
    """f(name of ARCHS) -> the names of its family for such a model."""
    known = families()
    return lambda name: known[FAMILIES[name]].table(tiny_shapes(name))


@pytest.fixture(scope="session")
def tiny_shapes():
    """f(name of ARCHS) -> {path: shape}."""

    def make(name):
        kind = "siglip" if name.endswith("siglip") else "clip"
        method = make_method({"name": kind, **ARCHS[name]})
        params, extra = jax.eval_shape(method.init, jax.random.key(0))
        return {path: leaf.shape for path, leaf in flatten({**params, **extra}).items()}

    return make


@pytest.fixture(scope="session")
def tiny_tree(tiny_shapes):
    """f(name of ARCHS) -> {path: random float32 array}."""

    def make(name):
        rng = np.random.default_rng(0)
        return {
            path: rng.normal(size=shape).astype(np.float32)
            for path, shape in tiny_shapes(name).items()
        }

    return make


def text(value):
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    """BININT."""
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key, storage, numel, shape, stride, offset=0):
    """The instructions that PyTorch writes for one tensor."""
    persistent = (
        b"("
        + text("storage")
        + f"ctorch\n{storage}\n".encode()
        + text(key)
        + text("cpu")
        + number(numel)
    )
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"tQ" + number(offset)
    return head + numbers(shape) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"


def state_dict(items):
    """Instructions of an OrderedDict {name: instructions}."""
    return (
        b"ccollections\nOrderedDict\n)R(" + b"".join(text(k) + v for k, v in items.items()) + b"u"
    )


@pytest.fixture
def archive(tmp_path):
    """f(instructions or pickle, storages, torchscript) -> path of a checkpoint."""

    def write(body, storages=None, torchscript=False, name="model.pt"):
        path = tmp_path / name
        whole = body if body.endswith(b".") and body[:1] == b"\x80" else b"\x80\x02" + body + b"."
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as zip_file:
            zip_file.writestr("archive/data.pkl", whole)
            for key, value in (storages or {}).items():
                zip_file.writestr(f"archive/data/{key}", value)
            if torchscript:
                zip_file.writestr("archive/constants.pkl", pickle.dumps((), 2))
            zip_file.writestr("archive/byteorder", "little")
        return str(path)

    return write


@pytest.fixture
def ops():
    """The assembler above, for tests: text, number, tensor, state_dict."""
    return {"text": text, "number": number, "tensor": tensor, "state_dict": state_dict}
