"""Whether a picture and a text belong together (ITM), as both BLIPs learn it: a pair beside one
with a wrong picture and one with a wrong text (arXiv:2201.12086).

The file exists so that the two methods count and average the three alike.
"""

import jax.numpy as jnp

from vlp_jax.core.types import Array, Params
from vlp_jax.losses.language import token_loss

TEMPERATURES = (0.001, 0.5)  # where the contrast's is kept


def judged(logits: Array, wrong_image: Array, wrong_text: Array) -> dict[str, Array]:
    """Rows of the three pairs: losses `itm` float32[B, 3], `itm_right` bool[B, 3], and which of
    them count, `itm_counts` bool[B, 3].

    Args:
      logits: float32[B, 3, 2] of the pair, with a wrong picture, with a wrong text.
      wrong_image, wrong_text: bool[B], whether there was one.
    """
    truth = jnp.broadcast_to(jnp.array([1, 0, 0]), logits.shape[:2])
    return {
        "itm": token_loss(logits, truth),
        "itm_right": logits.argmax(-1) == truth,
        "itm_counts": jnp.stack([jnp.ones_like(wrong_text), wrong_image, wrong_text], axis=1),
    }


def matching(rows: dict[str, Array]) -> dict[str, Array]:
    """Metrics of `judged` rows of the whole batch: itm, the loss, and itm_accuracy."""
    counts = rows["itm_counts"].astype(jnp.float32)
    mean = lambda each: (each * counts).sum() / counts.sum()  # noqa: E731
    return {"itm": mean(rows["itm"]), "itm_accuracy": mean(rows["itm_right"])}


def kept(params: Params) -> Params:
    """With the temperature, where there is one, in TEMPERATURES."""
    if "temperature" not in params:
        return params
    return {**params, "temperature": jnp.clip(params["temperature"], *TEMPERATURES)}
