"""LoRA files on a loaded model and folded by `convert`: strengths add up and compile nothing."""

import logging

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from vlp_jax.api.lora import strengths, with_lora
from vlp_jax.api.model import load_model
from vlp_jax.cli import convert
from vlp_jax.core import adapters
from vlp_jax.core.adapters import of_rank
from vlp_jax.core.errors import UserError
from vlp_jax.interop.lora import write_lora

TEXTS = ["a red car", "two dogs"]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(str(tiny_folder))


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """Two LoRAs of the text tower, of ranks 2 and 3."""
    rng, folder, found = np.random.default_rng(0), tmp_path_factory.mktemp("lora"), []
    for rank, name in ((2, "qkv"), (3, "out")):
        kernel = f"text/blocks/attn/{name}/kernel"
        shapes = {kernel: of_rank(model.method.adapters(1)[kernel], rank)}
        flat = {
            leaf: np.ones(s, np.float32) if leaf.endswith("scale") else rng.normal(size=s)
            for path, its in shapes.items()
            for leaf, s in zip(adapters.names(path), its, strict=True)
        }
        found.append(str(folder / f"{name}.safetensors"))
        save_file(write_lora(flat), found[-1])
    return found


def test_strengths_compile_nothing_and_are_what_convert_folds(
    model, files, tiny_folder, tmp_path, caplog
):
    one, two = files
    base, strong = model.embed_texts(TEXTS), with_lora(model, {one: 1.0}).embed_texts(TEXTS)
    assert np.abs(strong - base).max() > 0.05
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        weak = with_lora(model, {one: 0.4}).embed_texts(TEXTS)
        none = with_lora(model, {one: 0.0}).embed_texts(TEXTS)
    assert "Compiling" not in caplog.text
    np.testing.assert_array_equal(none, base)
    assert np.abs(weak - strong).max() > 0.01
    folded = str(tmp_path / "folded")
    convert.main([str(tiny_folder), folded, f"--lora={one}:0.4"])
    found = load_model(folded)
    np.testing.assert_allclose(found.embed_texts(TEXTS), weak, atol=1e-6)
    assert not adapters.present(found.params)
    both = load_model(str(tiny_folder), lora={one: 0.4, two: 1.0}).embed_texts(TEXTS)
    np.testing.assert_allclose(with_lora(found, {two: 1.0}).embed_texts(TEXTS), both, atol=1e-6)


def test_one_file_of_two(model, files, tiny_folder, tmp_path, capsys):
    """`--to=lora` joins files on one base, each at its strength."""
    out = str(tmp_path / "both.safetensors")
    flags = [f"--lora={files[0]}:0.4", f"--lora={files[1]}"]
    convert.main([str(tiny_folder), out, "--to=lora", *flags])
    assert "read back, is the adapters" in capsys.readouterr().out
    found = with_lora(model, {out: 1.0}).embed_texts(TEXTS)
    wanted = with_lora(model, {files[0]: 0.4, files[1]: 1.0}).embed_texts(TEXTS)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_flags(tmp_path):
    odd = tmp_path / "a:b.safetensors"
    odd.write_text("")
    assert strengths(["F", "G:0.8", str(odd)]) == {
        "F": 1.0,
        "G": 0.8,
        str(odd): 1.0,
    }
    for flags, message in ((["F:strong"], "'strong' is no number"), (["F:1", "F"], "given twice")):
        with pytest.raises(UserError, match=f"--lora={flags[-1]}: .*{message}"):
            strengths(flags)


def test_mistakes(model, files, tiny_folder, tmp_path):
    other = {"unet.mid_block.attentions.0.proj_in.lora_A.weight": np.zeros((2, 3), np.float32)}
    save_file(other, tmp_path / "other.safetensors")
    for lora, message in (
        ({str(tmp_path / "none.safetensors"): 1.0}, "none.safetensors: cannot be read"),
        ({str(tmp_path / "other.safetensors"): 1.0}, "is of another base"),
        ({files[0]: np.nan}, "must be a finite number"),
    ):
        with pytest.raises(UserError, match=message):
            with_lora(model, lora)
    with pytest.raises(UserError, match="--to=lora: it has no adapters"):
        convert.main([str(tiny_folder), str(tmp_path / "l"), "--to=lora"])
    with pytest.raises(UserError, match="is converted already"):
        convert.main([str(tiny_folder), str(tmp_path / "l")])
