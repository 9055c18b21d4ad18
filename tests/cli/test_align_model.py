"""A tiny AlignModel as transformers saves it converts, computes the same, and goes back.

tests/golden/make_align_golden.py made the files and what transformers computes of them.
"""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from vlp_jax.api.model import load_model
from vlp_jax.cli import convert
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.interop.family import families
from vlp_jax.interop.folder import read_folder, write_folder
from vlp_jax.models.archs.align import align_arch

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "align"


@pytest.fixture(scope="module")
def align(tmp_path_factory):
    """(folder, model): converted, opened."""
    folder = tmp_path_factory.mktemp("align")
    assert convert.main([str(GOLDEN), str(folder / "ours")]) == 0
    return folder, load_model(str(folder / "ours"))


def test_it_computes_what_transformers_does(align):
    golden, model = dict(np.load(GOLDEN / "golden.npz")), align[1]
    functions, v = model.method.functions(), Vars(model.params, model.extra)
    arrays = {key: golden[key] for key in ("image", "text", "text_mask")}

    def run(v, arrays):
        x = Inputs.of(arrays)
        rows = {side: functions[f"embed_{side}"](v, x) for side in ("image", "text")}
        mean = dataclasses.replace(model.method, reduction="mean")  # transformers halves the sum
        return rows, mean.objective(v, rows, x)[0]

    rows, loss = jax.jit(run)(v, arrays)
    for side, row in rows.items():
        np.testing.assert_allclose(row, golden[f"{side}_embedding"], atol=2e-5)
    assert model.scale_of() == pytest.approx(4)
    logits = np.asarray(rows["image"]) @ np.asarray(rows["text"]).T * model.scale_of()
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    assert float(loss) == pytest.approx(float(golden["loss"]), rel=1e-4)


def test_its_pictures_are_the_releases(align):
    said = align[1].preprocessing
    assert (said["crop"], said["resample"], said["image_size"]) == ("squash", "bilinear", 37)
    assert said["mean"] == [0.5] * 3 and said["share"] == 289 / 346


def test_back_to_transformers_bit_for_bit(align):
    folder, _ = align
    assert convert.main([str(folder / "ours"), str(folder / "back"), "--to=hf"]) == 0
    ours, theirs = (load_file(f / "model.safetensors") for f in (folder / "back", GOLDEN))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        if not name.endswith("num_batches_tracked"):
            assert ours[name].tobytes() == array.tobytes(), name
    said, was = (json.loads((f / "config.json").read_text()) for f in (folder / "back", GOLDEN))
    for part in ("vision_config", "text_config"):
        assert said[part].keys() & was[part].keys() > {"hidden_act"}
        shared = said[part].keys() & was[part].keys() - {"hidden_act"}
        assert all(said[part][key] == was[part][key] for key in shared)


def test_a_release_without_its_config_is_named(tmp_path):
    shutil.copy(GOLDEN / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"--arch: missing, e\.g\. --arch=align-base"):
        convert.main([str(tmp_path), str(tmp_path / "no")])
    released = families()["hf_align"].method({"model_type": "align"}, "x")
    arch = align_arch("align-base")  # but for the size of its pictures, all are the defaults
    assert released["image"] | {"image_size": 289, "stages": 0} == {
        **released["image"], **arch["image"], "stages": 0,
    }  # fmt: skip
    assert {**released["text"], **arch["text"]} == released["text"] | {"pooler": True}


def test_what_transformers_cannot_build_is_refused(align, tmp_path):
    folder, _ = align
    arrays, manifest = read_folder(str(folder / "ours"))
    manifest["method"]["image"]["padding"] = "same"
    write_folder(str(tmp_path / "same"), arrays, manifest, {})
    with pytest.raises(UserError, match=r"cannot say method\.image\.padding='same'"):
        convert.main([str(tmp_path / "same"), str(tmp_path / "no"), "--to=hf"])


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("vision_config", {"in_channels": [32, 16, 16]}, "in_channels .* must be 32 and then"),
        ("vision_config", {"pooling_type": "max"}, "only num_channels=3 and pooling_type='mean'"),
        ("vision_config", {"hidden_dim": 2}, "hidden_dim 2 pools parts of the map"),
        ("vision_config", {"hidden_act": "swis"}, "hidden_act 'swis' is not known; did you mean"),
        (None, {"projection_dim": 7}, "projection_dim 7 is not the .* channels of vision_config's"),
        ("text_config", {"hidden_act": "gel"}, "hidden_act 'gel' is not known; did you mean"),
    ],
)
def test_configs_that_are_not_read(part, change, message):
    config = json.loads((GOLDEN / "config.json").read_text())
    (config[part] if part else config).update(change)
    with pytest.raises(UserError, match=message):
        families()["hf_align"].method(config, "x")
