"""Conditions on metadata: `COLUMN=VALUE` of a command line or a query to rows that fulfil it.

What a column holds is decided once for all files of an index: numbers, switches, times or, where
files differ, texts; then the value must be one of them, and is compared exactly. The file exists so
that a condition that cannot be meant as it stands is refused and never silently empty.
"""

import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.core.errors import UserError, nearest

_CONDITION = re.compile(r"\s*([^=!<>~]+?)\s*(==|!=|<>|>=|<=|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_SPELLED = {"==": "=", "<>": "!="}
_COMPARE = {
    **{"=": operator.eq, "!=": operator.ne, ">": operator.gt},
    **{"<": operator.lt, ">=": operator.ge, "<=": operator.le},
}
_SWITCHES = {
    **dict.fromkeys(("true", "1", "yes"), True),
    **dict.fromkeys(("false", "0", "no"), False),
}
_QUOTES = ("'", '"')


class Condition(NamedTuple):
    """text: as it was typed; compare: one of = != < <= > >= ~; value: without its quotes."""

    text: str
    column: str
    compare: str
    value: str


def parse(text: str, columns: Sequence[str]) -> Condition:
    """A condition as it was typed. `==` is `=`, `<>` is `!=`; a value may stand in quotes.

    >>> parse("style == 'noto'", ["style"])[1:]
    ('style', '=', 'noto')

    Raises:
      UserError: it is none, or there is no such column.
    """
    found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if not found:
        raise UserError(f"where: {text!r} is no condition like style=noto or width>=64")
    column, compare, value = found[1], _SPELLED.get(found[2], found[2]), found[3]
    if column not in columns:
        raise UserError(f"where: no column {column!r}{nearest(column, columns)}")
    if compare != "~" and value[:1] in {"=", "<", ">", "~"}:
        known = f"{' '.join(_COMPARE)} and ~ are; a value may be in quotes"
        raise UserError(f"where: {text!r}: {compare}{value[0]} is no comparison, {known}")
    if len(value) > 1 and value[0] in _QUOTES and value[-1] == value[0]:
        value = value[1:-1]
    return Condition(text, column, compare, value)


def kind_of(arrow: Any, dtype: Any) -> str:
    """What a column of an Arrow type holds, of lists their elements: 'number', 'switch', 'time',
    'text', or '' for nothing but missing values."""
    types = arrow.types
    while types.is_nested(dtype) and hasattr(dtype, "value_type"):
        dtype = dtype.value_type
    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    if types.is_null(dtype):
        return ""
    if types.is_boolean(dtype):
        return "switch"
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        return "number"
    timed = types.is_date(dtype) or types.is_timestamp(dtype) or types.is_time(dtype)
    return "time" if timed else "text"


def rows_of(arrow: Any, cells: Any, condition: Condition, kind: str) -> np.ndarray:
    """bool[n]: which cells of a column fulfil a condition. kind: of the column in all files. Raises
    UserError where the value is none of its kind.
    """
    fulfilled = _predicate(condition, kind, _narrow(cells))
    if arrow.types.is_timestamp(cells.type) and cells.type.unit == "ns":
        cells = cells.cast(arrow.timestamp("us", cells.type.tz), safe=False)
    try:
        distinct = cells.dictionary_encode()  # each distinct value is looked at once
        values, at = distinct.dictionary.to_pylist(), distinct.indices
    except (arrow.ArrowNotImplementedError, AttributeError):  # lists, and what it has no hash of
        return np.array([fulfilled(cell) for cell in cells.to_pylist()], bool)
    answers = np.array([*map(fulfilled, values), fulfilled(None)], bool)
    return answers[at.fill_null(len(values)).to_numpy(zero_copy_only=False)]


def _narrow(cells: Any) -> Callable[[Any], Any]:
    """What a typed number becomes among the floats of a column: 0.1 is none of float32."""
    name = str(cells.type)
    for ours, numpy in (("halffloat", np.float16), ("float", np.float32), ("double", np.float64)):
        if re.search(rf"\b{ours}\b", name):
            return lambda number: float(numpy(number))
    return float


def _predicate(
    condition: Condition, kind: str, narrow: Callable[[Any], Any]
) -> Callable[[Any], bool]:
    _, _, compare, value = condition
    test = _contains(value) if compare == "~" else _TESTS[kind or "text"](condition, narrow)

    def fulfilled(cell: Any) -> bool:
        if isinstance(cell, list):
            return all(map(fulfilled, cell)) if compare == "!=" else any(map(fulfilled, cell))
        return compare == "!=" if cell is None else bool(test(cell))

    return fulfilled


def _contains(value: str) -> Callable[[Any], bool]:
    return lambda cell: value.lower() in _text(cell).lower()


def _text(cell: Any) -> str:
    """A cell as it is typed."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _texts(condition: Condition, narrow: Callable) -> Callable[[Any], bool]:
    test = _COMPARE[condition.compare]
    return lambda cell: test(_text(cell), condition.value)


def _switches(condition: Condition, narrow: Callable) -> Callable[[Any], bool]:
    test, wanted = _COMPARE[condition.compare], _SWITCHES.get(condition.value.lower())
    if wanted is None:
        raise _refused(condition, "true and false")
    return lambda cell: test(cell, wanted)


def _numbers(condition: Condition, narrow: Callable) -> Callable[[Any], bool]:
    try:
        exact = Decimal(condition.value)
    except InvalidOperation:
        exact = Decimal("nan")
    if exact.is_nan():
        raise _refused(condition, "numbers")
    with np.errstate(over="ignore"):
        rounded, test = narrow(exact), _COMPARE[condition.compare]
    return lambda cell: test(cell, rounded if isinstance(cell, float | np.floating) else exact)


def _times(condition: Condition, narrow: Callable) -> Callable[[Any], bool]:
    test, value = _COMPARE[condition.compare], condition.value
    day = _parsed(date, value)
    moment, hour = _parsed(datetime, value), _parsed(time, value)

    def fulfilled(cell: Any) -> bool:
        if isinstance(cell, time):
            return test(cell, hour) if hour else _refuse(condition, "times like 18:30")
        if not isinstance(cell, datetime):
            return test(cell, day) if day else _refuse(condition, "dates like 2020-01-31")
        if day:  # all of it
            return test(cell.date(), day)
        if not moment:
            return _refuse(condition, "times like 2020-01-31 or 2020-01-31T18:30")
        return test(_universal(cell), _universal(moment))

    return fulfilled


def _parsed(kind: Any, value: str) -> Any:
    try:
        return kind.fromisoformat(value)
    except ValueError:
        return None


def _universal(moment: datetime) -> datetime:
    """With a zone; without one it is UTC."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _refused(condition: Condition, what: str) -> UserError:
    text, value = condition.text, condition.value
    return UserError(f"where: {text!r}: the column holds {what}, {value!r} is none")


def _refuse(condition: Condition, what: str) -> bool:
    raise _refused(condition, what)


_TESTS = {"text": _texts, "switch": _switches, "number": _numbers, "time": _times}
