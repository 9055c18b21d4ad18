"""A method that draws in a millisecond: each pixel is pulled towards a colour that the text says.

The file exists so that commands which draw are tested without a network.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlp_jax.api.model import Model
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Label, Picture, Text
from vlp_jax.core.options import options
from vlp_jax.core.rng import fold
from vlp_jax.diffusion.guidance import pairs
from vlp_jax.diffusion.how import Drawing
from vlp_jax.diffusion.sample import Given, sample
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.methods.base import Function, Leaf, Method, Part

SIDE, GRID, LENGTH = 16, 8, 12
TRACES = []  # sizes of the programs that were made


@options
class Painting(Drawing):
    height: int = 0
    width: int = 0


@dataclasses.dataclass(frozen=True)
class Double(Method):
    """kind: what it draws from. controls: maps that it takes, each of a part `control`."""

    kind: str = "text"
    controls: int = 0
    control: float = 1.0

    def fields(self):
        text = Text(LENGTH, 259)
        return {"text": text} if self.kind == "text" else {}

    def names(self):
        return [f"control_{i}" for i in range(self.controls)] if self.controls > 1 else ["control"]

    def parts(self):
        found = {"gain": Part(Leaf(1.0))}
        controls = self.names() if self.controls else []
        return found | {name: Part(Leaf(self.control)) for name in controls}

    def functions(self):
        picture = Picture(SIDE, optional=True)
        reads = {
            "text": {"text": Text(LENGTH, 259), "negative": Text(LENGTH, 259, optional=True)},
            "label": {"label": Label(5)},
            "nothing": {},
            "low": {"low": Picture(SIDE // 2)},
        }[self.kind]
        reads |= {"image": picture, "mask": picture}
        reads |= {name: picture for name in (self.names() if self.controls else [])}
        return {"generate_image": Function(self.draw, reads, Painting)}

    def draw(self, v, x, how):
        b, size = x.batch, (how.height or SIDE, how.width or SIDE)
        if "low" in b:
            assert size == (2 * b["low"].shape[1], 2 * b["low"].shape[2])
        if size[0] % GRID or size[1] % GRID:
            raise UserError(f"size={size[0]}x{size[1]}: sides must be multiples of {GRID}")
        TRACES.append((how.sampler, size, how.guided))
        rows, none = len(x.index), jnp.zeros((len(x.index), 3))
        told = colours(b["text"]) if "text" in b else none
        told = told + b["label"][:, None] / 5.0 if "label" in b else told
        if how.guided:
            told = pairs(colours(b["negative"]) if "negative" in b else none, told)
        added = jnp.zeros((rows, *size, 3))
        if "low" in b:
            added = jax.image.resize(b["low"] / 127.5 - 1, added.shape, "nearest")
        for name in self.names() if self.controls else []:
            if name in b:
                added = added + v.params[name] * (b[name] / 255 - 0.5)
        added = pairs(added, added) if how.guided else added
        image = b["image"] / 127.5 - 1 if "image" in b else None
        mask = jnp.float32(b["mask"][..., :1] >= 128) if "mask" in b else None

        def model(noisy, time):
            aim = v.params["gain"] * told[:, None, None, :] + added
            return noisy - 0.9 * aim

        given = Given(image=image, mask=mask)
        out = sample(model, Schedule(), how, fold(x.rng, "draw"), (*size, 3), given)
        return {"image": jnp.clip(out, -1, 1)}


def colours(ids):
    """float32[B, 3] of int32[B, T]."""
    places = jnp.stack([jnp.roll(ids, k, axis=1)[:, 0] + ids[:, k + 1] for k in range(3)], 1)
    return jnp.sin(places.astype(jnp.float32))


def model(kind="text", mesh=None, path="double", **how):
    """A Model of the double; gain 1."""
    config = {"method": {"name": "drawing_double", "kind": kind, **how}}
    method = Double(kind, **how)
    params = method.init(jax.random.key(0))[0]
    spec = {"name": "bytes", "context_length": LENGTH, "options": {}}
    return Model(path, method, params, {}, {}, spec, config, mesh)
