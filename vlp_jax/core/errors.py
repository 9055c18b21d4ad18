"""Errors a person can act on: one line that names the file, key or flag and the nearest valid name.

The file exists so that every layer, from a tar reader to a config, refuses bad input in the same
voice and the command line can tell a user's mistake (exit code 2) from a failure of ours (exit code
1).
"""

import difflib
import os
import re
from collections.abc import Iterable

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # OWNER/NAME
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """A mistake in what the user gave us. Its message is one line; the command line exits with code
    2.
    """


class RunError(Exception):
    """A run that cannot go on (disk full, damaged checkpoint, too much damaged data); exits with
    code 1.
    """


def nearest(name: str, valid: Iterable[str], limit: int = 8) -> str:
    """Returns a hint to append to a message: the closest valid name, or the valid names when few.

    >>> nearest("bacth_size", ["batch_size", "steps"])
    "; did you mean 'batch_size'?"
    """
    options = sorted(map(str, valid))
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(options[:limit]) + (", ..." if len(options) > limit else "")
    return f"; valid: {shown}" if options else ""


def no_download(path: str) -> str:
    """What to append to `no such folder`, where a path may be a model's name on a hub; else ''.

    >>> no_download("Salesforce/blip-itm-base-coco"), no_download("./a/b")
    ('; of models on a hub nothing is downloaded: give the folder that holds its files', '')
    """
    if not _HUB.fullmatch(path) or os.path.isdir(path.partition("/")[0]):
        return ""
    return "; of models on a hub nothing is downloaded: give the folder that holds its files"


def count_of(number: int, word: str) -> str:
    """1 picture, 2 pictures."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def printable(text: str) -> str:
    """A name on one line of any terminal and file: control characters, line ends and bytes that are
    no UTF-8 as escapes.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)
