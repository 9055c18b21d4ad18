"""Single files of Stable Diffusion: our names against those that diffusers converts them to."""

import json
import pathlib
import runpy
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import torch
from diffusers.loaders import single_file_utils as theirs
from safetensors.numpy import load_file

from vlp_jax.__main__ import main

MAKER = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "golden" / "ldm_state.py"))


def their_texts(kind, state):
    """{component: its state}."""
    tower = SimpleNamespace(config=SimpleNamespace(hidden_size=64))
    if kind == "sd1":
        return {"text_encoder": theirs.convert_ldm_clip_checkpoint(state)}
    if kind == "sd2":
        return {"text_encoder": theirs.convert_open_clip_checkpoint(tower, state)}
    second = theirs.convert_open_clip_checkpoint(tower, state, "conditioner.embedders.1.model.")
    return {
        "text_encoder": theirs.convert_ldm_clip_checkpoint(state),
        "text_encoder_2": second,
    }


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_tensors_are_those_of_diffusers(kind, tmp_path):
    """As a `.ckpt` that training wrote, through ours and out to a folder."""
    state = {name: torch.from_numpy(a) for name, a in MAKER["tensors"](kind).items()}
    whole = {"state_dict": state, "global_step": 7, "callbacks": {}, "epoch": 0}
    torch.save(whole, tmp_path / "model.ckpt")
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(tmp_path / "model.ckpt"), str(ours)]) == 0
    assert main(["convert", str(ours), str(back), "--to=diffusers"]) == 0
    configs = {n: json.loads((back / n / "config.json").read_text()) for n in ("unet", "vae")}
    wanted = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(state), configs["unet"]),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(state), configs["vae"]),
        **their_texts(kind, dict(state)),
    }
    for name, its in wanted.items():
        file = "model" if name.startswith("text") else "diffusion_pytorch_model"
        found = load_file(back / name / f"{file}.safetensors")
        its = {key.removeprefix("text_model."): a for key, a in its.items()}
        found = {key.removeprefix("text_model."): a for key, a in found.items()}
        if name.startswith("text"):  # theirs keeps blocks and projections that nothing looks at
            its = {key: a for key, a in its.items() if key in found}
        assert found.keys() == its.keys()
        for key, array in found.items():
            np.testing.assert_array_equal(array.reshape(its[key].shape), its[key], err_msg=key)
