"""What is frozen runs as in evaluation: no dropout, BatchNorm by its running statistics, which stay
as they are.

A module counts as frozen where it has parameters and all of them are; flax's interceptor finds it
by them. The file exists so that `freeze` is one rule, of which methods and networks need not know.
"""

import contextlib
import contextvars
import inspect
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.pytree import flatten
from vlp_jax.core.types import Array, Params

SWITCHES = {"train": False, "use_running_average": True}  # arguments, as evaluation sets them


class _Frozen:
    """Parameters by their place: those that are frozen, and where the running network lies."""

    def __init__(self, params: Params, frozen: Params):
        self.paths, self.frozen = set(flatten(params)), set(flatten(frozen))
        self.places = {id(leaf): path for path, leaf in flatten(params).items()}
        self.network = ""

    def holds(self, path: str) -> bool:
        """Whether a module has parameters and all of them are frozen."""
        own = [place for place in self.paths if place.startswith(f"{path}/")]
        return bool(own) and self.frozen.issuperset(own)

    def find(self, module: nn.Module) -> str:
        """Where the parameters of a network stand, by the first that is known; "?" where none is,
        as of a teacher's. What has none belongs to the network around it.
        """
        own = flatten(module.variables.get("params", {}))
        for path, leaf in own.items():
            place = self.places.get(id(leaf), "")
            if f"/{place}".endswith(f"/{path}"):
                return place.removesuffix(path).rstrip("/")
        return "?" if own else self.network

    def __call__(self, run: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        """The interceptor of all methods of modules."""
        module, outside = context.module, self.network
        if module.scope is None:  # a method of sizes alone
            return run(*args, **kwargs)
        if not module.scope.path:
            self.network = self.find(module)
        try:
            if self.holds(_join(self.network, *module.scope.path)):
                args, kwargs = _quiet(context.orig_method, args, kwargs)
            return run(*args, **kwargs)
        finally:
            self.network = outside


def _join(*names: str) -> str:
    return "/".join(filter(None, names))


def _quiet(method: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of a call without its random keys, and with SWITCHES."""
    call = inspect.signature(method).bind(*args, **kwargs)
    for name, value in call.arguments.items():
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = None
        call.arguments[name] = SWITCHES.get(name, value)
    return call.args, call.kwargs


_now: contextvars.ContextVar[_Frozen | None] = contextvars.ContextVar("frozen", default=None)


@contextlib.contextmanager
def as_in_evaluation(params: Params, frozen: Params) -> Iterator[None]:
    """While it is open, networks that are given leaves of `params` (everything) run those of them
    that are `frozen` as in evaluation.
    """
    if not frozen:
        yield
        return
    now = _Frozen(params, frozen)
    token = _now.set(now)
    try:
        with nn.intercept_methods(now):
            yield
    finally:
        _now.reset(token)


def keys_beside(name: str, rng: Array | None) -> Array | None:
    """key[B] of what happens right after the module `name` of the running network or method: None
    where that module is frozen.
    """
    now = _now.get()
    return None if now and now.holds(_join(now.network, name)) else rng
