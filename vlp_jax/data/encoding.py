"""Bytes to text: what is certain is decoded, everything else is refused with its place.

UTF-8, and UTF-16 or UTF-32 behind their mark (Unicode 15, section 23.8). The file exists so that a
caption file, a tar member, a table, a class-name file and metadata obey one rule: a wrong guess
trains on characters that nobody wrote, and without a word.
"""

import codecs
import io
import json
import re
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample

LOST = "\ufffd"  # stands where an earlier program could not read a character
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WRONG = re.compile("[\0\ud800-\udfff]")  # no text holds a NUL or half of a surrogate pair
_RUN = re.compile(rb"[\x80-\xff]{2,}")


class BadText(ValueError):
    """Bytes or a string that are no text for certain. line: from 1, hint: what they may be."""

    def __init__(self, line: int, hint: str):
        super().__init__(f"line {line}: {hint}")
        self.line, self.hint = line, hint


def check_text(text: str) -> str:
    """The text itself. Raises BadText where it holds a NUL or half of a surrogate pair."""
    wrong = _WRONG.search(text)
    if wrong:
        line = text.count("\n", 0, wrong.start()) + 1
        if wrong.group() == "\0":
            raise BadText(line, "a NUL character; perhaps UTF-16 without its mark")
        raise BadText(line, f"U+{ord(wrong.group()):04X} is half of a character")
    return text


def decode(data: bytes, name: str = "") -> str:
    """The text of `data`, its byte order mark taken off. Raises BadText.

    name: of a codec, where something else than a mark tells it.
    """
    name = name or next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return check_text(data.decode(name))
    except UnicodeDecodeError as error:
        before = error.object[: error.start]  # without the mark
        line = before.decode(error.encoding, "ignore").count("\n") + 1
        raise BadText(line, _hint(error)) from error


def _hint(error: UnicodeDecodeError) -> str:
    """What bytes that are not in an encoding may be."""
    data = error.object
    if not error.encoding.endswith("8"):
        return f"{error.encoding.upper()} that is cut or broken: {error.reason}"
    shown = f"byte 0x{data[error.start]:02x} is not UTF-8"
    if 0 in data:
        return f"{shown}; perhaps UTF-16 without its mark"
    cut = "cut in a character" if error.reason == "unexpected end of data" else ""
    west = "Windows-1252 or Latin-1" if not _RUN.search(data) else ""  # seldom two accents in a row
    guess = " or ".join(filter(None, (cut, west)))
    return f"{shown}; perhaps {guess}" if guess else shown


def decode_text(data: bytes, where: str) -> str:
    """The text of one sample's member. Raises DamagedSample('bad_text') naming its place."""
    try:
        return decode(data)
    except BadText as error:
        raise DamagedSample("bad_text", f"{where} ({error.hint})") from error


def decode_json(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object of one sample. Raises DamagedSample: 'bad_text', or 'bad_json' where it is no
    JSON or no object. JSON's first characters tell UTF-16 and UTF-32 without a mark.
    """
    try:
        found = json.loads(decode(data, json.detect_encoding(data)))
    except BadText as error:
        raise DamagedSample("bad_text", f"{where} ({error.hint})") from error
    except (ValueError, RecursionError) as error:
        raise DamagedSample("bad_json", where) from error
    if not isinstance(found, dict):
        raise DamagedSample("bad_json", where)
    return found


def read_text(path: str, newline: str | None = None) -> str:
    """The text of a whole file (a table, names of classes, texts to embed). newline: as of `open`.

    Raises UserError, naming file and line, where it cannot be read or is not certain.
    """
    try:
        with open(path, "rb") as file:
            return io.StringIO(decode(file.read()), newline).read()
    except OSError as error:
        raise UserError(f"{path!r} cannot be read ({error.strerror})") from error
    except BadText as error:
        raise UserError(f"{path!r} cannot be read ({error}); save it as UTF-8") from error
