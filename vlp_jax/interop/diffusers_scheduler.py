"""scheduler_config.json of Hugging Face diffusers beside diffusion/schedules.py and the options of
diffusion/how.py, both ways.

Their schedulers hold what a network was trained with and how it is sampled in one config. The file
exists because the first is the model and the second a choice, which we keep apart.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.diffusers import only
from vlp_jax.interop.family import Config

_SHARED: dict[str, Any] = {  # defaults of the classes, diffusers 0.42
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
}
_ZERO = {"rescale_betas_zero_snr": False}
_CLIPS = _ZERO | {"clip_sample": True, "clip_sample_range": 1.0}
_SIGMAS = {"timestep_spacing": "linspace"}
_SOLVER = _SIGMAS | _ZERO | {"use_karras_sigmas": False}
_OWN: dict[str, dict[str, Any]] = {  # what a class has beside, and where it begins otherwise
    "DDIMScheduler": _CLIPS | {"set_alpha_to_one": True},
    "DDPMScheduler": _CLIPS | {"variance_type": "fixed_small"},
    "PNDMScheduler": {"set_alpha_to_one": False},
    "EulerDiscreteScheduler": _SOLVER,
    "EulerAncestralDiscreteScheduler": _SIGMAS | _ZERO,
    "HeunDiscreteScheduler": _SIGMAS
    | {"beta_start": 0.00085, "beta_end": 0.012, "use_karras_sigmas": False},
    "DPMSolverMultistepScheduler": _SOLVER | {"algorithm_type": "dpmsolver++"},
    "LCMScheduler": _ZERO
    | {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    | {"set_alpha_to_one": True},
}
_FIXED: dict[str, dict[str, Any]] = {  # what our samplers have no switch for
    "DDIMScheduler": {"thresholding": False},
    "DDPMScheduler": {"thresholding": False},
    "PNDMScheduler": {"skip_prk_steps": True},
    "EulerDiscreteScheduler": {
        "interpolation_type": "linear",
        "timestep_type": "discrete",
        "sigma_min": None,
        "sigma_max": None,
    },
    "HeunDiscreteScheduler": {"clip_sample": False},
    "DPMSolverMultistepScheduler": {
        "solver_order": 2,
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "thresholding": False,
        "variance_type": None,
    },
    "LCMScheduler": {
        "original_inference_steps": 50,
        "clip_sample": False,
        "thresholding": False,
        "timestep_scaling": 10.0,
    },
}
_ALWAYS = {"trained_betas": None, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ALWAYS |= {"final_sigmas_type": "zero"}
_UNSAID = {"skip_prk_steps": False}  # where the class begins with what we have not
_SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm_solver": "DPMSolverMultistepScheduler",
    "dpm_solver_sde": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_SPACINGS = {name: name for name in ("leading", "linspace", "trailing")}
_VARIANCES = {"fixed_small": "small", "fixed_large": "large"}
_ALGORITHMS = {"dpmsolver++": "dpm_solver", "sde-dpmsolver++": "dpm_solver_sde"}


def read_scheduler(config: Config, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of a Schedule, options of a Drawing: the sampler and how it is asked).

    Raises:
      UserError: a class that we have no sampler of, a value or switch that ours has not.
    """
    kind = str(config.get("_class_name", ""))
    if kind not in _OWN:
        hint = nearest(kind, _OWN)
        raise UserError(f"{where}: _class_name {kind!r}: there is no such sampler here{hint}")
    only({**_UNSAID, **config} if kind == "PNDMScheduler" else config, _FIXED.get(kind, {}), where)
    only({key: value for key, value in config.items() if value is not None}, _ALWAYS, where)
    c = {**_SHARED, **_OWN[kind], **config}
    schedule = {
        "name": _named(c, "beta_schedule", _BETAS, where),
        "start": c["beta_start"],
        "end": c["beta_end"],
        "times": c["num_train_timesteps"],
        "zero_snr": bool(c.get("rescale_betas_zero_snr")),
        "prediction": _named(c, "prediction_type", _PREDICTIONS, where),
        "offset": c["steps_offset"],
        "last_is_one": bool(c.get("set_alpha_to_one")),
    }
    if schedule["zero_snr"] and schedule["prediction"] == "eps":
        why = "the last time holds no picture, so its noise tells nothing"
        raise UserError(f"{where}: rescale_betas_zero_snr with prediction_type 'epsilon': {why}")
    sampler = next(name for name, its in _SAMPLERS.items() if its == kind)
    drawing = {"sampler": sampler, "spacing": _named(c, "timestep_spacing", _SPACINGS, where)}
    if "algorithm_type" in c:
        drawing["sampler"] = _named(c, "algorithm_type", _ALGORITHMS, where)
    if c.get("use_karras_sigmas"):
        drawing["karras"] = True
    if "variance_type" in c and kind == "DDPMScheduler":
        drawing["variance"] = _named(c, "variance_type", _VARIANCES, where)
    if c.get("clip_sample") and "clip_sample" in _OWN[kind]:
        drawing |= {"threshold": "static", "most": float(c["clip_sample_range"]), "renoise": False}
    return schedule, drawing


def _named(config: Config, key: str, known: dict[str, str], where: str) -> str:
    said = config[key]
    if said not in known:
        raise UserError(f"{where}: {key} {said!r} is not read{nearest(str(said), known)}")
    return known[said]


def write_scheduler(schedule: Config, drawing: Config) -> dict[str, Any]:
    """The inverse of `read_scheduler`; drawing: as that gives it, {} for DDIM.

    Raises:
      UserError: a sampler without a class in diffusers.
    """
    sampler = drawing.get("sampler", "ddim")
    if sampler not in _SAMPLERS:
        raise UserError(f"--to=diffusers: no scheduler is {sampler!r}{nearest(sampler, _SAMPLERS)}")
    kind = _SAMPLERS[sampler]
    has = _SHARED | _OWN[kind]
    back = lambda known, value: next(theirs for theirs, ours in known.items() if ours == value)  # noqa: E731
    found = {
        "beta_schedule": back(_BETAS, schedule["name"]),
        "beta_start": schedule["start"],
        "beta_end": schedule["end"],
        "num_train_timesteps": schedule["times"],
        "rescale_betas_zero_snr": schedule["zero_snr"],
        "prediction_type": back(_PREDICTIONS, schedule["prediction"]),
        "steps_offset": schedule["offset"],
        "set_alpha_to_one": schedule["last_is_one"],
        "timestep_spacing": drawing.get("spacing") or has["timestep_spacing"],
        "use_karras_sigmas": drawing.get("karras", False),
        "clip_sample": drawing.get("threshold", "none") == "static",
        "clip_sample_range": drawing.get("most", 1.0),
        "variance_type": back(_VARIANCES, drawing.get("variance", "small")),
        "algorithm_type": next((a for a, ours in _ALGORITHMS.items() if ours == sampler), ""),
    }
    kept = {key: found[key] for key in has if key in found}
    return {"_class_name": kind, **kept, **_FIXED.get(kind, {})}
