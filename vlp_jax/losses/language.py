"""Next-token losses of language models: per token, masked, smoothed.

The file exists so that every method that writes text counts the same tokens: those after the first
that are real and not part of a prompt.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


def token_loss(logits: Array, targets: Array, label_smoothing: float = 0.0) -> Array:
    """Cross-entropy of each token in nats, against (1 - s) one-hot + s / V.

    Args:
      logits: float[..., V].
      targets: int32[...].

    Returns:
      float32[...].
    """
    logits = logits.astype(jnp.float32)
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = log_sum - target
    if not label_smoothing:
        return loss
    return loss + label_smoothing * (target - logits.mean(-1))


def counted(mask: Array, prompt: Array | int = 1) -> Array:
    """Which targets count: real tokens after a prompt of so many (1: the first token alone).

    Worked example: of [DEC] a picture of cat [SEP] [PAD] with prompt 4 (the paper's "a picture of"
    and [DEC]) `cat` and [SEP] count; position t of the result belongs to the prediction at t.

    mask: bool[B, T]; prompt: int or int32[B] -> bool[B, T - 1]
    """
    places = jnp.arange(1, mask.shape[1])
    first = jnp.broadcast_to(jnp.asarray(prompt), (len(mask),))
    return mask[:, 1:] & (places >= first[:, None])


def text_loss(
    logits: Array, ids: Array, mask: Array, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Each text's summed loss of predicting its next token.

    Args:
      logits: float[B, T, V] at every token.
      ids: int32[B, T].
      mask: bool[B, T - 1] of `counted`.

    Returns:
      (float32[B] with smoothing, float32[B] without).
    """
    losses = [
        jnp.where(mask, token_loss(logits[:, :-1], ids[:, 1:], smoothing), 0).sum(1)
        for smoothing in (label_smoothing, 0.0)
    ]
    return losses[0], losses[1]
