"""Conditions on metadata: `COLUMN=VALUE` of a command line or a query to rows that fulfil it.

What a column holds is decided once for all files of an index: numbers, switches, times or, where
files differ, texts; then the value must be one of them, and is compared exactly. The file exists so
that a condition that cannot be meant as it stands is refused and never silently empty.
"""

import operator
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.serve.cells import UNITS, as_python, counted, element, moment, sort_of, unit_of

_CONDITION = re.compile(
    r"""\s*("[^"]*"|'[^']*'|[^=!<>~]+?)\s*(==|!=|<>|>=|<=|=|>|<|~)\s*(.*?)\s*""", re.DOTALL
)
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
    """A condition as it was typed. `==` is `=`, `<>` is `!=`; a column and a value may stand in
    quotes.

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
        column = _unquoted(column)
    if column not in columns:
        raise UserError(f"where: no column {column!r}{nearest(column, columns)}")
    if value[:1] in ({"=", "~"} if compare == "~" else {"=", "<", ">", "~"}):
        known = f"{' '.join(_COMPARE)} and ~ are; a value may be in quotes"
        raise UserError(f"where: {text!r}: {compare}{value[0]} is no comparison, {known}")
    return Condition(text, column, compare, _unquoted(value))


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] in _QUOTES and word[-1] == word[0] else word


def kind_of(arrow: Any, dtype: Any) -> str:
    """What a column of an Arrow type holds, of lists their elements: 'number', 'switch', 'time',
    'duration', 'structure', 'text', or '' for nothing but missing values."""
    types, dtype = arrow.types, element(arrow, dtype)
    if types.is_null(dtype):
        return ""
    if types.is_boolean(dtype):
        return "switch"
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        return "number"
    if types.is_date(dtype) or types.is_timestamp(dtype) or types.is_time(dtype):
        return "time"
    if types.is_nested(dtype):
        return "structure"
    return "duration" if types.is_duration(dtype) else "text"


def rows_of(arrow: Any, cells: Any, condition: Condition, kind: str) -> np.ndarray:
    """bool[n]: which cells of a column fulfil a condition. kind: of the column in all files. Raises
    UserError where the value is none of its kind.
    """
    fulfilled = _predicate(arrow, element(arrow, cells.type), condition, kind)
    if kind in ("time", "duration") and condition.compare != "~":
        cells = counted(arrow, cells)
    try:
        distinct = cells.dictionary_encode()  # each distinct value is looked at once
        values, at = distinct.dictionary, distinct.indices
    except (arrow.ArrowNotImplementedError, AttributeError):  # lists, and what it has no hash of
        return np.array([fulfilled(as_python(arrow, cell)) for cell in cells], bool)
    found = [fulfilled(as_python(arrow, value)) for value in values]
    answers = np.array([*found, fulfilled(None)], bool)
    return answers[at.fill_null(len(values)).to_numpy(zero_copy_only=False)]


def _predicate(arrow: Any, dtype: Any, condition: Condition, kind: str) -> Callable[[Any], bool]:
    """dtype: of an element of the column."""
    _, _, compare, value = condition
    test = _contains(value) if compare == "~" else _TESTS[kind or "text"](arrow, dtype, condition)

    def fulfilled(cell: Any) -> bool:
        if isinstance(cell, list):
            return all(map(fulfilled, cell)) if compare == "!=" else any(map(fulfilled, cell))
        if cell is None or cell != cell:  # missing, or not a number
            return compare == "!="
        return bool(test(cell))

    return fulfilled


def _contains(value: str) -> Callable[[Any], bool]:
    return lambda cell: value.lower() in _text(cell).lower()


def _text(cell: Any) -> str:
    """A cell as it is typed."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _texts(arrow: Any, dtype: Any, condition: Condition) -> Callable[[Any], bool]:
    test = _COMPARE[condition.compare]
    return lambda cell: test(_text(cell), condition.value)


def _switches(arrow: Any, dtype: Any, condition: Condition) -> Callable[[Any], bool]:
    test, wanted = _COMPARE[condition.compare], _SWITCHES.get(condition.value.lower())
    if wanted is None:
        raise _refused(condition, "true and false")
    return lambda cell: test(cell, wanted)


def _number(condition: Condition, what: str) -> Decimal:
    try:
        found = Decimal(condition.value)
    except InvalidOperation:
        found = Decimal("nan")
    if found.is_nan():
        raise _refused(condition, what)
    return found


def _numbers(arrow: Any, dtype: Any, condition: Condition) -> Callable[[Any], bool]:
    exact, test = _number(condition, "numbers"), _COMPARE[condition.compare]
    rounded = _narrow(dtype, exact)
    return lambda cell: test(cell, rounded if isinstance(cell, float | np.floating) else exact)


def _narrow(dtype: Any, exact: Decimal) -> float | Decimal:
    """What a typed number becomes among the floats of a column: 0.1 is none of float32. One that is
    too large or too small for them stays itself."""
    known = {"halffloat": np.float16, "float": np.float32}
    with np.errstate(over="ignore", under="ignore"):
        found = float(known.get(str(dtype), np.float64)(exact))
    lost = (np.isinf(found) and exact.is_finite()) or (found == 0 and exact != 0)
    return exact if lost else found


def _durations(arrow: Any, dtype: Any, condition: Condition) -> Callable[[Any], bool]:
    wanted = _number(condition, "durations, compared in seconds") * UNITS["s"]
    test, unit = _COMPARE[condition.compare], unit_of(arrow, dtype)
    return lambda cell: test(cell * unit, wanted)


def _times(arrow: Any, dtype: Any, condition: Condition) -> Callable[[Any], bool]:
    found, unit = moment(arrow, dtype, condition.value), unit_of(arrow, dtype)
    if found is None:
        raise _refused(condition, _LIKE[sort_of(arrow, dtype)])
    first, behind = found
    tests: dict[str, Callable[[int], bool]] = {
        **{"=": lambda at: first <= at < behind, "!=": lambda at: not first <= at < behind},
        **{">": lambda at: at >= behind, ">=": lambda at: at >= first},
        **{"<": lambda at: at < first, "<=": lambda at: at < behind},
    }
    test = tests[condition.compare]
    return lambda cell: test(cell * unit)


def _structures(arrow: Any, dtype: Any, condition: Condition) -> Callable[[Any], bool]:
    what = "structures, which have no comparison but ~"
    raise UserError(f"where: {condition.text!r}: the column holds {what}")


def _refused(condition: Condition, what: str) -> UserError:
    text, value = condition.text, condition.value
    return UserError(f"where: {text!r}: the column holds {what}, {value!r} is none")


_LIKE = {
    "time": "times like 18:30",
    "date": "dates like 2020-01-31",
    "moment": "times like 2020-01-31 or 2020-01-31T18:30",
}
_TESTS = {
    **{"text": _texts, "switch": _switches, "number": _numbers, "time": _times},
    **{"duration": _durations, "structure": _structures},
}
