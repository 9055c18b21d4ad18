"""The one scan that draws pictures, whatever the sampler.

The network is a function that is closed over; so are its conditions, control maps and whatever else
it reads. Guidance, strength, keys and pictures are traced: one program per sampler, number of
steps and size, guided or not. Every row draws with its own key, so its picture does not depend on
its batch. The file exists because diffusers and maxdiffusion have a loop per pipeline.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.rng import fold
from vlp_jax.core.types import Array
from vlp_jax.diffusion import denoise, thresholds
from vlp_jax.diffusion.denoise import Level, Seen
from vlp_jax.diffusion.guidance import Model, guided
from vlp_jax.diffusion.how import Drawing
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Row, Sampler
from vlp_jax.diffusion.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Given:
    """What a picture is made from beside its condition; all in the network's space (latents).

    image: float32[B, ..., C], begun with where `strength` leaves steps out, or where there is no
      mask. mask: float32[B, ..., 1], 1 where `image` is painted over, 0 where it is kept to the
      last bit; at strength 1 it begins with noise alone. start: float32[B, ..., C], N(0, 1) to
      begin with in place of a draw.
    """

    image: Array | None = None
    mask: Array | None = None
    start: Array | None = None

    def check(self, shape: tuple[int, ...], sampler: Sampler) -> None:
        """Raises UserError for another size than the picture's, and for a missing picture."""
        wanted = {"image": shape, "mask": (*shape[:-1], 1), "start": shape}
        for name, size in wanted.items():
            array = getattr(self, name)
            if array is not None and array.shape[1:] != size:
                raise UserError(f"{name} is of shape {array.shape[1:]}, it must be {size}")
        if self.image is None and (self.mask is not None or sampler.rises):
            what = (
                "a mask is painted over in" if self.mask is not None else "the sampler starts from"
            )
            raise UserError(f"image: {what} a picture; give one")


def sample(
    model: Model,
    schedule: Schedule,
    how: Drawing,
    rng: Array,
    shape: tuple[int, ...],
    given: Given | None = None,
    sampler: Sampler | None = None,
) -> Array:
    """Pictures, or latents.

    Args:
      model: (x float32[M, *shape], time float32[M]) -> [M, ..., C], or 2 C with a learned variance;
        M is B, or 2 B where how.guided, whose rows lie as `guidance.pairs` lays them.
      rng: key[B], one per picture.
      shape: of one picture.
      sampler: in place of how.sampler, for options that `how` does not have.

    Returns:
      float32[B, *shape]
    """
    sampler, given = sampler or how.make(), given or Given()
    given.check(shape, sampler)
    plan = _plan(schedule, how, sampler)
    part = how.steps if given.image is None else steps_of(how.steps, how.strength)
    first, end = sampler.window(how.steps, jnp.int32(part))
    table = {name: jnp.asarray(row, jnp.float32) for name, row in plan.table.items()}
    row_of = lambda call: {  # noqa: E731
        name: rows[sampler.row(call, call - first)] for name, rows in table.items()
    }
    if how.guided:
        model = guided(model, how.guidance, how.rescale)

    def see(out: Array, x: Array, at: Level) -> Seen:
        return _in_range(denoise.seen(schedule.prediction, out, x, at), x, at, how)

    def make(x: Array, memory: Memory, call: Array) -> tuple[Array, Memory]:
        row = row_of(call)
        out, spread = _halves(model(x, jnp.broadcast_to(row["time"], len(x))), shape[-1])
        fresh = noise_of_call(rng, call, shape) if sampler.draws else None
        now = Now(x, out, spread, row, call - first, fresh, see)
        x, memory = sampler.step(now, memory)
        return _blended(x, Level(row["alpha_next"], row["sigma_next"]), begun, given), memory

    def body(carry: tuple[Array, Memory], call: Array) -> tuple[tuple[Array, Memory], None]:
        active = (first <= call) & (call < end) & sampler.calls(call, call - first, how.steps)
        skip = lambda x, memory, call: (x, memory)  # noqa: E731
        return jax.lax.cond(active, make, skip, *carry, call), None

    begun = noise_of_start(rng, shape) if given.start is None else given.start
    x = _start(begun, given, sampler, plan.start, row_of(first), part, how.steps)
    memory = (jnp.zeros_like(x),) * sampler.remembers
    (x, _), _ = jax.lax.scan(body, (x, memory), jnp.arange(plan.calls))
    return x if given.mask is None else jnp.where(given.mask == 0, given.image, x)


def steps_of(steps: int, strength: Array | float) -> Array:
    """How many of the steps are made: their share rounded down; a product that only rounding keeps
    below a whole number (0.29 of 100 in Python: 28) is that number. int32[]"""
    return jnp.floor(steps * jnp.float32(strength) + 1e-4).astype(jnp.int32)


def noise_of_start(rng: Array, shape: tuple[int, ...]) -> Array:
    """What sampling begins with where Given has no start. key[B] -> float32[B, *shape]"""
    return denoise.noise(fold(rng, "start"), shape)


def noise_of_call(rng: Array, call: Array | int, shape: tuple[int, ...]) -> Array:
    """What a sampler that draws adds after a call. key[B] -> float32[B, *shape]"""
    return denoise.noise(fold(fold(rng, "call"), call), shape)


def _plan(schedule: Schedule, how: Drawing, sampler: Sampler) -> Plan:
    """Without spacing asked for the sampler's, or the one that visits the time without signal."""
    spacing = how.spacing or ("trailing" if schedule.zero_snr else sampler.spacing)
    return sampler.plan(schedule, how.steps, spacing, how.karras)


def _start(
    begun: Array, given: Given, sampler: Sampler, size: float, row: Row, part: Array, steps: int
) -> Array:
    """x before the first call."""
    if given.image is None or sampler.rises:
        return begun * size if given.image is None else given.image
    at = Level(jnp.where(part > 0, row["alpha"], 1), jnp.where(part > 0, row["sigma"], 0))
    x = denoise.noised(given.image, begun, at)
    return x if given.mask is None else jnp.where(part == steps, begun * size, x)


def _halves(out: Array, channels: int) -> tuple[Array, Array | None]:
    """An output and its learned variance, float32 both.

    Raises:
      UserError: another number of channels.
    """
    out, found = out.astype(jnp.float32), out.shape[-1]
    if found not in (channels, 2 * channels):
        wanted = f"{channels}, or {2 * channels} with a variance"
        raise UserError(f"the network gives {found} channels; it must give {wanted}")
    return out[..., :channels], out[..., channels:] if found > channels else None


def _in_range(seen: Seen, x: Array, at: Level, how: Drawing) -> Seen:
    """With how.threshold applied."""
    if how.threshold == "none":
        return seen
    if how.threshold == "static":
        x0 = thresholds.static(seen.x0, how.most)
    else:
        x0 = thresholds.dynamic(seen.x0, how.quantile, how.most)
    return Seen(x0, denoise.noise_of(x0, x, at) if how.renoise else seen.eps)


def _blended(x: Array, at: Level, begun: Array, given: Given) -> Array:
    """x where the mask is 1, the picture at the same level where it is 0."""
    if given.mask is None:
        return x
    return given.mask * x + (1 - given.mask) * denoise.noised(given.image, begun, at)
