"""A plan: the compiler's figures, the formula's FLOPs, and a roofline that says it is an estimate.

`optimal_seconds` of the compiler is no time and its FLOPs count loop bodies once, so neither is
used. The file exists to keep what was compiled apart from what is estimated.
"""

from typing import Any

from vlp_jax.core.pytree import size
from vlp_jax.plan.hlo import collectives, wire_bytes
from vlp_jax.plan.program import Compiled, device_bytes
from vlp_jax.plan.topology import Chip
from vlp_jax.train.progress import peak_flops
from vlp_jax.train.trainer import Trainer

# Forward passes that a step executes beside the backward pass's two.
FORWARDS = {"none": 1.0, "dots": 1.0, "weight_dots": 1.1, "full": 2.0}


def executed_passes(config: Any) -> float:
    """Forward-equivalents of one step: backward counts two, gradient caching one more forward."""
    remat = getattr(config.method, "remat", "none")
    return 2 + FORWARDS.get(remat, 2.0) + (config.accumulate > 1)


def roofline(trainer: Trainer, traffic: float, memory: float, chip: Chip) -> dict[str, float]:
    """Estimated seconds of a step: the slowest of arithmetic, memory and links.

    Args:
      trainer: the run.
      traffic: bytes sent per device and step.
      memory: bytes moved to and from the device's memory, at least.
      chip: data-sheet speeds.
    """
    devices = trainer.mesh.devices
    batch = trainer.config.batch_size
    peak = peak_flops(devices.flat[0].device_kind)
    forward = trainer.method.flops() * batch / devices.size
    compute = executed_passes(trainer.config) * forward / peak if peak else 0.0
    times = {
        "compute_seconds": compute,
        "memory_seconds": memory / chip.memory_speed,
        "link_seconds": traffic / chip.link_speed,
    }
    step = max(times.values())
    bound = 3 * forward / (peak * step) if peak and step else 0.0
    return {**times, "step_seconds": step, "mfu_bound": bound, "examples_per_s": batch / step}


def report(trainer: Trainer, compiled: Compiled, topology: str, chip: Chip) -> dict[str, Any]:
    """The plan as plain values: see README, "To a pod". Bytes are per device; `model_flops` are of
    the whole step, training = 3 x forward, recompute not counted.
    """
    sizes = dict(trainer.mesh.shape)
    state, frozen = trainer.abstract
    found = collectives(compiled.text, sizes)
    traffic = wire_bytes(found, sizes)
    parameters = device_bytes([state["params"], frozen])
    optimiser = device_bytes(state["opt"])
    gradients = device_bytes(state["params"])
    moved = 2 * (compiled.temp + compiled.args)
    config = trainer.config
    settings = {name: getattr(config.method, name, None) for name in ("remat", "dtype")}
    settings |= {name: config[name] for name in ("sharding", "accumulate")}
    return {
        "fits": compiled.fits,
        "hbm_bytes": compiled.hbm,
        "hbm_limit_bytes": compiled.limit,
        "spare": 1 - compiled.hbm / compiled.limit,
        "args_bytes": compiled.args,
        "output_bytes": compiled.outputs,
        "temp_bytes": compiled.temp,
        "code_bytes": compiled.code,
        "parameter_bytes": parameters,
        "frozen_bytes": device_bytes(frozen),  # of parameter_bytes
        "optimiser_bytes": optimiser,
        "gradient_bytes": gradients,
        "activation_bytes": max(0, compiled.temp - gradients),
        "parameters": size(state["params"]) + size(frozen),
        "model_flops": 3 * trainer.method.flops() * config.batch_size,
        "collectives": [c._asdict() for c in found],
        "collective_bytes": sum(c.bytes for c in found),
        "wire_bytes": int(traffic),
        "estimate": roofline(trainer, traffic, moved, chip) if compiled.text else {},
        "compile_seconds": round(compiled.seconds, 1),
        "topology": topology,
        "devices": trainer.mesh.size,
        "mesh": sizes,
        "global_batch": config.batch_size,
        "settings": settings,
    }
