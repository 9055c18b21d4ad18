"""A method's functions as programs: the one place that compiles them.

The file exists so that evaluation, the embedding of own pictures and `forward` give a row the same
numbers, whatever batch and devices it is computed on.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Cached, Field, Numbers, batch_spec, present
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.core.types import Array, Batch, Extra, HostBatch, Params
from vlp_jax.data.device import to_device
from vlp_jax.data.mixture import manifests
from vlp_jax.methods.base import Function, Method
from vlp_jax.parallel.mesh import batch_sharding, replicated

Program = Callable[..., Any]


def compiled(method: Method, name: str, out_shardings: Any = None, **options: str) -> Program:
    """A function of a method as f(params, extra, batch, index=None, how=None) -> a tree of
    [B, ...], compiled once for the batch's shapes and the options that are no floats.

    Its arguments: batch, of which it takes what the function reads; index int32[B] numbers the rows
    in their data set, and with that their keys, so that no draw depends on the batch that a row
    comes in (without it: 0, 1, ...; -1 for padding); how: options or {key: value}.

    options: of the compiler (parallel/widening.py).

    Whoever asks the same method object again gets the same program, so that a notebook's second
    call compiles nothing.

    Raises:
      UserError: the method has no such function, or it has no such options.
    """
    made = vars(method).setdefault("_compiled", {})  # beside its cached properties
    key = name, out_shardings, *options.items()
    if key not in made:
        made[key] = _compiled(method, name, out_shardings, options)
    return made[key]


def _compiled(method: Method, name: str, out_shardings: Any, options: dict[str, str]) -> Program:
    """A new one."""
    function = find(method, name)
    arrays, whole = batch_spec(function.reads, 1).keys(), batch_spec(present(method.fields()), 1)

    def run(params: Params, extra: Extra, batch: Batch, index: Array, how: Any) -> Any:
        x = Inputs.of(batch, index=index)
        if whole.keys() <= batch.keys():  # else there is not all that a total is made of
            x = x.replace(totals=method.totals(x))
        return function(Vars(params, extra), x, how)

    program = jax.jit(run, out_shardings=out_shardings, compiler_options=options or None)

    def call(params: Params, extra: Extra, batch: Batch, index: Any = None, how: Any = None) -> Any:
        if index is None:
            index = np.arange(len(jax.tree.leaves(batch)[0]), dtype=np.int32)
        how = jax.tree.map(float, function.options(how))
        read = {array: batch[array] for array in arrays if array in batch}
        return program(params, extra, read, index, how)

    return call


def find(method: Method, name: str) -> Function:
    """A function of a method by name. Raises UserError, with the nearest one."""
    offered = method.functions()
    if name not in offered:
        hint = nearest(name, offered)
        raise UserError(f"{type(method).__name__} has no function {name!r}{hint}")
    return offered[name]


def taken(method: Method) -> list[str]:
    """The functions whose outputs the method takes from a batch in place of what they read: those
    that it names as optional Numbers too."""
    offered = method.functions()
    fields = method.fields().items()
    return [n for n, f in fields if isinstance(f, Numbers) and f.optional and n in offered]


def seen_weights(method: Method, name: str, params: Params, extra: Extra) -> set[str]:
    """Paths of the weights that a function's output may depend on; params, extra: their shapes,
    adapters among them. Nothing is compiled."""
    function = find(method, name)
    run = lambda params, extra, batch: function(Vars(params, extra), Inputs.of(batch))  # noqa: E731
    traced = jax.make_jaxpr(run)(params, extra, batch_spec(function.reads, 1)).jaxpr
    known = lambda names: {v for v in names if not hasattr(v, "val")}  # noqa: E731  (no literals)
    alive = known(traced.outvars)
    for step in reversed(traced.eqns):
        if alive & set(step.outvars):
            alive |= known(step.invars)
    return {path for path, v in zip(flatten(params), traced.invars, strict=False) if v in alive}


def check_learned(
    method: Method, names: Iterable[str], params: Params, extra: Extra, learned: Params
) -> None:
    """Raises UserError where weights learn that a cache of these functions was made with: no
    gradient reaches them through it. params, extra: shapes of all weights; learned: of those."""
    for name in names:
        lost = sorted(seen_weights(method, name, params, extra) & flatten(learned).keys())
        if lost:
            what = f"{lost[0]} ({len(lost)} such) cannot learn where data.path is a cache of {name}"
            raise UserError(f"adapt: {what}; leave it out of adapt.paths, or make one without it")


def beside(reads: Mapping[str, Field], fields: Mapping[str, Field]) -> dict[str, Field]:
    """What shares the random draws of the fields that a function reads, and what their pictures
    tell of themselves: all that a cache must keep beside an output."""
    groups = {field.of or name for name, field in reads.items()}
    found = {n: f for n, f in fields.items() if n not in reads and (f.of or n) in groups}
    for name, field in reads.items():
        told = [f"{name}_{what}" for what in getattr(field, "tell", ())]
        spec = field.spec(name, 1)
        found |= {n: Numbers(spec[n].shape[1:], str(spec[n].dtype)) for n in told}
    return found


def cached_fields(method: Method, fields: Mapping[str, Field], path: str) -> dict[str, Cached]:
    """The fields that the caches of `data.path` give in place of others, {} where it names none.

    Args:
      fields: those of a batch without a cache.

    Raises:
      UserError: an unfinished cache, or one without an array that belongs to the others.
    """
    known = manifests(path)
    held = [n for n in taken(method) if known and all(n in one["arrays"] for one in known)]
    return stand_ins(method, fields, held)


def stand_ins(
    method: Method, fields: Mapping[str, Field], names: Iterable[str]
) -> dict[str, Cached]:
    """The fields of a batch that a cache of these functions' outputs holds; fields, names: those of
    a batch without a cache, and of `taken`."""
    found = {}
    for name in names:
        reads = method.functions()[name].reads
        found[name] = Cached(method.fields()[name], reads=reads)
        found |= {n: Cached(field) for n, field in beside(reads, fields).items()}
    return found


def share_options(
    functions: Mapping[str, Function], how: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """{function: its options} from one {key: value}, of which each takes the keys that it knows.

    Raises:
      UserError: a key that none of them knows, or a value of another type; names `where.key`.
    """
    known = {name: function.keys() for name, function in functions.items()}
    valid = set().union(*known.values())
    for key in how:
        if key not in valid:
            raise UserError(f"{where}.{key}: unknown key{nearest(key, valid)}")
    own = {name: {k: how[k] for k in how if k in keys} for name, keys in known.items() if keys}
    return {name: functions[name].options(given, where) for name, given in own.items()}


class Embedder:
    """The method's functions on a mesh, compiled once per function and batch shape."""

    def __init__(self, method: Method, mesh: Mesh):
        whole = replicated(mesh)
        self._mesh, self._gather = mesh, jax.jit(lambda index: index, out_shardings=whole)
        self._fns = {name: compiled(method, name, whole) for name in method.functions()}

    def bind(self, params: Params, extra: Extra) -> dict[str, Program]:
        """{name: f(batch, how=None)} -> (rows, a tree of [B, ...], and int32[B] index) on every
        host, of a host-local padded batch that holds `index` int32[b] too, -1 where a row is
        padding.
        """

        def bound(fn: Program) -> Program:
            def call(batch: HostBatch, how: Any = None) -> tuple[Any, np.ndarray]:
                with jax.set_mesh(self._mesh):
                    batch = to_device(batch, batch_sharding(self._mesh))
                    index = batch.pop("index")
                    rows = fn(params, extra, batch, index, how)
                    return jax.device_get((rows, self._gather(index)))

            return call

        return {name: bound(fn) for name, fn in self._fns.items()}
