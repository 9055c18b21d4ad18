"""Finds the fastest way to run a step that fits: rematerialisation, sharding and accumulation.

Candidates are tried in the order of their estimated time, so the first that fits is the answer and
few are compiled. The file exists because that search is what one does by hand otherwise.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.plan.program import PlannedTrainer
from vlp_jax.plan.report import executed_passes

REMATS = ("none", "dots", "full")
ACCUMULATE = (1, 2, 4, 8, 16)
SPARE = 0.05  # share of the memory that stays free


def _variant(config: Any, remat: str, split: int, accumulate: int) -> Any:
    """A copy of the config; split: size of the fsdp axis, 1 keeps every parameter whole."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.method.remat = remat
        copy.sharding = "fsdp" if split > 1 else "replicated"
        copy.mesh.update({"data": -1, "fsdp": split, "tensor": 1})
        copy.accumulate = accumulate
    return copy


def candidates(config: Any, devices: Sequence) -> Iterator[Any]:
    """Configs to try, the one estimated fastest first: fewer passes, then less communication."""
    count = len(devices)
    near_root = next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
    splits = sorted({1, near_root, count})
    variants = [
        _variant(config, *choice) for choice in itertools.product(REMATS, splits, ACCUMULATE)
    ]
    rank = lambda c: (executed_passes(c), c.accumulate, c.mesh.fsdp, REMATS.index(c.method.remat))  # noqa: E731
    for variant in sorted(variants, key=rank):
        try:
            PlannedTrainer(variant, devices)
        except UserError:
            continue  # the batch does not divide
        yield variant


def search(
    config: Any,
    devices: Sequence,
    plan: Callable[[Any], dict[str, Any]],
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compiles candidates until one fits with 5 % to spare.

    Args:
      config: the recipe; its remat, sharding, mesh and accumulate are replaced.
      devices: what to plan for.
      plan: config -> report.
      tell: gets a line per candidate.

    Returns:
      (the first report that fits, else the one that needs least; every attempt's settings and
      sizes).

    Raises:
      UserError: the batch divides in no way.
    """
    tried: list[dict[str, Any]] = []
    best: dict[str, Any] | None = None
    for variant in candidates(config, devices):
        try:
            found = plan(variant)
        except UserError:
            if variant.accumulate == 1:
                raise
            continue  # BatchNorm does not accumulate
        names = ("settings", "mesh", "fits", "hbm_bytes", "compile_seconds")
        tried.append({name: found[name] for name in names})
        settings = f"remat={variant.method.remat} sharding={variant.sharding}"
        verdict = "fits" if found["fits"] else "does not fit"
        tell(
            f"{settings} accumulate={variant.accumulate}: {verdict}, "
            f"{found['hbm_bytes'] / 2**30:.2f} of {found['hbm_limit_bytes'] / 2**30:.2f} GiB"
        )
        if best is None or found["hbm_bytes"] < best["hbm_bytes"]:
            best = found
        if found["fits"] and found["spare"] >= SPARE:
            return found, tried
    if best is None:
        raise UserError(f"batch_size={config.batch_size}: divides over these devices in no way")
    return best, tried
