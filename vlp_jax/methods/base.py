"""The contract of a training method (design section 3).

A method is a frozen dataclass whose dataclass fields are its config. It says what it eats
(`fields`), what it is made of (`parts`), its loss (`encode`, `objective`) and what it can do
afterwards (`functions`), all as pure functions of arrays. The trainer, the evaluators and the
converters know this class and no method. The file exists as that one interface.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vlp_jax.core import dispatch
from vlp_jax.core import rng as rngs
from vlp_jax.core.adapters import Adapter
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, batch_spec, present
from vlp_jax.core.inputs import ROWS, Aux, Inputs, Vars, lay, over
from vlp_jax.core.pytree import merge
from vlp_jax.core.schema import build, plain
from vlp_jax.core.types import Array, Extra, Params
from vlp_jax.nn.frozen import as_in_evaluation
from vlp_jax.nn.linear import Linear, adapted, linears

STATS = "batch_stats"


@dataclasses.dataclass(frozen=True)
class Part:
    """A network of a method, or a Leaf.

    Attributes:
      net: takes `rng=` key[B], or None outside training, as every network does.
      inputs: jax.ShapeDtypeStruct (or None) of the arguments of a call that makes every parameter.
      frozen: has no gradient and no optimiser state and runs as in evaluation; `config.freeze` over
        all of its paths says the same. Gradients flow through it to its inputs.
      dtype: of its weights where it is frozen, e.g. "bfloat16"; what learns is float32.
    """

    net: Any
    inputs: tuple[jax.ShapeDtypeStruct | None, ...] = ()
    frozen: bool = False
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter that is no network (a temperature, a mask token), as the `net` of a Part.

    Attributes:
      start: a number, or f(key[]) -> its first value.
    """

    start: float | Callable[[Array], Array]

    def init(self, rng: Array) -> dict[str, Array]:
        """{"params": the first value}; rng: key[]."""
        start = self.start
        return {"params": start(rng) if callable(start) else jnp.float32(start)}


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """Something a method can do, called as `function(v, x)` or `function(v, x, how)`.

    It never trains: x.keys is None, so nothing is augmented or dropped; x.rng holds a key for every
    row that draws.

    Attributes:
      run: f(v, x, how) -> a pytree whose leaves have the rows of x in front, each of its own row
        and key alone.
      reads: {name: Field} of what it takes from the batch; another function's output is a Numbers
        of that function's name.
      how: the class of its options (core/options.py), None where it has none.
      places: tokens at most of what it writes or scores, with the prompt that it goes on from;
        0: it does not say.
    """

    run: Callable[[Vars, Inputs, Any], Any]
    reads: Mapping[str, Field]
    how: type | None = None
    places: int = 0

    def keys(self) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(f.name for f in dataclasses.fields(self.how)) if self.how else ()

    def options(self, given: Any = None, where: str = "how") -> Any:
        """Its options from {key: value}, at their defaults where that says nothing; None where it
        has none. Options are handed back as they are.

        Raises:
          UserError: no mapping, an unknown key or a value of another type; the message names
            `where.key`.
        """
        given = plain(given)
        if given and not isinstance(given, (Mapping, self.how or Mapping)):
            raise UserError(f"{where} is {given!r}, it must be a mapping, {{option: value}}")
        if self.how is None:
            if given:
                raise UserError(f"{where}: this function takes no options")
            return None
        return given if isinstance(given, self.how) else build(self.how, given or {}, where)

    def __call__(self, v: Vars, x: Inputs, how: Any = None) -> Any:
        """Runs it; how: as `options` takes it."""
        return self.run(v, x.replace(train=False), self.options(how))


class _Stages:
    """What a loss is made of: `encode`, `match` where there is one, `objective` (see Method)."""

    coupled: bool = False
    match: Callable[..., tuple[dict, Aux]] | None = None
    encode: Callable[..., tuple[Any, Aux]]
    objective: Callable[..., tuple[Array, Aux]]

    def loss(self, v: Vars, x: Inputs) -> tuple[Array, Aux]:
        """objective(encode(x)), or objective(match(encode(x))); what they hand back is merged."""
        rows, aux = self.encode(v, x)
        if self.match is not None:
            matched, more = self.match(v, rows, rows, x)
            rows, aux = {**rows, **matched}, over(more, aux)
        value, more = self.objective(v, rows, x)
        return value, over(more, aux)


@dataclasses.dataclass(frozen=True)
class Phase(_Stages):
    """One turn of a training step: the loss by which one player alone moves.

    Attributes:
      name: in front of its metrics, NAME_loss, NAME_lr and NAME_grad_norm, but for the first
        phase's, which are the step's.
      encode, objective, coupled: as a Method's.
      player: who moves (Method.players). Other players' parameters are given, run as in training
        and get no gradient.
      start: the first step that plays it; before, its player stays as it is. A program without it
        is compiled for these steps: on CPUs gradients of convolutions under `lax.cond` may take 40
        times as long (nn/convolution.py).
    """

    name: str
    encode: Callable[[Vars, Inputs], tuple[Any, Aux]]
    objective: Callable[[Vars, Any, Inputs], tuple[Array, Aux]]
    player: str
    coupled: bool = False
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Method(_Stages):
    """Base class of all methods.

    Class attributes:
      coupled: True where examples of a batch see each other in the objective (InfoNCE).
      match: f(v, rows, others, x) -> (more rows, Aux), or None: a second stage, again of every
        example by itself, that also sees `others`, the rows of the whole batch (hard negatives:
        losses/mining.py, parallel/rows.py). Its rows are handed on beside those of `encode`.
    """

    coupled: ClassVar[bool] = False
    match: ClassVar[Callable[..., tuple[dict, Aux]] | None] = None

    def __init_subclass__(cls, **how: Any) -> None:
        """Raises TypeError for a second stage of a method that never sees the whole batch."""
        super().__init_subclass__(**how)
        if cls.match is not None and not cls.coupled:
            raise TypeError(f"{cls.__name__}: match sees the whole batch, so coupled must be True")

    def fields(self) -> dict[str, Field]:
        """What a batch holds, by name: all that the method ever reads, `optional` where it may be
        left out.
        """
        raise NotImplementedError(type(self).__name__)

    def parts(self) -> dict[str, Part]:
        """What the method is made of, by name."""
        raise NotImplementedError(type(self).__name__)

    def encode(self, v: Vars, x: Inputs) -> tuple[Any, Aux]:
        """Rows: a pytree of [B, ...], each row of its own example alone."""
        raise NotImplementedError(type(self).__name__)

    def objective(self, v: Vars, rows: Any, x: Inputs) -> tuple[Array, Aux]:
        """(float32[] loss, Aux) of rows. Where the method is coupled these are always the whole
        batch. Otherwise loss and metrics are the shares of the rows at hand (Inputs.share), which
        add up over micro-batches.
        """
        raise NotImplementedError(type(self).__name__)

    def players(self) -> dict[str, tuple[str, ...]]:
        """Who moves which parts, {player: parts}, each part that learns once; {} where one
        optimiser moves all.
        """
        return {}

    def phases(self) -> tuple[Phase, ...]:
        """In place of `encode` and `objective` where there are players: the turns of a step in
        order, each after the update of the one before.
        """
        return ()

    def playing(self, step: int) -> tuple[str, ...]:
        """Names of the phases of a step (Inputs.phases)."""
        return tuple(phase.name for phase in self.phases() if step >= phase.start)

    def check_batch(self, batch_size: int) -> None:
        """Before anything is compiled. Raises UserError for a batch that it cannot take."""
        if self.coupled and batch_size < 2:
            raise UserError("batch_size=1: a contrastive loss needs at least 2 examples")

    def totals(self, x: Inputs) -> dict[str, Array]:
        """Denominators of the whole batch x: its rows; a method adds what else it divides by."""
        return {ROWS: jnp.float32(len(x.index))}

    def state(self, v: Vars, rng: Array) -> Extra:
        """Extra state beside the batch statistics (queues, teachers, codebooks) when the first
        weights are in place; rng: key[].
        """
        del v, rng
        return {}

    def follow(self, v: Vars, step: Array) -> Extra:
        """Entries of the extra state that follow the parameters after an update; step: updates
        done.
        """
        del v, step
        return {}

    def project(self, params: Params) -> Params:
        """Re-imposes constraints on the trained parameters after an update (a clamp)."""
        return params

    def functions(self) -> dict[str, Function]:
        """What the method can do afterwards: embed_image, embed_text, features, ..."""
        return {}

    def scale(self, params: Params) -> Array | None:
        """float32[], the factor of its cosines before a softmax; None where it has none."""
        del params
        return None

    def flops(self, text_length: int | None = None) -> float:
        """Model FLOPs of one example's forward pass (2 x multiply-adds); 0 where unknown.

        Args:
          text_length: tokens of its text where they are fewer than the field's.
        """
        del text_length
        return 0.0

    # What follows from the above.

    @cached_property
    def _parts(self) -> dict[str, Part]:
        return self.parts()

    @property
    def changes(self) -> tuple[str, ...]:
        """Config keys that change pictures in training."""
        return ()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Path regexes of what is frozen."""
        return tuple(f"{re.escape(n)}(/.*)?" for n, part in self._parts.items() if part.frozen)

    def stored(self, frozen: Params) -> Params:
        """Frozen leaves of {part: ...} in the dtypes of their parts."""
        dtypes = {name: part.dtype for name, part in self._parts.items()}
        cast = lambda tree, dtype: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)  # noqa: E731
        return {name: cast(tree, dtypes[name]) for name, tree in frozen.items()}

    @cached_property
    def _linears(self) -> dict[str, Linear]:
        nets = {n: part for n, part in self._parts.items() if not isinstance(part.net, Leaf)}
        return {
            f"{name}/{path}": its
            for name, part in nets.items()
            for path, its in linears(part.net, part.inputs).items()
        }

    def adapters(self, rank: int) -> dict[str, Adapter]:
        """{path of a kernel: shapes of its adapter (core/adapters.py)} of all that can have one."""
        return {path: its.adapter(rank) for path, its in self._linears.items()}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one global batch without optional fields."""
        return batch_spec(present(self.fields()), batch_size)

    def init(self, rng: Array) -> tuple[Params, Extra]:
        """Fresh parameters {part: ...} and their batch statistics; rng: key[]. Called under jit and
        `eval_shape`.
        """
        params, stats = {}, {}
        for name, part in self._parts.items():
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), part.inputs)
            made = part.net.init(rngs.fold(rng, name), *zeros)
            if "params" in made:
                params[name] = made["params"]
            if STATS in made:
                stats[name] = made[STATS]
        return params, {STATS: stats} if stats else {}

    def fresh(self, rng: Array) -> Vars:
        """Everything at its start; rng: key[]."""
        params, stats = self.init(rng)
        return Vars(params, lay(self.state(Vars(params, stats), rng), stats))

    def apply(
        self,
        name: str,
        v: Vars,
        x: Inputs,
        *args: Any,
        moves: bool = False,
        net: Any = None,
        **how: Any,
    ) -> Any:
        """Runs a part on `args`: in training with the part's own keys, unless it is frozen.

        Args:
          moves: hand the changed batch statistics back too: (output, extra).
          net: another form of the part's network, on the same parameters.
          **how: further arguments of the network.

        Raises:
          TypeError: a part with BatchNorm trains and nobody takes its statistics.
        """
        part = self._parts[name]
        learns = x.train and not part.frozen
        rng = rngs.fold(x.rng, name) if learns else None
        variables = {"params": v.params.get(name, {})}
        stats = v.extra.get(STATS, {}).get(name)
        if stats is not None:
            variables[STATS] = stats
        net = net or part.net
        if stats is None or not learns:
            with adapted(variables["params"]):
                out = net.apply(variables, *args, rng=rng, **how)
            return (out, {}) if moves else out
        if not moves:
            raise TypeError(f"{name} has batch statistics, which move in training: moves=True")
        with adapted(variables["params"]):
            out, moved = net.apply(variables, *args, rng=rng, mutable=[STATS], **how)
        return out, {STATS: {name: moved[STATS]}}

    def share_out(self, params: Params) -> dict[str, Params]:
        """Parameters of {part: ...} by player, those of nobody (all frozen) left out.

        Raises:
          TypeError: a part that learns has no player, or two.
        """
        owners = [part for parts in self.players().values() for part in parts]
        if wrong := [part for part in params if owners.count(part) != 1]:
            raise TypeError(f"{type(self).__name__}.players: {wrong[0]} needs just one player")
        found = {
            player: {part: params[part] for part in parts if part in params}
            for player, parts in self.players().items()
        }
        return {player: tree for player, tree in found.items() if tree}


def run(fn: Callable[..., Any], params: Params, frozen: Params, extra: Extra, *args: Any) -> Any:
    """`fn(Vars, *args)` of a method, what is frozen as in evaluation."""
    whole = merge(params, frozen)
    with as_in_evaluation(whole, frozen):
        return fn(Vars(whole, extra), *args)


def make_method(config: Mapping[str, Any]) -> Method:
    """Builds the method `config["name"]` from its mapping.

    The class is found by its base: a file methods/NAME.py holds exactly one Method of its own.

    Raises:
      UserError: unknown method or field.
    """
    config = plain(config)
    name = config.pop("name", "")
    return build(dispatch.find("methods", name, Method, "method.name"), config, "method")
