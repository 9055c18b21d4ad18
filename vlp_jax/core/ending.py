"""How a program ends that a person or a scheduler stops: one line and an exit code, no traceback.

The file exists so that the command line and the experiments end alike, also before a command
listens to signals itself (train/preemption.py).
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from vlp_jax.core.errors import UserError

STOPPED, INTERRUPTED = 75, 130  # EX_TEMPFAIL: run the same command again; 128 + SIGINT
SAID = {signal.SIGTERM: ("stopped", STOPPED), signal.SIGINT: ("interrupted", INTERRUPTED)}


def program(main: Callable[[list[str]], int], words: list[str]) -> NoReturn:
    """Runs a program that has its process for itself, and leaves with the code of `ended`; a signal
    that nobody listens to ends it at once.

    Nothing is raised then: Python loses an exception of a signal handler that runs inside a
    callback of the garbage collector or of jax, and an interpreter that takes itself apart while
    computations go on in jax's threads may crash.
    """
    for number in SAID:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
    code = ended(main, words)
    if code == INTERRUPTED:
        _leave(code)
    sys.exit(code)


def ended(main: Callable[[list[str]], int], words: list[str]) -> int:
    """The exit code of main(words): 75 on SIGTERM, 130 on Ctrl-C, that of an error that has one."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)
    try:
        return main(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        code = 2 if isinstance(error, UserError) else getattr(error, "exit_code", None)
        if code is None:
            raise
        print(f"{'' if code == STOPPED else 'error: '}{error}", file=sys.stderr)
        return code


def _stop(number: int, frame: object) -> None:
    print("stopped", file=sys.stderr, flush=True)
    raise SystemExit(STOPPED)


def _end(number: int, frame: object) -> None:
    """Says the line past sys.stderr, which this may have come into the middle of."""
    text, code = SAID[number]
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Without the interpreter's own end; processes that were started go as well."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if processes := sys.modules.get("multiprocessing"):
        for child in processes.active_children():
            child.terminate()
    os._exit(code)
