"""One table per checkpoint family, read both ways: our parameter path <-> their tensor name.

A rule pairs a path with a name (or names) and gives the layout change as an einops pattern, which
turns around by swapping its sides. Axis sizes come from the shapes that the model expects, so a
table knows no architecture. The file exists so that a new family is a table and nothing else.

Reading `Rule("{t}/blocks/attn/qkv/bias", "{t}.h.{i}.qkv.bias", "l (three h k) -> l h three k")`:
`{t}` may stand for any word, `{i}` runs over the stacked layers (the leading axis l); several names
are stacked on an axis after l.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from einops import rearrange

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.interop.tensors import CODES, HALVES, State, Tensor, from_arrays, of_pieces

Shapes = Mapping[
    str, tuple[int, ...]
]  # our flat path -> shape; batch statistics under `batch_stats/`


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
      ours: path pattern; `{word}` matches one run of letters or digits.
      theirs: name pattern(s) with the same words; `{i}` runs over stacked layers.
      layout: einops pattern from their array (layers and names stacked in front) to ours; "" for
        equal layouts.
      part: (start, stop, of): our array is this share of the first axis of theirs.
      first, step: the numbers of stacked layers: first, first + step, ...
    """

    ours: str
    theirs: str | tuple[str, ...]
    layout: str = ""
    part: tuple[int, int, int] | None = None
    first: int = 0
    step: int = 1


@dataclasses.dataclass(frozen=True)
class Table:
    """The names of one kind of checkpoint.

    Attributes:
      name: for messages.
      rules: what pairs them with ours; the first rule that matches a path counts.
      ignored: regexes of names that hold no weights.
      counters: names written as int64 zero beside the path that they match, for loaders that insist
        on them.
      unsaid: {path: what it is} of lone parameters of ours that these files have no place for.
    """

    name: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    counters: tuple[Rule, ...] = ()
    unsaid: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A rule bound to one of our paths: names of theirs, [layer][name], in `layout`."""

    path: str
    shape: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]
    rule: Rule
    stacked: bool

    @property
    def layout(self) -> str:
        """The rule's, or one that says the same."""
        axes = " ".join(f"a{i}" for i in range(len(self.shape)))
        return self.rule.layout or f"{axes} -> {axes}"

    def sizes(self) -> dict[str, int]:
        """Sizes of the axes that a group on their side needs, taken from our shape."""
        left, right = self.layout.split("->")
        known = {name for group in re.findall(r"\(([^)]*)\)", left) for name in group.split()}
        return {axis: n for axis, n in zip(right.split(), self.shape, strict=True) if axis in known}

    def to_ours(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Our array of theirs, one of each name; of stacked ones a layer, [1, ...]."""
        joined = np.stack(arrays) if len(arrays) > 1 else arrays[0]
        return rearrange(joined[None] if self.stacked else joined, self.layout, **self.sizes())

    def to_theirs(self, array: np.ndarray) -> list[list[np.ndarray]]:
        """The inverse, of some layers or of all: [layer][name]."""
        left, right = self.layout.split("->")
        array = rearrange(array, f"{right.strip()} -> {left.strip()}")
        layers = list(array) if self.stacked else [array]
        return [list(layer) if len(self.names[0]) > 1 else [layer] for layer in layers]

    def cut(self, array: np.ndarray) -> np.ndarray:
        if self.rule.part is None:
            return array
        start, stop, of = self.rule.part
        return array[len(array) * start // of : len(array) * stop // of]


def to_ours(table: Table, state: State, expected: Shapes, what: str) -> dict[str, np.ndarray]:
    """`mapped`, read: {path: array}."""
    return {path: tensor.read() for path, tensor in mapped(table, state, expected, what).items()}


def mapped(table: Table, state: State, expected: Shapes, what: str) -> dict[str, Tensor]:
    """Converts a checkpoint to our flat tree, of tensors that are read, a layer at a time, and
    proven when they are asked for: mapped back they are the input bit for bit. Half precision stays
    in networks, all else (lone numbers and batch statistics, too) becomes float32.

    Args:
      table: the names.
      state: their tensors.
      expected: the shapes of our model.
      what: names file and architecture in messages.

    Raises:
      UserError: every missing, extra and wrong-shaped tensor, in one message; nothing has been read
        then.
    """
    check(table, state, expected, what)
    bound = bind(table, expected)
    _check_shares(table, bound)
    tree = {b.path: _mapped(b, state, what) for b in bound}
    unsaid = {path: value for path, value in table.unsaid.items() if path in expected}
    return tree | from_arrays({path: np.float32(value) for path, value in unsaid.items()})


def _mapped(b: Bound, state: State, what: str) -> Tensor:
    """Our tensor of theirs."""
    dtypes = {state[name].dtype for names in b.names for name in names}
    network = b.shape and not b.path.startswith("batch_stats/")
    half = network and len(dtypes) == 1 and dtypes <= set(HALVES)
    kept = dtypes.pop() if half else np.dtype(np.float32)
    shape = (1, *b.shape[1:]) if b.stacked else b.shape

    def pieces() -> Iterator[np.ndarray]:
        for names in b.names:
            theirs = [b.cut(_numbers(state, name, b)) for name in names]
            theirs = [array if half else array.astype(np.float32) for array in theirs]
            ours = np.ascontiguousarray(b.to_ours(theirs), kept).reshape(shape)
            _prove(b, names, theirs, ours, what)
            yield ours

    if b.stacked:
        return of_pieces(b.shape, kept, pieces)
    return Tensor(b.shape, CODES[kept], lambda: next(pieces()))


def _prove(
    b: Bound, names: Sequence[str], theirs: Sequence[np.ndarray], ours: np.ndarray, what: str
) -> None:
    """Raises RunError for a tensor that mapped back is not the input, bit for bit."""
    (back,) = b.to_theirs(ours)
    for name, array, again in zip(names, theirs, back, strict=True):
        again = again.reshape(array.shape)
        if not np.array_equal(_bits(array), _bits(again)):
            raise RunError(f"{what}: {name} does not survive the way there and back")


def _bits(array: np.ndarray) -> np.ndarray:
    """The numbers as whole numbers."""
    return array.view(f"u{array.dtype.itemsize}")


def _check_shares(table: Table, bound: Sequence[Bound]) -> None:
    """Raises RunError where rules leave out a share of a tensor, or take one twice."""
    shares: dict[str, list[tuple[int, int, int]]] = {}
    for b in bound:
        for name in (name for names in b.names for name in names if b.rule.part):
            shares.setdefault(name, []).append(b.rule.part)
    for name, parts in shares.items():
        ends = [0, *(stop for _, stop, _ in sorted(parts))]
        if [start for start, _, _ in sorted(parts)] + [parts[0][2]] != ends:
            raise RunError(f"{table.name}: rules take {sorted(parts)} of {name}")


def to_theirs(table: Table, tree: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts our flat tree to their names and layouts.

    Raises:
      UserError: paths that the table has no name for.
    """
    parts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for b in bind(table, {path: np.shape(array) for path, array in tree.items()}):
        arrays = b.to_theirs(np.asarray(tree[b.path]))
        for names, layer in zip(b.names, arrays, strict=True):
            for name, array in zip(names, layer, strict=True):
                parts.setdefault(name, []).append((b.rule.part[0] if b.rule.part else 0, array))
    state = {}
    for name, pieces in parts.items():
        pieces = [array for _, array in sorted(pieces, key=lambda piece: piece[0])]
        state[name] = (
            np.ascontiguousarray(np.concatenate(pieces)) if len(pieces) > 1 else pieces[0].copy()
        )
    for path in tree:
        for counter in table.counters:
            if (words := _match(counter.ours, path)) is not None:
                state[counter.theirs.format(**words)] = np.zeros((), np.int64)
    return state


def check(table: Table, state: State, expected: Shapes, what: str) -> None:
    """Compares names and shapes without reading a weight.

    Raises:
      UserError: one line per missing, extra or wrong-shaped tensor.
    """
    wanted = their_shapes(table, expected)
    ignored = [
        name for name in state if any(re.fullmatch(pattern, name) for pattern in table.ignored)
    ]
    present = set(state) - set(ignored)
    lines = [
        f"  missing      {name} {list(wanted[name])}" for name in wanted if name not in present
    ]
    lines += [
        f"  wrong shape  {name} {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in present and _squeeze(state[name].shape) != _squeeze(shape)
    ]
    lines += [
        f"  not known    {name} {list(state[name].shape)}"
        for name in state
        if name in present - set(wanted)
    ]
    if lines:
        counts = f"{len(lines)} of {len(wanted)} tensors do not fit; nothing was loaded"
        raise UserError("\n".join([f"{what}: {counts}", *lines]))


def their_shapes(table: Table, expected: Shapes) -> dict[str, tuple[int, ...]]:
    """Names and shapes that this family's checkpoint has for a model of `expected` shapes."""
    hollow = {path: np.broadcast_to(np.float32(0), shape) for path, shape in expected.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    for b in bind(table, expected):
        for names, layer in zip(b.names, b.to_theirs(hollow[b.path]), strict=True):
            for name, array in zip(names, layer, strict=True):
                first = shapes[name][0] if name in shapes else 0
                shapes[name] = (
                    (first + array.shape[0], *array.shape[1:]) if b.rule.part else array.shape
                )
    return shapes


def bind(table: Table, expected: Shapes) -> list[Bound]:
    """Every path with its rule. Raises UserError for paths that the table has none for."""
    bound, unknown = [], []
    for path, shape in expected.items():
        if path in table.unsaid:
            continue
        for rule in table.rules:
            if (words := _match(rule.ours, path)) is not None:
                bound.append(_bound(rule, path, tuple(shape), words))
                break
        else:
            unknown.append(path)
    if unknown:
        raise UserError(f"{table.name} has no place for: {', '.join(unknown)}")
    return bound


def _bound(rule: Rule, path: str, shape: tuple[int, ...], words: dict[str, str]) -> Bound:
    patterns = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
    stacked = "{i}" in patterns[0]
    last = rule.first + rule.step * shape[0] if stacked else 0
    layers: Iterable[int] = range(rule.first, last, rule.step) if stacked else (0,)
    names = tuple(tuple(pattern.format(i=i, **words) for pattern in patterns) for i in layers)
    return Bound(path, shape, names, rule, stacked)


def _match(pattern: str, path: str) -> dict[str, str] | None:
    if "{" not in pattern:
        return {} if pattern == path else None
    found = _regex(pattern).fullmatch(path)
    return None if found is None else found.groupdict()


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    regex = "".join(
        f"(?P<{part}>[A-Za-z0-9]+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    )
    return re.compile(regex)


def _squeeze(shape: Sequence[int]) -> tuple[int, ...]:
    """Scalars come as [] or [1] (logit_scale); both are the same number."""
    return () if tuple(shape) == (1,) else tuple(shape)


def _numbers(state: State, name: str, bound: Bound) -> np.ndarray:
    array = state[name].read()
    return (
        array.reshape([1] * len(bound.layout.split("->")[0].split())) if not bound.shape else array
    )
