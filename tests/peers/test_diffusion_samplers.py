"""Every sampler against diffusers' scheduler of the same settings: each call of the network by
itself, and 20 steps of the one scan, with a fixed toy network and the same noise.

Facts of diffusers' that are set right here: its Euler and Heun classes walk on x / alpha, and DDPM
adds noise in its last step where that is not at time 0.
"""

import functools
import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
diffusers = pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
from make_diffusion_golden import (  # noqa: E402
    KINDS,
    NAMES,
    RNG,
    SETTINGS,
    SHAPE,
    STEPS,
    B,
    new_noise,
    theirs,
    toy,
)  # fmt: skip

from vlp_jax.diffusion import denoise, sample  # noqa: E402
from vlp_jax.diffusion.guidance import rescaled  # noqa: E402
from vlp_jax.diffusion.how import Drawing  # noqa: E402
from vlp_jax.diffusion.samplers.base import Now  # noqa: E402
from vlp_jax.diffusion.samplers.ddim import Ddim  # noqa: E402
from vlp_jax.diffusion.samplers.ddpm import Ddpm  # noqa: E402
from vlp_jax.diffusion.samplers.dpm_solver import DpmSolver  # noqa: E402
from vlp_jax.diffusion.samplers.dpm_solver_sde import DpmSolverSde  # noqa: E402
from vlp_jax.diffusion.schedules import Schedule  # noqa: E402

SPACINGS, PREDICTIONS = ("leading", "linspace", "trailing"), ("eps", "v", "x0")
SCALED = ("Euler", "EulerAncestral", "Heun")  # diffusers' x is ours / alpha
# diffusers hands tensors to numpy functions, which numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def ours(sampler, schedule, steps=STEPS, rng=RNG, given=None, own=None, **how):
    """(pictures, what the network was asked: [(time, x)])."""
    asked = {}

    def model(x, time):
        jax.debug.callback(lambda t, x: asked.update({len(asked): (t, x)}), time, x, ordered=True)
        return toy(schedule.prediction, x, time[:, None, None, None], jnp)

    how = Drawing(sampler=sampler, steps=steps, guided=False, **how)
    draw = jax.jit(lambda how: sample.sample(model, schedule, how, rng, SHAPE, given, own))
    return np.asarray(draw(how)), [(float(t[0]), x) for t, x in asked.values()]


def alone(sampler, plan, schedule, calls):
    """Largest difference of one call, each begun where diffusers' began, in units of how much a
    call magnifies the rounding of its x, at least 1 (1/0.07 from noise straight to a picture)."""
    memory = (jnp.zeros((B, *SHAPE)),) * sampler.remembers
    see = lambda out, x, at: denoise.seen(schedule.prediction, out, x, at)  # noqa: E731
    step = jax.jit(lambda now, memory: sampler.step(Now(*now, see), memory))
    worst = 0
    for number, (_, seen, out, after) in enumerate(calls):
        at = int(sampler.row(jnp.int32(number), jnp.int32(number)))
        row = {k: np.float32(v[at]) for k, v in plan.table.items()}
        made = (jnp.float32(seen), jnp.float32(out), None, row, jnp.int32(number))
        x, memory = step((*made, new_noise(number) if sampler.draws else None), memory)
        scale = row["alpha_next"] if type(sampler).__name__ in SCALED else 1
        grows = max(1, *(row[f"{k}_next"] / row[k] for k in ("alpha", "sigma")))
        worst = max(worst, np.abs(np.asarray(x) - after * scale).max() / grows)
    return worst


def compare(name, schedule=None, own=None, steps=STEPS, karras=False, spacing="leading", **more):
    """N steps, and each by itself. own: our sampler with options. more: diffusers' settings."""
    schedule = schedule or Schedule()
    kind, settings = SETTINGS[name]
    more = {**settings, **more} | ({} if name == "lcm" else {"timestep_spacing": spacing})
    more |= {"use_karras_sigmas": True} if karras else {}
    sampler = own or Drawing(sampler=name).make()
    last = steps - 1 if name == "ddpm" else None  # diffusers' draws there, too
    noises = lambda call: new_noise(call) * (call != last)  # noqa: E731
    given = sample.Given(image=sample.noise_of_start(RNG, SHAPE)) if sampler.rises else None
    # The noise of x0 is a quotient; without signal diffusers' Euler stands at sigma 4096.
    hard = schedule.prediction == "x0" or schedule.zero_snr
    near = functools.partial(np.testing.assert_allclose, rtol=0, atol=4e-5 if hard else 1e-5)

    calls = theirs(kind, schedule, noises, steps, **more)
    how = dict(steps=steps, karras=karras, spacing=spacing)
    found, asked = ours(name, schedule, given=given, own=own, **how)
    assert len(asked) == len(calls)
    near([t for t, _ in asked], [c[0] for c in calls], atol=2e-3, err_msg=f"{name}, times")
    plan = sampler.plan(schedule, steps, spacing, karras)
    near(alone(sampler, plan, schedule, calls), 0, err_msg=f"{name}, one call")
    if type(sampler).__name__ not in SCALED and not name.startswith(
        "dpm"
    ):  # theirs can run in float64
        calls64 = theirs(kind, schedule, noises, steps, exact=True, **more)
        worst = alone(sampler, plan, schedule, calls64)
        near(worst, 0, atol=2e-6 if hard else 1e-6, err_msg=f"{name}, one call of float64")
    for (_, x), call in zip(asked, calls, strict=True):
        near(x, call[1], err_msg=f"{name}, on the way")
    near(found, calls[-1][-1], err_msg=f"{name}, {steps} steps")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim(spacing, prediction, eta):
    compare("ddim", Schedule(prediction=prediction), Ddim(eta), spacing=spacing, eta=eta)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["eps", "v"])  # the toy's x0 makes chaos of it
def test_ddim_inverse(spacing, prediction):
    compare("ddim_inverse", Schedule(prediction=prediction), spacing=spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(spacing, prediction, variance):
    schedule = Schedule("linear", 1e-4, 0.02, prediction=prediction)
    variance_type = f"fixed_{variance}"
    compare("ddpm", schedule, Ddpm(variance), spacing=spacing, variance_type=variance_type)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["eps", "v"])  # diffusers' PNDM has no x0
def test_pndm(spacing, prediction):
    compare("pndm", Schedule(prediction=prediction), spacing=spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver", "dpm_solver_sde"])
def test_on_sigmas(name, spacing, prediction, karras):
    compare(name, Schedule(prediction=prediction), spacing=spacing, karras=karras)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["eps", "v"])  # diffusers' has no x0
def test_euler_ancestral(spacing, prediction):
    compare("euler_ancestral", Schedule(prediction=prediction), spacing=spacing)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 4, 7, 20])
def test_lcm(steps, prediction):
    compare("lcm", Schedule(prediction=prediction), steps=steps)


@pytest.mark.parametrize("kind", [DpmSolver, DpmSolverSde])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize(
    "order, last, steps", [(1, "zero", 10), (2, "zero", 10), (2, "first", 10), (2, "first", 17)]
)
def test_dpm_solver_options(kind, solver, order, last, steps):
    name = "dpm_solver_sde" if kind is DpmSolverSde else "dpm_solver"
    final = {"zero": "zero", "first": "sigma_min"}[last]
    own = kind(order=order, solver=solver, last=last)
    compare(name, own=own, steps=steps, spacing="trailing", solver_order=order,
            solver_type=solver, final_sigmas_type=final)  # fmt: skip


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "euler_ancestral", "dpm_solver"])
def test_zero_terminal_snr(name):
    schedule = Schedule(zero_snr=True, prediction="v")
    compare(name, schedule, spacing="trailing", rescale_betas_zero_snr=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("name", ["ddim", "pndm", "euler", "heun", "dpm_solver"])
def test_other_numbers_of_steps(name, steps):
    compare(name, steps=steps)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("zero", [False, True])
def test_schedules(kind, zero):
    schedule = Schedule(kind, zero_snr=zero, prediction="v")
    made = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=NAMES[kind],
                                   rescale_betas_zero_snr=zero)  # fmt: skip
    name = f"alpha_bar, {kind}"
    np.testing.assert_allclose(schedule.alpha_bar, made.alphas_cumprod, 0, 1e-6, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_noising_and_targets(kind):
    schedule, time = Schedule(prediction=kind), np.array([3, 871])
    made = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    x0, eps = (np.asarray(denoise.noise(RNG, SHAPE)) * k for k in (1.5, 1))
    at = denoise.level(schedule, jnp.asarray(time), jnp.asarray(x0))
    tensors = [torch.from_numpy(np.array(x)) for x in (x0, eps, time)]
    x = denoise.noised(x0, eps, at)
    np.testing.assert_allclose(x, made.add_noise(*tensors), 0, 1e-6, err_msg="noised")
    wanted = {"v": made.get_velocity(*tensors), "eps": eps, "x0": x0}[kind]
    out = denoise.target(kind, x0, eps, at)
    np.testing.assert_allclose(out, wanted, 0, 1e-6, err_msg=kind)


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
@pytest.mark.parametrize("name, kind", [("ddim", "DDIMScheduler"), ("ddpm", "DDPMScheduler")])
@pytest.mark.parametrize("renoise", [False, True])
def test_thresholds(threshold, name, kind, renoise):
    schedule = Schedule("cosine", prediction="eps", offset=0)
    how = dict(threshold=threshold, most=1.5, quantile=0.8, renoise=renoise, spacing="leading")
    more = dict(clip_sample=True) if threshold == "static" else dict(thresholding=True)
    if name == "ddim":
        more |= dict(use_clipped_model_output=renoise, set_alpha_to_one=False)
    calls = theirs(kind, schedule, new_noise, clip_sample_range=1.5, sample_max_value=1.5,
                   dynamic_thresholding_ratio=0.8, timestep_spacing="leading", **more)  # fmt: skip
    found, _ = ours(name, schedule, **how)
    np.testing.assert_allclose(found, calls[-1][-1], 0, 1e-5, err_msg=f"{name}, {threshold}")


def test_learned_variance():
    schedule = Schedule("cosine", offset=0)
    made = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False,
                                   variance_type="learned_range")  # fmt: skip
    made.set_timesteps(STEPS)
    made.alphas_cumprod = torch.from_numpy(schedule.alpha_bar)
    out = np.asarray(denoise.noise(RNG, (*SHAPE[:2], 6)))
    x = np.asarray(sample.noise_of_start(RNG, SHAPE))
    for number in (0, 7, STEPS - 1):
        new = torch.from_numpy(np.array(new_noise(number)))
        place = lambda x: torch.from_numpy(np.array(x, float)).permute(0, 3, 1, 2)  # noqa: E731
        where = importlib.import_module(type(made).__module__)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, "randn_tensor", lambda *a, **k: new.permute(0, 3, 1, 2))
            wanted = made.step(place(out), made.timesteps[number], place(x), return_dict=False)[0]
        plan = Ddpm().plan(schedule, STEPS, "leading", False)
        row = {k: np.float32(v[number]) for k, v in plan.table.items()}
        see = lambda out, x, at: denoise.seen("eps", out, x, at)  # noqa: E731
        now = Now(x, out[..., :3], out[..., 3:], row, number, new_noise(number), see)
        found, _ = Ddpm().step(now, ())
        wanted = wanted.permute(0, 2, 3, 1)
        np.testing.assert_allclose(found, wanted, 0, 2e-6, err_msg="ddpm, learned variance")


def test_guidance_rescale():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    mixed, positive = denoise.noise(RNG, SHAPE) * 3, denoise.noise(RNG, SHAPE)[::-1]
    tensors = [torch.from_numpy(np.array(x)) for x in (mixed, positive)]
    wanted = rescale_noise_cfg(*tensors, guidance_rescale=0.7)
    found = rescaled(mixed, positive, 0.7)
    np.testing.assert_allclose(found, wanted, 0, 1e-6, err_msg="guidance rescale")


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpm_solver"])
@pytest.mark.parametrize("strength", [0.05, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_from_a_picture(name, strength, masked):
    """As diffusers' image-to-image and inpainting pipelines put their schedulers to use."""
    schedule, image = Schedule(), denoise.noise(RNG[::-1], SHAPE)
    mask = (denoise.noise(RNG, (*SHAPE[:2], 1)) > 0).astype(jnp.float32)
    begun = sample.noise_of_start(RNG, SHAPE)
    kind, more = SETTINGS[name]
    made = getattr(diffusers, kind)(
        beta_schedule="scaled_linear", beta_start=schedule.start, beta_end=schedule.end,
        steps_offset=1, timestep_spacing="leading", **more)  # fmt: skip
    made.set_timesteps(STEPS)
    times = made.timesteps[(STEPS - int(STEPS * strength)) * made.order :]
    z, n, m = (torch.from_numpy(np.array(x)) for x in (image, begun, mask))
    made.set_begin_index((STEPS - int(STEPS * strength)) * made.order) if name != "ddim" else None
    x = made.add_noise(z, n, times[:1].repeat(B))
    if masked and strength == 1:
        x = n * made.init_noise_sigma
    for number, time in enumerate(times):
        out = toy("eps", made.scale_model_input(x, time), time, torch)
        x = made.step(out, time, x, return_dict=False)[0]
        if masked:
            last = number == len(times) - 1
            known = z if last else made.add_noise(z, n, times[number + 1 : number + 2].repeat(B))
            x = (1 - m) * known + m * x
    given = sample.Given(image=image, mask=mask if masked else None)
    found, asked = ours(name, schedule, given=given, strength=strength, spacing="leading")
    assert len(asked) == len(times)
    what = "inpainting" if masked else "image to image"
    np.testing.assert_allclose(found, x, 0, 1e-5, err_msg=f"{name}, {what}")
