"""A maker of numbers and a critic of them, two players with an order: a toy.

The file exists so that what the contract promises of phases is tested where every gradient can be
written out: the maker sees its whole batch, the critic starts late, both draw noise and keep state.
"""

import dataclasses

import jax
import jax.numpy as jnp
from tiny import SIZE

from vlp_jax.core.fields import Picture
from vlp_jax.core.inputs import Aux
from vlp_jax.methods.base import Leaf, Method, Part, Phase

WIDTH = 6


def drawn(*shape):
    return Part(Leaf(lambda rng: 0.3 * jax.random.normal(rng, shape)))


@dataclasses.dataclass(frozen=True)
class Duel(Method):
    """Attributes: late: first step of the critic; nan: who gives a loss that is none, and when."""

    late: int = 0
    nan: str = ""
    when: int = 1

    def fields(self):
        return {"image": Picture(SIZE)}

    def parts(self):
        parts = {"pixels": drawn(SIZE * 3, WIDTH), "bend": drawn(WIDTH)}
        return {**parts, "judge": drawn(WIDTH, WIDTH), "level": Part(Leaf(0.7))}

    def players(self):
        return {"maker": ("pixels", "bend"), "critic": ("judge", "level")}

    def phases(self):
        make = Phase("make", self.made, self.make, "maker", coupled=True)
        return make, Phase("judge", self.judged, self.judge, "critic", start=self.late)

    def state(self, v, rng):
        return {"level": jnp.float32(0.5), "seen": jnp.float32(0)}

    def values(self, v, x):
        lines = jnp.float32(x.batch["image"]).mean(1) / 255 - 0.5  # [b, S, 3]
        sums = jnp.tanh(lines.reshape(len(lines), -1) @ v.params["pixels"] + v.params["bend"])
        return sums + 0.1 * jax.vmap(lambda key: jax.random.normal(key, (WIDTH,)))(x.rng)

    def score(self, v, z):
        return jnp.square(z @ v.params["judge"]).sum(1) - v.params["level"]

    def poison(self, who, x):
        return jnp.where((self.nan == who) & (x.step == self.when), jnp.nan, 0.0)

    def made(self, v, x):
        z = self.values(v, x.fold("make"))
        return {"z": z, "score": self.score(v, z)}, Aux({"size": x.share(jnp.square(z))})

    def make(self, v, rows, x):
        """Its weight of the critic is the whole batch's."""
        weight = jax.lax.stop_gradient(jnp.square(rows["z"]).mean() / jnp.abs(rows["score"].mean()))
        loss = jnp.square(rows["z"] - 0.2).mean() - weight * rows["score"].mean()
        moved = {"level": 0.9 * v.extra["level"] + 0.1 * rows["z"].mean()}
        return loss + self.poison("maker", x), Aux({"weight": weight}, moved)

    def judged(self, v, x):
        z = self.values(v, x.fold("judge"))
        seen = v.extra["seen"] + v.extra["level"]
        return {"real": self.score(v, 0.3 + 0 * z), "fake": self.score(v, z)}, Aux(
            {}, {"seen": seen}
        )

    def judge(self, v, rows, x):
        loss = x.share(jax.nn.relu(1 - rows["real"]) + jax.nn.relu(1 + rows["fake"]) / 2)
        return loss + self.poison("critic", x), Aux({"fake": x.share(rows["fake"])})

    def project(self, params):
        level = {"level": jnp.maximum(params["level"], 0.69)} if "level" in params else {}
        return {**params, **level}
