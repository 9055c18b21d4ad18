"""Losses of two players (arXiv:1406.2661): one that makes pictures and a critic of them.

Where they move together, in one loss (`judge`), a player is named by path regexes of its parameters
and is `held` where another player's term passes through it: one gradient of the sum is then every
player's own, and a player's learning rate is `optim.lr_groups`. Where they take turns
(Method.phases) the critic has `hinge` (arXiv:1705.02894), and its weight for the maker may follow
the gradients (VQGAN, arXiv:2012.09841, equation 7). The file exists to hold these terms.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

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


def hinge(real: Array, fake: Array) -> Array:
    """The critic's loss, place by place: half of what real ones lack to 1 and fakes to -1; the
    maker's is the negative mean of `fake`. float[...] logits each -> float32[...]
    """
    real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
    return 0.5 * (jax.nn.relu(1 - real) + jax.nn.relu(1 + fake))


def adaptive_weight(wanted: Array, fooling: Array, most: float = 1e4) -> Array:
    """How often the gradient of fooling the critic fits into that of the rest, 0 to `most`, without
    gradient: a constant of the step.

    Args:
      wanted, fooling: gradients of either loss with respect to the maker's last kernel.

    Returns:
      float32[].
    """
    norms = [jnp.sqrt(jnp.square(g.astype(jnp.float32)).sum()) for g in (wanted, fooling)]
    return jax.lax.stop_gradient(jnp.clip(norms[0] / (norms[1] + 1e-4), 0, most))


def kernel_slope(inputs: Array, slopes: Array) -> Array:
    """Each example's gradient of a loss with respect to the kernel of a 3 x 3 convolution that
    keeps the size.

    Args:
      inputs: float[B, H, W, C], what the convolution saw.
      slopes: float[B, H, W, O], the loss's gradient with respect to what it gave.

    Returns:
      float32[B, 3, 3, C, O].
    """
    height, width = slopes.shape[1:3]
    padded = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [
        jnp.einsum("bhwc,bhwo->bco", padded[:, i : i + height, j : j + width], slopes)
        for i in range(3)
        for j in range(3)
    ]
    return jnp.stack(rows, 1).reshape(len(slopes), 3, 3, *rows[0].shape[1:])


def with_slope(values: Array, slopes: Array, x: Array) -> Array:
    """Values of x whose gradient is known already, so that nothing is pulled back a second time.

    Args:
      values: float32[B], each of its own row of x, or of all where the gradient is of their sum.
      slopes: float[B, ...], the gradient of their sum with respect to x.
      x: float[B, ...].

    Returns:
      float32[B], `values`, with these gradients.
    """
    stop = jax.lax.stop_gradient
    moved = stop(slopes) * (x - stop(x))
    return stop(values) + moved.reshape(len(x), -1).sum(1)
