"""Makes tests/golden/diffusion.npz: where diffusers' schedulers end after STEPS steps of a toy
network, from noise and with noise that this package draws.

Run with an environment that has the `peers` extra. The file exists so that the ordinary suite
proves the samplers without installing diffusers; the live test has its toy and its loop from here.
"""

import importlib
import pathlib
import sys
import unittest.mock
import warnings

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from vlp_jax.core.rng import example_keys
from vlp_jax.diffusion import sample
from vlp_jax.diffusion.schedules import Schedule

FILE = pathlib.Path(__file__).parent / "diffusion" / "samplers.npz"
SHAPE, B, STEPS = (4, 4, 3), 2, 20
RNG = example_keys(jax.random.key(7), B)
KINDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
LATENT = dict(clip_sample=False, set_alpha_to_one=False)
# {sampler: (diffusers' class, its settings beside schedule and spacing)}
SETTINGS = {
    "ddim": ("DDIMScheduler", LATENT),
    "ddim_inverse": ("DDIMInverseScheduler", LATENT),
    "ddpm": ("DDPMScheduler", dict(clip_sample=False)),
    "dpm_solver": ("DPMSolverMultistepScheduler", {}),
    "dpm_solver_sde": ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", LATENT),
    "pndm": ("PNDMScheduler", dict(skip_prk_steps=True, set_alpha_to_one=False)),
}
CASES = [(name, "eps", "leading", False) for name in SETTINGS]
CASES += [(name, "v", "trailing", False) for name in SETTINGS]
CASES += [(name, "eps", "linspace", True) for name in ("euler", "heun", "dpm_solver")]


def toy(kind, x, time, xp):
    """A network of fixed numbers for pictures of about N(0, 1), unlike in every pixel and time: the
    best answer to such, and a wave."""
    u = time / 1000.0
    if kind == "v":
        best = 0
    elif kind == "eps":
        best = xp.sqrt(1.002 - xp.exp(-4.6 * u * u - 0.76 * u))
    else:
        best = xp.exp(-2 * u)
    return best * x + 0.2 * xp.sin(3 * x + time / 90.0)


def new_noise(call):
    return sample.noise_of_call(RNG, call, SHAPE)


def theirs(kind, schedule, noises=None, steps=STEPS, exact=False, **more):
    """[(time, the network's input, output, sample after the call)]. exact: in float64."""
    import diffusers
    import torch

    config = dict(
        num_train_timesteps=schedule.times,
        beta_schedule=NAMES[schedule.name],
        beta_start=schedule.start,
        beta_end=schedule.end,
        prediction_type=KINDS[schedule.prediction],
        steps_offset=schedule.offset,
    )
    call = {k: more.pop(k) for k in ("eta", "use_clipped_model_output") if k in more}
    made = getattr(diffusers, kind)(**config | more)
    made.set_timesteps(steps)
    x = torch.from_numpy(np.array(sample.noise_of_start(RNG, SHAPE))) * made.init_noise_sigma
    if exact:
        made.alphas_cumprod, x = torch.from_numpy(schedule.alpha_bar), x.double()
        for name in ("final_alpha_cumprod", "initial_alpha_cumprod"):
            setattr(made, name, torch.tensor(schedule.last, dtype=torch.float64))
    found = []
    where = importlib.import_module(type(made).__module__)
    draw = lambda *shape, **how: torch.from_numpy(np.array(noises(len(found))))  # noqa: E731
    with unittest.mock.patch.object(where, "randn_tensor", draw, create=True):
        for time in made.timesteps:
            seen = made.scale_model_input(x, time)
            out = toy(schedule.prediction, seen, time, torch)
            x = made.step(out, time, x, return_dict=False, **call)[0]
            found.append((float(time), seen.numpy(), out.numpy(), x.numpy()))
    return found


def case(name, prediction, spacing, karras):
    """The end of one of CASES, float32[B, *SHAPE]."""
    kind, more = SETTINGS[name]
    more = dict(more) | ({} if name == "lcm" else {"timestep_spacing": spacing})
    more |= {"use_karras_sigmas": True} if karras else {}
    noises = (lambda call: new_noise(call) * (call < STEPS - 1)) if name == "ddpm" else new_noise
    return theirs(kind, Schedule(prediction=prediction), noises, **more)[-1][-1]


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **{"-".join(map(str, one)): case(*one) for one in CASES})
