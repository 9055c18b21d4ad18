"""Compiles the training step of a config for a pod, on this host.

The file exists so that a notebook asks what a pod's compiler says, as the command does.
"""

import sys
from collections.abc import Mapping
from typing import Any

from vlp_jax.api.config import load_config
from vlp_jax.plan.topology import check_topology, open_topology, prepare


def plan(
    config: Any,
    topology: str,
    *,
    examples: int = 400_000_000,
    search: bool = False,
    cached: bool = False,
    hlo: str = "",
    code: bool = True,
) -> dict[str, Any]:
    """One plan, or the best of a search with its attempts under `tried` (plan/report.py).

    Args:
      config: or (FILE.py[:ARGS], {key: value}) of one that is yet to be read.
      topology: v5e:16x16, cpu:8, ...; devices are simulated, so JAX must not have been used yet.
      examples: size of the training set.
      search: try remat policies, sharding and accumulation.
      cached: train on a cache (`data cache`) of all that the method takes from one.
      hlo: file for the compiled program's text.
      code: also write the machine code, whose bytes are on the device, too. Without it a step of
        convolutions takes minutes instead of hours.

    Raises:
      UserError: a mistake in the topology or the config, or too little memory on this host.
    """
    check_topology(topology)
    if isinstance(config, tuple):
        config = load_config(*config)
    prepare(topology)
    from vlp_jax.parallel.startup import start_jax
    from vlp_jax.plan import search as searching
    from vlp_jax.plan.layout import lay_out
    from vlp_jax.plan.program import PlannedTrainer, check_host_memory, compile_step
    from vlp_jax.plan.report import report
    from vlp_jax.plan.topology import chip

    check_host_memory()
    start_jax()
    devices = open_topology(topology)

    def one(config: Mapping[str, Any]) -> dict[str, Any]:
        trainer = PlannedTrainer(config, devices, examples, cached)
        compiled = compile_step(trainer) if code else lay_out(trainer, topology)
        if hlo:
            with open(hlo, "w") as file:
                file.write(compiled.text)
        return report(trainer, compiled, topology, chip(topology)) | {"machine_code": code}

    if not search:
        return one(config)
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    found, tried = searching.search(config, devices, one, tell)
    return {**found, "tried": tried}
