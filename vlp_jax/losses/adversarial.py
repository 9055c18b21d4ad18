"""Two players in one loss: each term moves its own player only (arXiv:1406.2661).

A player is named by path regexes of its parameters; where another player's term passes through it,
it is `held`. One gradient of the sum is then every player's own gradient, so that the training step
knows nothing of players, and a player's learning rate is `optim.lr_groups`. The file exists as that
rule.
"""

from collections.abc import Callable, Sequence

import jax

from vlp_jax.core.pytree import map_with_path, matches
from vlp_jax.core.types import Array, Params


def held(params: Params, patterns: Sequence[str]) -> Params:
    """The same parameters, those whose path matches without gradient."""

    def hold(path: str, leaf: Array) -> Array:
        return jax.lax.stop_gradient(leaf) if matches(path, patterns) else leaf

    return map_with_path(hold, params)


def judge(
    critic: Callable[[Params, Array], Array],
    params: Params,
    patterns: Sequence[str],
    pair: tuple[Array, Array],
) -> dict[str, Array]:
    """Logits of the three terms, each with the gradient that belongs to it.

    Args:
      critic: f(params, pictures[B, ...]) -> float[B].
      patterns: path regexes of the critic's parameters.
      pair: (real, fake) pictures.

    Returns:
      {real, fake}: for the critic; {fooled}: of the fakes, for who made them.
    """
    real, fake = pair
    return {
        "real": critic(params, jax.lax.stop_gradient(real)),
        "fake": critic(params, jax.lax.stop_gradient(fake)),
        "fooled": critic(held(params, patterns), fake),
    }


def critic_loss(logits: dict[str, Array]) -> Array:
    """Binary cross-entropy of telling real from fake, pair by pair; ln 2 at chance. float32[B]"""
    return (jax.nn.softplus(-logits["real"]) + jax.nn.softplus(logits["fake"])) / 2


def fooling_loss(logits: dict[str, Array]) -> Array:
    """Non-saturating loss of the maker: its fakes are to be called real. float32[B]"""
    return jax.nn.softplus(-logits["fooled"])
