"""Folders of diffusers: a pipeline's and those of its networks alone, in and out, and what is
refused. Weights are random under the names of the tables; tests/peers has diffusers' own folders.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlp_jax.api.convert import convert
from vlp_jax.api.forward import forward, functions
from vlp_jax.api.model import load_model
from vlp_jax.api.switches import described
from vlp_jax.api.weights import expected_shapes
from vlp_jax.core.errors import UserError
from vlp_jax.interop.detect import open_checkpoint
from vlp_jax.interop.diffusers_scheduler import read_scheduler, write_scheduler
from vlp_jax.interop.family import Beside, families
from vlp_jax.interop.rules import their_shapes
from vlp_jax.interop.variants import choose
from vlp_jax.methods.base import make_method

UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "sample_size": 4,
}
CONTROL = {k: v for k, v in UNET.items() if k not in ("up_block_types", "sample_size")}
CONTROL |= {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": [4, 4]}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 4],
    "norm_num_groups": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "sample_size": 8,
    "scaling_factor": 0.3,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 259,
    "max_position_embeddings": 6,
    "eos_token_id": 258,
}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "beta_schedule": "scaled_linear"}
PNDM |= {"steps_offset": 1}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": [None, None],
}
CONFIGS = {"unet": UNET, "vae": VAE, "text_encoder": TEXT, "scheduler": PNDM}


def weights(family, config, seed=0):
    """Random tensors of a config under their names."""
    method = make_method(config)
    shapes = expected_shapes(method)
    table, rng = families()[family].table(list(shapes)), np.random.default_rng(seed)
    found = their_shapes(table, shapes)
    return {k: rng.normal(0, 0.2, shape).astype(np.float32) for k, shape in found.items()}


def write(folder, configs=None, index=None):
    """A pipeline's folder."""
    configs, index = CONFIGS | (configs or {}), INDEX | (index or {})
    family = families()["diffusers"]
    state = family.spread(weights("diffusers", family.method({"": index, **configs}, "F")))
    for file, tensors in state.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    for name, config in configs.items():
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name).mkdir(exist_ok=True)
        (folder / name / file).write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """(their folder, ours) of a pipeline with two ControlNets."""
    folder = tmp_path_factory.mktemp("pipeline")
    index = {"_class_name": "StableDiffusionControlNetPipeline"}
    index |= {"controlnet": ["diffusers", "MultiControlNetModel"]}
    more = {"controlnet": CONTROL, "controlnet_1": CONTROL}
    theirs = write(folder / "theirs", more, index)
    report = convert(theirs, str(folder / "ours"), tokenizer="bytes")
    return theirs, str(folder / "ours"), report


def test_a_pipeline_is_one_method_of_its_parts(ours):
    theirs, folder, _ = ours
    model = load_model(folder)
    parts = {"unet", "autoencoder", "text", "control_0", "control_1"}
    assert set(model.params) == parts and model.config["source"]["kind"] == "diffusers"
    assert model.extra["batch_stats"]["latent_scale"]["scale"] == np.float32(0.3)
    assert model.config["drawing"] == {"sampler": "pndm", "spacing": "leading"}
    said = model.config["method"]["schedule"]
    assert said["offset"] == 1 and not said["last_is_one"]
    assert model.image_size == 8 and model.preprocessing["resample"] == "lanczos"
    assert model.config["method"]["empty"] == [257, 258, 0]
    state = load_file(f"{theirs}/controlnet_1/diffusion_pytorch_model.safetensors")
    found = model.params["control_1"]["zero_mid"]["bias"]
    np.testing.assert_array_equal(found, state["controlnet_mid_block.bias"])


def test_it_goes_back_tensor_for_tensor(ours, tmp_path):
    theirs, folder, _ = ours
    convert(folder, str(tmp_path / "back"), to="diffusers")
    for name in ("unet", "vae", "controlnet", "controlnet_1", "text_encoder"):
        file = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        one, two = (
            load_file(f"{at}/{name}/{file}.safetensors") for at in (theirs, tmp_path / "back")
        )
        assert one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)
    index = json.loads((tmp_path / "back" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionControlNetPipeline"
    assert index["controlnet"] == ["diffusers", "MultiControlNetModel"]
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    assert (tmp_path / "back" / "tokenizer" / "tokenizer.json").is_file()
    vae = json.loads((tmp_path / "back" / "vae" / "config.json").read_text())
    assert vae["scaling_factor"] == 0.3 and vae["sample_size"] == 8
    said = json.loads((tmp_path / "back" / "scheduler" / "scheduler_config.json").read_text())
    assert read_scheduler(said, "x")[0]["offset"] == 1 and said["_class_name"] == "PNDMScheduler"


ALONE = [
    ("diffusers_unet", UNET, "denoise", "unet"),
    ("diffusers_unet", CONTROL, "residuals", "control"),
    ("diffusers_autoencoder", VAE, "decode_latents", "autoencoder"),
    ("hf_clip_text", TEXT, "tokens", "text"),
]


@pytest.mark.parametrize("family, config, function, part", ALONE)
def test_a_network_alone(family, config, function, part, tmp_path):
    kind = families()[family]
    method = kind.method(config, "F")
    kind.complete(method, {}, Beside("", config, "config.json"))
    state = weights(family, method)
    (tmp_path / "in").mkdir()
    save_file(kind.spread(state)[kind.weights_name], tmp_path / "in" / kind.weights_name)
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    report = convert(str(tmp_path / "in"), str(tmp_path / "ours"))
    assert report["source"]["kind"] == family
    model = load_model(str(tmp_path / "ours"))
    assert part in model.params and function in model.method.functions()
    convert(str(tmp_path / "ours"), str(tmp_path / "back"), to=kind.to)
    one, two = (load_file(tmp_path / at / kind.weights_name) for at in ("in", "back"))
    assert one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)
    again = json.loads((tmp_path / "back" / "config.json").read_text())
    assert kind.method(again, "x") == kind.method(config, "x")


@pytest.mark.parametrize(
    "configs, index, message",
    [
        ({}, {"transformer": ["diffusers", "SD3Transformer2DModel"]}, "has a transformer, which"),
        ({}, {"unet": ["diffusers", "UNet3DConditionModel"]}, "unet: class 'UNet3DConditionModel'"),
        (
            {},
            {"text_encoder_2": ["transformers", "CLIPTextModel"]},
            "text_encoder_2/config.json: no",
        ),
        ({}, {"vae": [None, None]}, "model_index.json: names no vae"),
        ({}, {"text_encoder": [None, None]}, "model_index.json: names no text_encoder, and its"),
        ({"scheduler": PNDM | {"beta_end": None}}, {}, "schedule.end is None, it must be"),
        (
            {"scheduler": {"_class_name": "UniPCMultistepScheduler"}},
            {},
            "scheduler_config.json: _class_name 'UniPCMultistepScheduler': there is no",
        ),
        ({"scheduler": PNDM | {"skip_prk_steps": False}}, {}, "skip_prk_steps=False is not read"),
        ({"vae": VAE | {"scaling_factor": None}}, {}, "vae/config.json: scaling_factor is None"),
        ({"unet": UNET | {"time_cond_proj_dim": 8}}, {}, "unet/config.json: time_cond_proj_dim=8"),
        (
            {"text_encoder": TEXT | {"eos_token_id": 7}},
            {},
            "text_encoder/config.json: eos_token_id",
        ),
    ],
)
def test_what_is_refused_is_one_line(configs, index, message, tmp_path):
    write(tmp_path / "in")
    for name, config in configs.items():
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (tmp_path / "in" / name / file).write_text(json.dumps(config))
    (tmp_path / "in" / "model_index.json").write_text(json.dumps(INDEX | index))
    with pytest.raises(UserError, match=message) as error:
        convert(str(tmp_path / "in"), str(tmp_path / "out"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_sub_folder_without_weights_is_one_line(tmp_path):
    write(tmp_path / "in")
    (tmp_path / "in" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"in/unet: holds no weights, but model_index\.json names"):
        convert(str(tmp_path / "in"), str(tmp_path / "out"))


def test_half_precision_files_and_shards_are_found(tmp_path):
    write(tmp_path)
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    names, stem = sorted(state), "diffusion_pytorch_model"
    for n, part in enumerate((names[::2], names[1::2]), start=1):
        half = {name: state[name].astype(np.float16) for name in part}
        save_file(half, file.parent / f"{stem}.fp16-0000{n}-of-00002.safetensors")
    placed = {k: f"{stem}.fp16-0000{1 + i % 2}-of-00002.safetensors" for i, k in enumerate(names)}
    index = file.parent / f"{stem}.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": placed}))
    whole = open_checkpoint(str(tmp_path))
    assert whole.state[f"vae.{names[0]}"].code == "F32"
    file.unlink()
    found = open_checkpoint(str(tmp_path))
    assert found.state[f"vae.{names[0]}"].code == "F16"
    assert f"vae: {index.name} is read" in found.notes


def test_the_preferred_file():
    stem = "diffusion_pytorch_model"
    both = [f"{stem}.safetensors", f"{stem}.non_ema.safetensors", f"{stem}.fp16.safetensors"]
    assert choose(both) == (f"{stem}.safetensors", "", True)
    assert choose(both, "raw") == (f"{stem}.non_ema.safetensors", "non_ema", False)
    assert choose([f"{stem}.bin", f"{stem}.safetensors"]).name == f"{stem}.safetensors"
    assert choose([f"{stem}-00001-of-00002.safetensors", "config.json"]) is None


SCHEDULERS = [
    ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, {"sampler": "ddim"}),
    ("DDIMScheduler", {}, {"threshold": "static", "most": 1.0, "renoise": False}),
    (
        "DDPMScheduler",
        {"variance_type": "fixed_large", "clip_sample": False},
        {"variance": "large"},
    ),
    ("PNDMScheduler", {"skip_prk_steps": True}, {"sampler": "pndm", "spacing": "leading"}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, {"sampler": "euler", "karras": True}),
    ("EulerAncestralDiscreteScheduler", {}, {"sampler": "euler_ancestral", "spacing": "linspace"}),
    ("HeunDiscreteScheduler", {}, {"sampler": "heun"}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, {"spacing": "trailing"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}),
    ("LCMScheduler", {"prediction_type": "v_prediction"}, {"sampler": "lcm"}),
]


@pytest.mark.parametrize("kind, changes, wanted", SCHEDULERS)
def test_schedulers_both_ways(kind, changes, wanted):
    config = {"_class_name": kind, "steps_offset": 1} | changes
    schedule, drawing = read_scheduler(config, "F")
    assert drawing.items() >= wanted.items()
    assert schedule["offset"] == 1
    written = write_scheduler(schedule, drawing)
    assert read_scheduler(written, "x") == (schedule, drawing) and written["_class_name"] == kind


def test_defaults_of_their_schedulers_are_not_those_of_stable_diffusion():
    """diffusers' classes: plain linear betas to 0.02, an offset of 0, and DDIM ends at 1."""
    schedule, _ = read_scheduler({"_class_name": "DDIMScheduler"}, "F")
    assert schedule == {
        "name": "linear", "start": 1e-4, "end": 0.02, "times": 1000, "zero_snr": False,
        "prediction": "eps", "offset": 0, "last_is_one": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"_class_name": "DDIMSchedule"},
            "there is no such sampler here; did you mean 'DDIMSchedul",
        ),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1]}, r"trained_betas=\[0.1\] is not"),
        (
            {"_class_name": "LCMScheduler", "beta_schedule": "exp"},
            "beta_schedule 'exp' is not read",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3},
            "solver_order=3 is not",
        ),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding=True is not read"),
        (
            {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
            "rescale_betas_zero_snr with prediction_type 'epsilon': the last time holds no",
        ),
    ],
)
def test_a_scheduler_that_we_lack_is_one_line(config, message):
    with pytest.raises(UserError, match=message) as error:
        read_scheduler(config, "F")
    assert str(error.value).startswith("F: ")


def test_a_schedule_that_a_scheduler_cannot_say_is_refused():
    family, numbers = families()["diffusers"], {"batch_stats/latent_scale/scale": 0.3}
    method = family.method({"": INDEX, **CONFIGS}, "F")
    method["schedule"] |= {"zero_snr": True, "prediction": "v"}
    said = described(make_method(method)) | {"drawing": {"sampler": "pndm"}, "tokenizers": {}}
    with pytest.raises(UserError, match=r"PNDMScheduler cannot say schedule\.zero_snr=True"):
        family.configs(said | {"numbers": numbers}, {}, None)


def test_forward_takes_pictures_maps_and_states_of_any_size(ours):
    """As arrays: what a function gives of them is told in their letters."""
    model = load_model(ours[1])
    rng = np.random.default_rng(0)
    shown = functions(model)
    assert str(shown["denoise"]["reads"]["latent"]) == "float32[B, h, w, 4]"
    assert str(shown["denoise"]["reads"]["context"]) == "float32[B, S, 8]"
    assert str(shown["denoise"]["writes"]["out"]) == "float32[B, h, w, 4]"
    assert str(shown["encode_latents"]["writes"]["mean"]) == "float32[B, H/2, W/2, 4]"
    assert str(shown["decode_latents"]["writes"]["out"]) == "float32[B, 2h, 2w, 3]"
    latent = rng.normal(size=(2, 2, 6, 4)).astype(np.float32)
    context = rng.normal(size=(2, 3, 8)).astype(np.float32)
    given = {"latent": latent, "time": np.float32([0, 981]), "context": context}
    base = forward(model, "denoise", given)["out"]
    assert base.shape == latent.shape
    hint = rng.integers(0, 256, (2, 4, 12, 3), np.uint8)
    for some in ({"control_0": hint}, {"control_1": hint}):
        assert np.abs(forward(model, "denoise", given | some)["out"] - base).max() > 1e-4
    turned = {"latent": latent.swapaxes(1, 2), "time": given["time"], "context": context}
    assert forward(model, "denoise", turned)["out"].shape == (2, 6, 2, 4)
    with pytest.raises(UserError, match=r"latents of 3x6: sides must be multiples of 2"):
        forward(model, "denoise", given | {"latent": np.ones((2, 3, 6, 4), np.float32)})
    with pytest.raises(UserError, match=r"latent: float32\[2, 2, 6, 3\], must be float32\[B, h, w"):
        forward(model, "denoise", given | {"latent": latent[..., :3]})


def test_texts_are_padded_as_the_tokenizers_files_say(tmp_path):
    """SD 1: by the end; SD 2, of whose old files the second one counts: by id 0."""
    write(tmp_path, index={"tokenizer": ["transformers", "CLIPTokenizer"]})
    family, folder = families()["diffusers"], tmp_path / "tokenizer"
    folder.mkdir()
    for files, wanted in (
        ({"tokenizer_config": {"pad_token": "<|endoftext|>"}}, {"pad_id": 49407}),
        ({"tokenizer_config": {"pad_token": {"content": "<|endoftext|>"}}}, {"pad_id": 49407}),
        ({"special_tokens_map": {"pad_token": "!"}}, {}),
        ({"tokenizer_config": {"pad_token": "<|endoftext|>", "added_tokens_decoder": {}}},
         {"pad_id": 49407}),
    ):  # fmt: skip
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        beside = open_checkpoint(str(tmp_path)).beside.tokenizers["text"]
        assert family.tokenizer_options(beside, "", 49408, "") == wanted


def test_further_channels_tell_the_use():
    family = families()["diffusers"]
    for channels, wanted in ((4, None), (5, "depth"), (9, "mask")):
        configs = CONFIGS | {"unet": UNET | {"in_channels": channels}}
        method = family.method({"": INDEX, **configs}, "F")
        assert method.get("joins") == wanted
        said = described(make_method(method)) | {"drawing": {}, "tokenizers": {}, "numbers": {}}
        kind = family.configs(said | {"scale": 0.3}, {}, None)["model_index.json"]["_class_name"]
        middle = {None: "", "depth": "Depth2Img", "mask": "Inpaint"}[wanted]
        assert kind == f"StableDiffusion{middle}Pipeline"
    with pytest.raises(UserError, match="in_channels 6: 4 are the latents, and 2 more are not"):
        family.method({"": INDEX, **CONFIGS, "unet": UNET | {"in_channels": 6}}, "F")


def test_old_schedulers_are_corrected_as_their_pipelines_do_it():
    family, old = families()["diffusers"], {"_class_name": "DDIMScheduler"}
    for kind, offset, threshold in (
        ("StableDiffusionPipeline", 1, None),
        ("StableDiffusionInpaintPipeline", 1, "static"),
        ("StableDiffusionControlNetPipeline", 0, "static"),
    ):
        configs = {"": INDEX | {"_class_name": kind}, **CONFIGS, "scheduler": old}
        beside = Beside("", configs, "model_index.json")
        assert family.method(configs, "F")["schedule"]["offset"] == offset
        assert family.manifest(beside)["drawing"].get("threshold") == threshold
        notes = family.complete({}, {}, beside)
        assert ("scheduler: offset is corrected as the pipeline does it" in notes) == bool(offset)
