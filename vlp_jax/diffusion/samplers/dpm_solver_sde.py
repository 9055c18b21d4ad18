"""SDE-DPM-Solver++(2M): dpm_solver.py with new noise in every step.

The file exists so that it has a name of its own.
"""

from vlp_jax.core.options import options
from vlp_jax.diffusion.samplers.dpm_solver import DpmSolver


@options
class DpmSolverSde(DpmSolver):
    """Options as DpmSolver's."""

    draws = True
    sde = True
