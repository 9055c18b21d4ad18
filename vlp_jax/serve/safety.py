"""What is left out in safe mode, by the vectors alone: an honest but weak guard.

Either a linear classifier that was trained on vectors of this index's model (`safety.npz` in its
folder), or, without one, sentences: a picture is called unsafe where its vector has more to do with
those of the unsafe list than with those of the safe one (zero-shot, CLIP section 3.1). Neither has
been measured on your pictures, both miss and both accuse; it is no protection for anybody. The file
exists so that this is said in one place and can be replaced.
"""

import dataclasses
import os
import zipfile
import zlib

import numpy as np

from vlp_jax.api.model import Model
from vlp_jax.core.errors import UserError

FILE = "safety.npz"
_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    *(EOFError, zipfile.BadZipFile, zlib.error),
)
SCALE = 100.0  # of cosines, as the released CLIPs learned it
UNSAFE = (
    *("a pornographic picture", "a picture of naked people", "an explicit sexual act"),
    *("a picture of blood and gore", "a picture of a mutilated body", "a violent attack"),
)
SAFE = (
    *("a picture", "a photo of people", "a photo of an animal", "a photo of a place"),
    *("a drawing", "an icon", "a photo of food", "a photo of an object", "a page of text"),
)


@dataclasses.dataclass(frozen=True)
class Safety:
    """A linear classifier of vectors, or two lists of sentences as vectors.

    Attributes:
      unsafe, safe: float32[m, E]; a trained classifier is one unsafe row and no safe one.
      scale: of the products.
      bias: added to the unsafe side.
      told: what it is, for people.
    """

    unsafe: np.ndarray
    safe: np.ndarray
    scale: float
    bias: float
    told: str

    def probability(self, rows: np.ndarray) -> np.ndarray:
        """float32[n] in [0, 1]: what is unsafe of vectors float32[n, E] of unit norm; above .5 is
        left out."""
        against = _log_sum(self.scale * rows @ self.unsafe.T) + self.bias
        for_it = _log_sum(self.scale * rows @ self.safe.T) if len(self.safe) else 0.0
        return (1 / (1 + np.exp(np.clip(for_it - against, -60, 60)))).astype(np.float32)

    @classmethod
    def of_texts(
        cls, model: Model, unsafe: tuple[str, ...] = UNSAFE, safe: tuple[str, ...] = SAFE
    ) -> "Safety":
        """Zero-shot by sentences.

        Raises:
          UserError: a model without a text tower.
        """
        sides = model.embed_texts(unsafe), model.embed_texts(safe)
        scale = model.scale_of() if "logit_scale" in model.params else SCALE
        told = f"zero-shot by {len(unsafe)} unsafe and {len(safe)} safe sentences, never measured"
        return cls(*sides, scale, 0.0, told)

    @classmethod
    def read(cls, path: str, width: int) -> "Safety":
        """A trained classifier: `weight` float32[E] and `bias` of an .npz; sigmoid(w x + b) is the
        probability of unsafe.

        Raises:
          UserError: the file lacks one, or it is for other vectors.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                weight, bias = np.float32(found["weight"]), float(found["bias"])
        except _UNREADABLE as error:
            raise UserError(f"{path}: holds no float32 `weight` [E] and `bias`") from error
        if weight.shape != (width,):
            raise UserError(f"{path}: weight {list(weight.shape)}, the vectors are [{width}]")
        if not np.isfinite([*weight, bias]).all():
            raise UserError(f"{path}: holds numbers that are not finite")
        empty = np.zeros((0, width), np.float32)
        return cls(weight[None], empty, 1.0, bias, f"a linear classifier trained into {FILE}")


def fit(rows: np.ndarray, unsafe: np.ndarray, path: str, decay: float = 1e-3) -> None:
    """Trains the classifier of `Safety.read` and writes it: logistic regression by Newton's steps.

    rows: float32[n, E] of unit norm, unsafe: bool[n]; decay: of the squared weights, per row.
    """
    x = np.concatenate([rows, np.ones((len(rows), 1))], axis=1).astype(np.float64)
    y, w = unsafe.astype(np.float64), np.zeros(x.shape[1])
    ridge = decay * np.append(np.ones(rows.shape[1]), 1e-6)
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -60, 60)))
        gradient = x.T @ (p - y) / len(y) + ridge * w
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(y) + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    np.savez(path, weight=w[:-1].astype(np.float32), bias=np.float32(w[-1]))


def find_safety(folder: str, width: int, model: Model | None) -> Safety:
    """The classifier of an index: its own file, else sentences.

    Raises:
      UserError: neither is to be had.
    """
    path = os.path.join(folder, FILE)
    if os.path.exists(path):
        return Safety.read(path, width)
    if model is None or "text" not in model.embedders():
        raise UserError(f"safe mode needs {path} or a model with a text tower: --checkpoint=DIR")
    return Safety.of_texts(model)


def _log_sum(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
