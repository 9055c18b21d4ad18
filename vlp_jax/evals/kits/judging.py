"""What networks say of pictures that were made, beside real ones: the figures of one set.

The file exists so that drawn pictures and given ones are judged by the same rules, and each network
by all that it can.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.source import Source
from vlp_jax.evals.base import unit_rows
from vlp_jax.evals.kits import distances
from vlp_jax.evals.kits.networks import First, Found, Network
from vlp_jax.evals.kits.samples import class_ids
from vlp_jax.evals.kits.scores import score


@dataclasses.dataclass(frozen=True)
class Made:
    """What the networks find in drawn or given pictures.

    Attributes:
      found: {network: {function: what it gives}}.
      texts, labels: by picture, () where there are none.
      shown: uint8[n, H, W, 3] for a sheet.
    """

    found: Mapping[str, Mapping[str, Found]]
    texts: Sequence[str] = ()
    labels: Sequence[Any] = ()
    shown: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Pictures."""
        return max(len(one.samples) for own in self.found.values() for one in own.values())


class Real(NamedTuple):
    """Real pictures, and what they are brought to before a network's own rule."""

    source: Source
    first: First


class Rules(NamedTuple):
    """See evals/kits/distances.py."""

    neighbours: int
    kid_subsets: int
    kid_size: int
    splits: int


def see(
    networks: Sequence[Network], pictures: Source, first: First, compare: bool, spoken: bool
) -> dict[str, dict[str, Found]]:
    """{network: {function: what it gives}} of pictures.

    Args:
      compare: they will be compared with real ones.
      spoken: they have texts.

    Raises:
      UserError: a network that has nothing to say of them.
    """
    found = {}
    for network in networks:
        reads_texts = {"embed_image", "embed_text"} <= network.fns.keys()
        wanted = {
            "features": compare and "features" in network.fns,
            "classify": "classify" in network.fns,
            "embed_image": reads_texts and (compare or spoken),
        }
        names = [name for name, asked in wanted.items() if asked]
        if not names:
            offered = ", ".join(network.fns) or "nothing"
            raise UserError(
                f"networks: {network.label} offers {offered}, which judges nothing here"
            )
        found[network.label] = {name: network.see(name, pictures, first) for name in names}
    return found


def judge(
    network: Network, made: Made, real: Real | None, rules: Rules
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """A network's metrics by their names (Network.named), and its table of classes.

    fid, kid, precision, recall of features; is, and accuracy where its classes are those of the
    labels; cmmd and clip_score, the mean cosine, of one with texts.

    Raises:
      UserError: fewer than two pictures, or a class that the network has not.
    """
    for count, what in ((made.count, "made"), (len(real.source) if real else 2, "real")):
        if count < 2:
            raise UserError(f"{count} {what} picture: figures of sets need at least 2")
    found, metrics = made.found[network.label], {}
    table: list[dict[str, Any]] = []
    if real and "features" in found:
        metrics |= _apart(found["features"], network.know("features", *real), rules)
    if "classify" in found:
        logits = found["classify"]
        metrics["is"], metrics["is_std"] = distances.inception_score(logits.rows, rules.splits)
        if knows(network, logits, made.labels):
            more, table = recognised(network, logits, made.labels)
            metrics |= more
    if "embed_image" in found:
        rows = unit_rows(found["embed_image"].rows)
        if real:
            others = unit_rows(network.know("embed_image", *real).rows)
            metrics["cmmd"] = distances.gaussian_mmd(rows, others)
        texts = [made.texts[i] for i in found["embed_image"].samples] if made.texts else []
        told = np.asarray([bool(text) for text in texts], bool)
        if told.any():
            text = unit_rows(network.texts([text for text in texts if text]))
            metrics["clip_score"] = float((rows[told] * text).sum(1).mean())
    return {network.named(name): value for name, value in metrics.items()}, table


def _apart(made: Found, real: Found, rules: Rules) -> dict[str, float]:
    """What compares two sets of features."""
    fid = distances.frechet(made.moments, real.moments)
    kid = distances.polynomial_mmd(made.rows, real.rows, rules.kid_subsets, rules.kid_size)
    near = distances.precision_recall(made.rows, real.rows, rules.neighbours)
    names = ("fid", "kid", "kid_std", "precision", "recall")
    return dict(zip(names, (fid, *kid, *near), strict=True))


def knows(network: Network, logits: Found, labels: Sequence[Any]) -> bool:
    """Whether the classes of labels are a network's own: words that it has, or as many numbers as
    it has classes."""
    values, names = set(labels) - {None}, set(network.classes())
    if names or not values:
        return bool(values & names)
    numbers = all(isinstance(value, int) for value in values)
    return numbers and logits.rows.shape[1] == max(values) + 1


def recognised(
    network: Network, logits: Found, labels: Sequence[Any]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """accuracy with its chance, and the table of classes; a tie counts against it.

    Raises:
      UserError: a class that the network has not, or names that are not as many as its classes.
    """
    count = logits.rows.shape[1]
    names = network.classes() or range(count)
    if len(names) != count:
        raise UserError(f"networks: {network.label} has {len(names)} names for {count} classes")
    own = class_ids([labels[i] for i in logits.samples], dict.fromkeys(names), network.label)
    kept, each = own >= 0, np.eye(count, dtype=np.float32)
    metrics, table = score(logits.rows[kept], each, own[kept], [*map(str, names)])
    return {"accuracy": metrics["top1"], "chance_accuracy": metrics["chance_top1"]}, table
