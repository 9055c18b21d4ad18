"""Errors a person can act on: one line that names the file, key or flag and the nearest valid name.

The file exists so that every layer, from a tar reader to a config, refuses bad input in the same
voice and the command line can tell a user's mistake (exit code 2) from a failure of ours (exit code
1).
"""

import difflib
from collections.abc import Iterable


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
