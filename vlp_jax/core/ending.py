"""How a program ends that a person or a scheduler stops: one line and an exit code, no traceback.

The file exists so that the command line and the experiments end alike, also before a command
listens to signals itself (train/preemption.py).
"""

import signal
import sys
from collections.abc import Callable

from vlp_jax.core.errors import UserError

STOPPED, INTERRUPTED = 75, 130  # EX_TEMPFAIL: run the same command again; 128 + SIGINT


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
