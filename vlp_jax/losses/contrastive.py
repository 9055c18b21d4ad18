"""Contrastive losses over the global batch: softmax (CLIP, arXiv:2103.00020) and sigmoid (SigLIP,
arXiv:2303.15343).

Inputs are whole-batch arrays; under jit they may be sharded over devices and the value does not
change. This dense form holds the [B, B] logits; the file exists as the seam where a form with flat
memory replaces it, signatures unchanged.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


def pair_logits(image: Array, text: Array, scale: Array) -> Array:
    """scale * image @ text.T in float32, true float32 products on every backend. [B, E], [B, E] ->
    [B, B]
    """
    product = jnp.einsum(
        "be,ce->bc",
        image.astype(jnp.float32),
        text.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return scale * product


def _retrieval_accuracy(logits: Array) -> dict[str, Array]:
    """Share of rows and columns whose largest entry is the diagonal one."""
    target = jnp.arange(logits.shape[0])
    return {
        "i2t_accuracy": jnp.mean(jnp.argmax(logits, axis=1) == target),
        "t2i_accuracy": jnp.mean(jnp.argmax(logits, axis=0) == target),
    }


def softmax_contrastive(
    image: Array, text: Array, logit_scale: Array
) -> tuple[Array, dict[str, Array]]:
    """Symmetric InfoNCE: the mean of both cross-entropies with the diagonal as target.

    Args:
      image: float[B, E], unit norm.
      text: float[B, E], unit norm; row i belongs to picture i.
      logit_scale: float[], ln(1 / temperature); exponentiated here.

    Returns:
      (float32[] loss, ln B at chance; metrics i2t_accuracy, t2i_accuracy in [0, 1]).
    """
    logits = pair_logits(
        image, text, jnp.exp(logit_scale)
    )  # [B, B], computed once for both directions
    rows = jax.nn.logsumexp(logits, axis=1)
    columns = jax.nn.logsumexp(logits, axis=0)
    loss = jnp.mean(0.5 * (rows + columns) - jnp.diagonal(logits))
    return loss, _retrieval_accuracy(logits)


def sigmoid_contrastive(
    image: Array, text: Array, logit_scale: Array, logit_bias: Array
) -> tuple[Array, dict[str, Array]]:
    """Pairwise logistic loss: -1/B sum_ij log sigmoid(y_ij (exp(s) x_i . t_j + b)), y = +1 on the
    diagonal, else -1.

    Args:
      image: float[B, E], unit norm.
      text: float[B, E], unit norm; row i belongs to picture i.
      logit_scale: float[], ln of the scale (initially ln 10).
      logit_bias: float[], initially -10.

    Returns:
      (float32[] loss; metrics i2t_accuracy, t2i_accuracy in [0, 1]).
    """
    logits = pair_logits(image, text, jnp.exp(logit_scale)) + logit_bias
    sign = 2 * jnp.eye(logits.shape[0]) - 1
    loss = -jax.nn.log_sigmoid(sign * logits).sum() / logits.shape[0]
    return loss, _retrieval_accuracy(logits)
