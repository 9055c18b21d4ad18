"""One training at a time in a workdir: `WORKDIR/lock`, held while a run goes on, says who runs it.

The kernel's lock on that file (flock) ends with its process, however that one dies: a run that was
killed starts again at once. Not every file system has it or passes it on between hosts (NFS without
its lock service, object stores mounted as folders), so the file is read too. A process of this
machine holds it while there is one of that number and start time; one of another machine while the
file's time moves, which it does every 5 seconds: no clocks of two hosts are compared. The file
exists because two runs in one folder delete each other's checkpoints.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlp_jax.core.errors import UserError

log = logging.getLogger(__name__)
NAME = "lock"
BEAT = 5.0  # seconds between two signs of life
_WATCHED = 3  # beats without one, after which another machine's run counts as dead
_ATTEMPTS = 10  # some mounts number a file anew at every look
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the workdir, made where there is none; folders that are left empty go again.

    Raises:
      UserError: another training holds it (host and pid are named), a file stands in its place, or
        it cannot be written.
    """
    made: list[Path] = []
    try:
        made += [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
        workdir.mkdir(parents=True, exist_ok=True)
        handle = _take(workdir)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: {_reason(workdir, error)}") from error
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(handle, over), name="lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        _release(workdir / NAME, handle)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _reason(workdir: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        for path in (workdir, *workdir.parents):
            if os.path.lexists(path) and not path.is_dir():
                return f"{path} is a file, not a folder"
    return f"cannot be written ({error.strerror})"


def _take(workdir: Path) -> int:
    file = workdir / NAME
    for attempt in range(_ATTEMPTS):
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(workdir, _record(handle)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if _is_ours(file, handle) or attempt == _ATTEMPTS - 1:
            break
        os.close(handle)  # the holder removed it between our two calls
    record = _record(handle)
    if record and _lives(file, record):
        os.close(handle)
        raise _held(workdir, record)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(_me()).encode() + b"\n", 0)
    return handle


def _is_ours(file: Path, handle: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(file), os.fstat(handle))
    return False


def _release(file: Path, handle: int) -> None:
    with contextlib.suppress(OSError):
        if _is_ours(file, handle):
            file.unlink()
    os.close(handle)


def _beat(handle: int, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(handle)


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": pid,
        "started": _started(pid),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _machine() -> str:
    """This boot of this machine; hosts of equal names are told apart where the kernel says more."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _started(pid: int) -> str:
    """When that process of this machine started, in the kernel's ticks; '' where there is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass  # another user's
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return "unknown"  # no /proc


def _record(handle: int) -> dict[str, Any]:
    """What the file says; {} where it says nothing, as that of a run killed while it wrote."""
    try:
        record = json.loads(os.pread(handle, 4096, 0))
        return record if record.keys() >= {"host", "machine", "pid", "started"} else {}
    except (ValueError, AttributeError):
        return {}


def _lives(file: Path, record: dict[str, Any]) -> bool:
    if record["machine"] == _machine():
        return _started(record["pid"]) == record["started"]
    seconds = _WATCHED * BEAT
    log.warning("%s: of %s, watched for %.0f s for a sign of life", file, record["host"], seconds)
    first = file.stat().st_mtime_ns
    for _ in range(_WATCHED):
        time.sleep(BEAT)
        if file.stat().st_mtime_ns != first:
            return True
    return False


def _held(workdir: Path, record: dict[str, Any]) -> UserError:
    who = "another process"
    if record:
        who = f"{record['host']}, pid {record['pid']}"
        who += f", since {record['since']}" * ("since" in record)
    return UserError(
        f"--workdir={workdir}: a training holds it ({who}); wait for its end or choose another"
    )
