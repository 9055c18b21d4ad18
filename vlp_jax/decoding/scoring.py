"""How likely given texts are after a prompt that was read once.

Ranking by first tokens, then by whole texts: BLIP (arXiv:2201.12086, section 4.4; reference:
salesforce/BLIP blip_vqa.py, whose loss has label_smoothing=0.1 in the ranking too). The file exists
so that answers are ranked and captions scored without reading picture and prompt once a text.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.decoding.steps import NEVER

LOGITS = 2**26  # 256 MB of float32 logits at a time
Read = Callable[[Array], Array]


@options
class Scoring:
    """Which of many texts are scored.

    Attributes:
      first: so many texts of each row, those of the likeliest first tokens; the others get -1e9. 0:
        all.
      label_smoothing: a token counts (1 - this) log p(token) + this * the mean log p of all.
    """

    first: int = 128
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Raises UserError for a negative number."""
        if self.first < 0:
            raise UserError(f"first={self.first}: must be at least 0; 0 scores all")


def score(read: Read, logits: Array, texts: Array, mask: Array, how: Scoring) -> Array:
    """The log-likelihood of each text, float32[B, K].

    Worked example: after a prompt, of texts [[[5, 2, 0], [7, 6, 2]]] with mask [[[1, 1, 0], [1, 1,
    1]]] it is log p(5) + log p(2 | 5) and log p(7) + log p(6 | 7) + log p(2 | 7, 6).

    Args:
      read: f(ids int32[B, t]) -> logits float[B, t, V] after each of ids that follow the prompt.
      logits: float[B, V] after the prompt.
      texts: int32[B, K, L], L >= 1, what follows the prompt, the end among it.
      mask: bool[B, K, L], True where a token is real, padded on the right.
    """
    start = jax.nn.log_softmax(logits.astype(jnp.float32))
    begins = jnp.where(mask[..., 0], _gain(start, texts[..., 0], how), 0)  # [B, K]
    if not 0 < how.first < texts.shape[1]:
        return begins + _rest(read, texts, mask, logits.shape[-1], how)
    likely = jnp.take_along_axis(start, texts[..., 0], axis=1)
    top = jax.lax.top_k(likely, how.first)[1]  # [B, first]
    few, real = (jnp.take_along_axis(x, top[..., None], axis=1) for x in (texts, mask))
    found = jnp.take_along_axis(begins, top, axis=1)
    found += _rest(read, few, real, logits.shape[-1], how)
    rows = jnp.arange(len(texts))[:, None]
    return jnp.full(begins.shape, NEVER).at[rows, top].set(found)


def _rest(read: Read, texts: Array, mask: Array, vocab_size: int, how: Scoring) -> Array:
    """What the tokens after the first add, float32[B, K]; some texts of every row at a time."""
    rows, count, length = texts.shape
    if length == 1:
        return jnp.zeros((rows, count))

    def one(text: tuple[Array, Array]) -> Array:
        ids, real = text  # [B, L]
        log_p = jax.nn.log_softmax(read(ids[:, :-1]).astype(jnp.float32))
        gain = _gain(log_p, ids[:, 1:, None], how)[..., 0]
        return jnp.where(real[:, 1:], gain, 0).sum(1)

    most = max(1, LOGITS // (rows * (length - 1) * vocab_size))
    calls = math.ceil(count / most)
    size = math.ceil(count / calls)
    filled = [(0, 0), (0, calls * size - count), (0, 0)]
    blocks = [jnp.pad(x, filled).swapaxes(0, 1) for x in (texts, mask)]  # [K, B, L]
    blocks = [x.reshape(calls, size, rows, length) for x in blocks]
    found = jax.lax.map(jax.vmap(one), tuple(blocks))  # [calls, size, B]
    return found.reshape(-1, rows)[:count].swapaxes(0, 1)


def _gain(log_p: Array, ids: Array, how: Scoring) -> Array:
    """What tokens count: float32[..., V] and int32[..., n], n of each distribution -> float32[...,
    n]."""
    gain = jnp.take_along_axis(log_p, ids, axis=-1)
    return gain + how.label_smoothing * (log_p.mean(-1, keepdims=True) - gain)
