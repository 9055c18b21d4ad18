"""Cells of a table as Python values, and times as whole nanoseconds.

Python's times end at microseconds and the year 9999, those of Arrow do not. The file exists so that
no time is too fine, too far or of too odd a zone to be shown and compared.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
DAY = 86_400 * UNITS["s"]
_EPOCH = date(1970, 1, 1).toordinal()
_FINE = re.compile(r"[.,]\d{6}(\d+)")  # what Python's own readers drop
_ODD = (OverflowError, ValueError, KeyError)  # too far, too fine, no such zone


def as_python(arrow: Any, cell: Any) -> Any:
    """An Arrow scalar as a Python value; a time that Python cannot hold as text."""
    try:
        return cell.as_py()
    except _ODD:
        if hasattr(cell, "items"):  # of a structure
            return {name: as_python(arrow, item) for name, item in cell.items()}
        if hasattr(cell, "values"):  # of a list
            return [as_python(arrow, item) for item in cell.values]
        return cell.cast(arrow.string()).as_py()


def element(arrow: Any, dtype: Any) -> Any:
    """The type of what a column holds, of lists and dictionaries of their elements."""
    types = arrow.types
    while types.is_dictionary(dtype) or (types.is_nested(dtype) and hasattr(dtype, "value_type")):
        dtype = dtype.value_type
    return dtype


def unit_of(arrow: Any, dtype: Any) -> int:
    """Nanoseconds of 1 in a type of times: dates, times of day, moments and durations."""
    if arrow.types.is_date(dtype):
        return DAY if arrow.types.is_date32(dtype) else UNITS["ms"]
    return UNITS[dtype.unit]


def counted(arrow: Any, cells: Any) -> Any:
    """Times as the whole numbers that Arrow stores, lists as lists."""
    if arrow.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    return cells.cast(_counts(arrow, cells.type))


def _counts(arrow: Any, dtype: Any) -> Any:
    if hasattr(dtype, "value_type"):
        inner = _counts(arrow, dtype.value_type)
        if arrow.types.is_fixed_size_list(dtype):
            return arrow.list_(inner, dtype.list_size)
        return arrow.large_list(inner) if arrow.types.is_large_list(dtype) else arrow.list_(inner)
    return arrow.int32() if dtype.bit_width == 32 else arrow.int64()


def moment(arrow: Any, dtype: Any, text: str) -> tuple[int, int] | None:
    """[first, behind the last) nanosecond that a text means among times of a type; None where it is
    none of them. A day is all of it; days and hours without a zone are the column's, UTC where it
    has none.
    """
    read = _READ[sort_of(arrow, dtype)]
    fine = _FINE.search(text)
    spare = (fine[1] if fine else "").rstrip("0")
    found = read(text, dtype) if len(spare) <= 3 else None
    if found is None or found[1] - found[0] > 1:
        return found
    extra = int(spare.ljust(3, "0"))
    return found[0] + extra, found[1] + extra


def sort_of(arrow: Any, dtype: Any) -> str:
    """'time' of a day, 'date', or 'moment'."""
    types = arrow.types
    return "time" if types.is_time(dtype) else "date" if types.is_date(dtype) else "moment"


def _time(text: str, dtype: Any) -> tuple[int, int] | None:
    found = _parsed(time, text)
    if found is None or found.tzinfo:
        return None
    return _instant(timedelta(0, found.second, found.microsecond, 0, found.minute, found.hour))


def _date(text: str, dtype: Any) -> tuple[int, int] | None:
    day = _parsed(date, text)
    return day and (_midnight(day.toordinal(), UTC), _midnight(day.toordinal() + 1, UTC))


def _moment(text: str, dtype: Any) -> tuple[int, int] | None:
    zone, day = _zone(dtype.tz), _parsed(date, text)
    if day:
        return _midnight(day.toordinal(), zone), _midnight(day.toordinal() + 1, zone)
    found = _parsed(datetime, text)
    if found is None:
        return None
    naive = found.replace(tzinfo=None)  # what a zone adds may lie beyond Python's years
    behind = found.utcoffset() if found.tzinfo else zone.utcoffset(naive)
    return _instant(naive - datetime(1970, 1, 1) - behind)


def _instant(since: timedelta) -> tuple[int, int]:
    count = (since // timedelta(microseconds=1)) * UNITS["us"]
    return count, count + 1


def _midnight(ordinal: int, zone: tzinfo) -> int:
    """When a day begins; that behind the last one of Python, too."""
    day = datetime.fromordinal(min(ordinal, date.max.toordinal()))
    behind = zone.utcoffset(day) // timedelta(microseconds=1)
    return (ordinal - _EPOCH) * DAY - behind * UNITS["us"]


def _zone(name: str | None) -> tzinfo:
    if not name or name == "UTC":
        return UTC
    return datetime.strptime(name, "%z").tzinfo if name[0] in "+-" else ZoneInfo(name)


def _parsed(kind: Any, text: str) -> Any:
    try:
        return kind.fromisoformat(text)
    except ValueError:
        return None


_READ: dict[str, Callable[[str, Any], tuple[int, int] | None]] = {
    **{"time": _time, "date": _date, "moment": _moment},
}
