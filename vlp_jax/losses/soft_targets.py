"""Contrastive loss whose targets are the similarities within both modalities, as in the tutorials
on CLIP from frozen encoders (github.com/moein-shariatnia/OpenAI-CLIP).

The file exists because its targets learn too: they are a softmax of the very vectors, so the
[B, B] matrices are held, which batches of a tutorial allow.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


def soft_targets(
    image: Array, text: Array, logit_scale: Array, stop_gradient: bool = False
) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy both ways of Z = text . image / t against P = softmax((image . image +
    text . text) / 2 * t), t = exp(-logit_scale).

    Vectors are taken as they are: without unit norm the logits grow with their width.

    Args:
      image, text: float[B, E]; row i belongs to row i.
      logit_scale: float[], ln(1 / t); exponentiated here.
      stop_gradient: the targets teach and do not learn; the public code lets them.

    Returns:
      (float32[] loss; metrics i2t_accuracy, t2i_accuracy in [0, 1]: the own one is the nearest).
    """
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    scale = jnp.exp(logit_scale)
    logits = scale * text @ image.T  # [B, B], texts in rows
    within = (image @ image.T + text @ text.T) / (2 * scale)
    targets = jax.nn.softmax(within, axis=1)
    targets = jax.lax.stop_gradient(targets) if stop_gradient else targets
    rows = (-targets * jax.nn.log_softmax(logits, 1)).sum(1)
    columns = (-targets * jax.nn.log_softmax(logits, 0)).sum(0)
    own = jnp.arange(len(logits))
    accuracy = {
        "t2i_accuracy": jnp.mean(logits.argmax(1) == own),
        "i2t_accuracy": jnp.mean(logits.argmax(0) == own),
    }
    return jnp.mean(rows + columns) / 2, accuracy
