"""Any function of a model on arrays as they are: no decoding, no cropping, no tokens added.

The file exists so that a model's numbers can be laid beside a reference's: both are handed the same
arrays.
"""

import ast
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.api.files import check_npz, read_npz, write_npz
from vlp_jax.api.model import Model, load_model
from vlp_jax.api.placement import runner, shapes
from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.fields import ANY, Field, Label, Numbers, Picture, Text
from vlp_jax.core.inputs import Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.core.schema import plain
from vlp_jax.methods.base import Function, Method
from vlp_jax.parallel.startup import first_process, start_jax
from vlp_jax.train.functions import find

_SIZES = {*"HWhwS"}  # letters of sizes that may be any


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An array that a function reads or writes.

    Attributes:
      dtype: its name; shape: numbers, B (rows), T (tokens) and K (texts of a row), and of those of
        any size H and W (pixels), h and w (places of a map), S (states); usual: these in numbers.
      most: the longest T; 0 where it has none.
      optional: may be left out.
      below: whole numbers lie in [0, below); 0: any.
    """

    dtype: str
    shape: tuple[int | str, ...]
    most: int = 0
    optional: bool = False
    below: int = 0
    usual: tuple[int, ...] = ()

    def __str__(self) -> str:
        tokens = f", T at most {self.most}" if self.most else ""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]{tokens}"


def reads(function: Function) -> dict[str, Wanted]:
    """{array: what it must be} of a function."""
    found = {}
    for name, field in function.reads.items():
        most = field.most or field.length if isinstance(field, Text) else 0
        for array, spec in field.spec(name, 1).items():
            shape = list(spec.shape[1:])
            if most:
                shape = (["K"] if field.count == ANY else shape[:-1]) + ["T"]
            letters = _free(field) if array == name else ""
            shape[: len(letters)] = letters
            optional = field.optional or array == f"{name}_mask"
            below = 0 if array != name else _below(field)
            usual = spec.shape[1:]
            found[array] = Wanted(spec.dtype.name, ("B", *shape), most, optional, below, usual)
    return found


def _free(field: Field) -> str:
    """The letters of the first sizes of its rows, where any will do."""
    if isinstance(field, Picture):
        return "HW" if field.free else ""
    if isinstance(field, Numbers):
        return ("hw" if len(field.shape) == 3 else "S")[: field.free]
    return ""


def writes(method: Method, name: str, v: Vars) -> dict[str, Wanted]:
    """{array: what it is} of a function's results, by their paths."""
    function = find(method, name)
    fields = {key: field for key, field in function.reads.items() if not field.optional}
    wanted = reads(dataclasses.replace(function, reads=fields))
    most = max((array.most for array in wanted.values()), default=0)
    usual = {
        letter: size
        for array in wanted.values()
        for letter, size in zip(array.shape[1:], array.usual, strict=True)
        if isinstance(letter, str) and letter in _SIZES
    }
    sizes = {"B": 2, "T": most, "K": 2} | usual
    # each other number that follows one of these is named so
    others = {"T": {"T": max(most - 1, 1)}, "K": {"K": 3}} if most else {}
    for letters in ("hH", "wW", "S"):  # a picture and its map grow together
        if grown := {letter: 2 * usual[letter] for letter in letters if letter in usual}:
            others[next(iter(grown))] = grown

    def out(**changes: int) -> dict[str, jax.ShapeDtypeStruct]:
        own = sizes | changes
        batch = {
            array: jax.ShapeDtypeStruct([own.get(n, n) for n in what.shape], what.dtype)
            for array, what in wanted.items()
        }
        return named(shapes(method, name, v, batch))

    first, more = out(), {name: out(**grown) for name, grown in others.items()}
    found = {}
    for path, leaf in first.items():
        shape = ["B", *leaf.shape[1:]]
        for name, other in more.items():
            moved = zip(shape, leaf.shape, other[path].shape, strict=True)
            shape = [
                _times(name, old, sizes[name]) if new != old else said for said, old, new in moved
            ]
        found[path] = Wanted(_kept(leaf.dtype).name, tuple(shape))
    return found


def _times(letter: str, size: int, of: int) -> str:
    """h of a size that follows it, 8h of one that is eight times as large, h/8."""
    if letter in "TK" or size == of:
        return letter
    return f"{size // of}{letter}" if size > of else f"{letter}/{of // size}"


def functions(model: Model) -> dict[str, dict[str, Any]]:
    """{function: {reads, writes, options}}: arrays by name as Wanted, options at their defaults."""
    v = Vars(model.params, model.extra)
    return {
        name: {
            "reads": reads(function),
            "writes": writes(model.method, name, v),
            "options": dataclasses.asdict(function.options()) if function.how else {},
        }
        for name, function in sorted(model.method.functions().items())
    }


def forward(
    model: Model,
    name: str,
    arrays: Mapping[str, np.ndarray],
    options: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Runs a function of a model on whole batches, its products in full float32.

    Args:
      model: of load_model.
      name: of the function.
      arrays: what it reads. Pictures are uint8[B, S, S, 3] of the model's size and are only
        normalised by its own mean and deviation; ids int32[B, T] are used exactly as given;
        NAME_mask is bool or 0 and 1, 1 is real, absent: all are.
      options: {key: value}.

    Returns:
      its results under their paths joined by `/`, a lone array as `out`; bfloat16 as float32.

    Raises:
      UserError: an unknown function or option, and arrays that are missing, unknown, or of another
        shape, dtype or range.
    """
    offered = model.method.functions()
    if name not in offered:
        raise UserError(f"--fn={name}: no such function{nearest(name, offered)}")
    function = offered[name]
    how = function.options(options or {}, "--set")
    others = set().union(*(reads(other) for other in offered.values()))
    batch = checked(function, arrays, name, others)
    run = runner(model.method, name, Vars(model.params, model.extra), model.mesh)
    out = run(batch, how)
    return {path: leaf.astype(_kept(leaf.dtype)) for path, leaf in named(out).items()}


def checked(
    function: Function,
    arrays: Mapping[str, np.ndarray],
    name: str,
    others: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """The batch that the arrays make; those that only `others` read are left alone. Raises
    UserError as `forward`.
    """
    wanted = reads(function)
    texts = [n for n, field in function.reads.items() if isinstance(field, Text)]
    needless = {f"{text}_mask" for text in texts} - wanted.keys()
    for array in arrays:
        if array not in {*wanted, *needless, *others, *(f"{other}_mask" for other in others)}:
            raise UserError(
                f"--inputs: {array}: {name} reads no such array{nearest(array, wanted)}"
            )
    for array, what in wanted.items():
        if not what.optional and array not in arrays:
            raise UserError(f"--inputs: lacks {array}, {what}, which {name} reads")
    sizes: dict[str, int] = {}
    batch = {}
    for array, what in wanted.items():
        if array in arrays:
            batch[array] = _checked(array, arrays[array], what, sizes)
    for text in texts:
        mask = f"{text}_mask"
        if text not in batch:  # an optional one
            if mask in batch:
                raise UserError(f"--inputs: {mask}: there is no {text}, which it would mask")
            continue
        real = np.ones(batch[text].shape, bool)
        if mask in needless & arrays.keys():
            given = _checked(mask, arrays[mask], Wanted("bool", ("B", f"T of {text}")), dict(sizes))
            if function.reads[text].cut:  # nothing after the end counts, so it may be hidden
                real = np.arange(real.shape[1]) <= batch[text].argmax(1)[:, None]
            if given.shape != batch[text].shape or not given[real].all():
                raise UserError(f"--inputs: {mask}: hides tokens, but {name} takes no mask")
        elif mask in wanted:
            batch.setdefault(mask, real)
            if batch[mask].shape != real.shape:
                raise UserError(f"--inputs: {mask}: {_shown(batch[mask])}, {text} has {real.shape}")
    return batch


def _checked(name: str, array: np.ndarray, wanted: Wanted, sizes: dict[str, int]) -> np.ndarray:
    """The array in the wanted dtype; `sizes` collects B.

    Raises:
      UserError: another dtype, shape or number of rows, or a number out of range.
    """
    if not isinstance(array, np.ndarray | jax.Array):
        kind = type(array).__name__
        raise UserError(f"--inputs: {name}: a {kind}, must be an array, {wanted}")
    start, refused = f"--inputs: {name}: {_shown(array)}", f"must be {wanted}"
    fits = array.ndim == len(wanted.shape) and all(
        n == m or isinstance(m, str) for n, m in zip(array.shape, wanted.shape, strict=True)
    )
    if not fits or not array.size or (wanted.most and array.shape[-1] > wanted.most):
        raise UserError(f"{start}, {refused}")
    if sizes.setdefault("B", len(array)) != len(array):
        raise UserError(f"{start}, other arrays have {sizes['B']} rows")
    whole = np.issubdtype(array.dtype, np.integer)
    if wanted.dtype == "bool" and whole and np.isin(array, (0, 1)).all():
        return array.astype(bool)
    if not (array.dtype.name == wanted.dtype or (wanted.dtype == "int32" and whole)):
        raise UserError(f"{start}, {refused}")
    limits = np.iinfo(np.int32)
    least, most = (0, wanted.below - 1) if wanted.below else (limits.min, limits.max)
    if whole and wanted.dtype == "int32" and not (least <= array.min() and array.max() <= most):
        raise UserError(f"--inputs: {name}: {array.min()} to {array.max()}, not {least} to {most}")
    return array.astype(wanted.dtype)


def named(tree: Any) -> dict[str, Any]:
    """{path: leaf} of a function's result, {`out`: it} of a lone array."""
    found = flatten(tree)
    if len(found) < len(jax.tree.leaves(tree)):
        raise RunError("two results of the function have one path")
    return {path or "out": leaf for path, leaf in found.items()}


def parse_options(function: Function, words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as {key: value}, by the types of the function's options.

    Raises:
      UserError: a word without `=`.
    """
    fields = dataclasses.fields(function.how) if function.how else ()
    texts = {field.name for field in fields if field.type in (str, "str")}
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--set={word}: must be KEY=VALUE")
        found[key] = value if key in texts else _value(value)
    return found


def run_file(
    checkpoint: str, name: str, inputs: str, out: str, words: Sequence[str], sharding: str = ""
) -> dict[str, Any]:
    """`forward` of arrays in an .npz into another; returns {function, out, arrays: {path: its
    kind}}.

    Raises:
      UserError: as `forward`, and files that cannot be read or written, before anything is loaded.
    """
    check_npz(out)
    arrays = read_npz(inputs)
    start_jax()
    model = load_model(checkpoint, sharding)
    function = model.method.functions().get(name)
    options = parse_options(function, words) if function else {}
    found = forward(model, name, arrays, options)
    if first_process():
        write_npz(out, found)
    return {"function": name, "out": out, "arrays": {k: _shown(a) for k, a in found.items()}}


def list_functions(checkpoint: str, sharding: str = "") -> dict[str, Any]:
    """`functions` of a checkpoint as plain values: {checkpoint, functions}."""
    start_jax()
    found = functions(load_model(checkpoint, sharding))

    def said(arrays: Mapping[str, Wanted]) -> dict[str, Any]:
        limits = ("most", "below", "usual")  # 0: there is none
        return {
            name: {k: v for k, v in plain(vars(what)).items() if v or k not in limits}
            | {"text": str(what)}
            for name, what in arrays.items()
        }

    return {
        "checkpoint": checkpoint,
        "functions": {
            name: {**parts, "reads": said(parts["reads"]), "writes": said(parts["writes"])}
            for name, parts in found.items()
        },
    }


def _below(field: Field) -> int:
    if isinstance(field, Text):
        return field.vocab_size
    return field.classes if isinstance(field, Label) else 0


def _kept(dtype: Any) -> np.dtype:
    """What an .npz can hold of a dtype."""
    return np.dtype(np.float32) if dtype == jnp.bfloat16 else np.dtype(dtype)


def _shown(array: np.ndarray) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _value(text: str) -> Any:
    """'3' -> 3, 'true' -> True; what is no literal -> itself."""
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text
