"""Optimisers of several players: each has `optim`, with what `optim.players.NAME` says instead.

The file exists so that a critic's own rate or momentum is config, and all other recipes have one
optimiser.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import plain
from vlp_jax.optim.optimizer import check_paths, lr_factors


def optimizers(config: Mapping[str, Any], players: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The config of each player's optimiser, {player: fields of OptimConfig}; {"": `optim`} without
    players.

    Raises:
      UserError: `optim.players` names somebody else.
    """
    shared = plain(config)
    said = shared.pop("players", {})
    for name, own in said.items():
        if name not in players:
            hint = nearest(name, players) or "; the method has one optimiser"
            raise UserError(f"optim.players.{name}: no such player{hint}")
        if not isinstance(own, Mapping):
            raise UserError(f"optim.players.{name} is {own!r}, it must be a section")
    return {name: {**shared, **said.get(name, {})} for name in players or ("",)}


def factors_of(
    configs: Mapping[str, Mapping[str, Any]], shares: Mapping[str, Any], params: Any
) -> Any:
    """Learning-rate factors of all that learns (optim.lr_factors), of each player by its config.

    Args:
      configs: see `optimizers`; shares: {player: its trained parameters}, with the same keys but
        for players who have none.
      params: all parameters, frozen ones too.

    Raises:
      UserError: a pattern of a config that matches none of `params`.
    """
    for config in configs.values():
        check_paths(config, params)
    found: dict[str, Any] = {}
    for player, share in shares.items():
        found |= lr_factors(configs[player], share)
    return found
