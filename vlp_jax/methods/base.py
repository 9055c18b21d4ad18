"""The contract of a training method (design section 3).

A method is a frozen dataclass whose fields are its config; everything it does is a pure function of
arrays. The trainer, the evaluators and the converters know this class and no method. The file
exists as that one interface.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import merge
from vlp_jax.core.schema import build, plain
from vlp_jax.core.types import Array, Aux, Batch, EvalFn, Extra, Params
from vlp_jax.nn.frozen import as_in_evaluation


@dataclasses.dataclass(frozen=True)
class Method:
    """Base class of all methods.

    Class attributes:
      frozen: path regexes of parameters without gradient or optimiser state (config `freeze` adds
        to them).
      batch_coupled: True where examples of a batch see each other in the objective (InfoNCE).
      needs_colour: True where grey pictures teach nothing.
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    batch_coupled: ClassVar[bool] = False
    needs_colour: ClassVar[bool] = False

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one global batch."""
        raise NotImplementedError(type(self).__name__)

    def init(self, rng: Array, batch: Batch) -> tuple[Params, Extra]:
        """Fresh parameters and extra state; rng: key[]. Called under jit and `eval_shape`."""
        raise NotImplementedError(type(self).__name__)

    def encode(
        self, params: Params, extra: Extra, batch: Batch, *, rng: Array | None, step: Array
    ) -> tuple[Any, Aux]:
        """Per-example representations. rng: key[B], one per example, or None for a deterministic
        pass.
        """
        raise NotImplementedError(type(self).__name__)

    def objective(
        self, params: Params, representations: Any, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """(float32[] loss, metrics) of a whole batch; may couple its examples."""
        raise NotImplementedError(type(self).__name__)

    def loss(
        self, params: Params, extra: Extra, batch: Batch, *, rng: Array | None, step: Array
    ) -> tuple[Array, Aux]:
        """objective(encode(batch)); metrics of both are merged."""
        representations, aux = self.encode(params, extra, batch, rng=rng, step=step)
        value, metrics = self.objective(params, representations, batch)
        return value, Aux({**aux.metrics, **metrics}, aux.extra)

    def project(self, params: Params) -> Params:
        """Re-imposes constraints on the trained parameters after an update (a temperature's
        clamp).
        """
        return params

    def after_update(self, params: Params, extra: Extra) -> Extra:
        """Extra state that follows the parameters: EMA teachers, queues, codebooks."""
        del params
        return extra

    def eval_fns(self) -> dict[str, EvalFn]:
        """Name -> f(params, extra, batch) -> rows; names: embed_image, embed_text, features, ...
        (design section 3).
        """
        return {}

    @property
    def ignores_padding(self) -> bool:
        """True where nothing after a text's end token can change the loss, so that batches may be
        cut to their longest text (data.buckets).
        """
        return False

    def flops(self, text_length: int | None = None) -> float:
        """Model FLOPs of one example's forward pass (2 x multiply-adds); 0 where unknown.

        Args:
          text_length: tokens of its text where they are fewer than batch_spec's.
        """
        del text_length
        return 0.0


def run(fn: Callable[..., Any], params: Params, frozen: Params, *args: Any, **how: Any) -> Any:
    """`fn(params and frozen, *args, **how)` of a method, what is frozen as in evaluation."""
    whole = merge(params, frozen)
    with as_in_evaluation(whole, frozen):
        return fn(whole, *args, **how)


def make_method(config: Mapping[str, Any]) -> Method:
    """Builds the method `config["name"]` from its mapping.

    The class is found by its base: a file methods/NAME.py holds exactly one Method of its own.

    Raises:
      UserError: unknown method or field.
    """
    config = plain(config)
    name = config.pop("name", "")
    module = dispatch.load("methods", name, "method.name")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise UserError(f"method.name: methods/{name}.py must define one Method, found {len(own)}")
    return build(own[0], config, "method")
