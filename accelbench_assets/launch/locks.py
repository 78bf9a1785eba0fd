"""Whether an attempt's orchestrator still lives: a lock the kernel drops with its process.

Belongs here: the lock file of a run, its description for ``attempt.json``, the question the reaper asks, and the lock
of the machine.
Does not belong here: what becomes of a dead attempt (``lake``), killing (``supervise``).

A process id alone may have been given to another process; an ``flock`` cannot outlive its holder. The file is
not inherited by children (Python opens it close-on-exec), so an engine that survived could not keep a run
alive.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelbench_assets.errors import LaunchError, describe_os_error
from accelbench_assets.launch.host import host_fingerprint


def describe_lock(path: Path) -> dict[str, Any]:
    """What ``attempt.json`` keeps of this process and the lock file at *path*, for :func:`is_alive`.

    The fingerprint alone may be shared: pods of one image, or clones of one disk, have the same machine id.
    """
    return {
        "host_fingerprint": host_fingerprint(),
        "host_name": platform.node(),
        "boot_id": _boot_id(),
        "pid": os.getpid(),
        "lock": str(path),
    }


def _boot_id() -> str | None:
    """The kernel's name for the present boot; ``None`` where there is none (not Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


class RunLock:
    """``HOME/locks/<run_id>.lock``, held while entered; enter it before the attempt is announced."""

    def __init__(self, home: Path, run_id: str) -> None:
        self.path = home / "locks" / f"{run_id}.lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock; ``LaunchError`` (``busy``) if another process holds it, ``no_permission`` if it
        cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LaunchError(
                describe_os_error(error, "making the run's lock", str(self.path)), code="no_permission"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise LaunchError(
                f"Run {self.path.stem} is already being worked on by another process.", code="busy"
            ) from None
        self._fd = fd

    def release(self) -> None:
        """Give the lock up and remove its file; does nothing when it is not held."""
        if self._fd is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def describe(self) -> dict[str, Any]:
        """What ``attempt.json`` keeps so that :func:`is_alive` can be asked later."""
        return describe_lock(self.path)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def machine_to_itself(home: Path, run_id: str, wait_s: float = 15.0) -> Iterator[None]:
    """Hold ``HOME/locks/local-engine.lock``: two engines measured at once on one machine falsify each other.

    Waits *wait_s* for an earlier run to end its teardown; then ``LaunchError`` (``busy``) names the run that holds it.
    """
    path = home / "locks" / "local-engine.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LaunchError(
            describe_os_error(error, "making the machine's lock", str(path)), code="no_permission"
        ) from None
    with handle:
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    handle.seek(0)
                    raise LaunchError(
                        f"Another benchmark of this machine is running ({handle.read().strip() or 'unnamed'}).",
                        code="busy",
                        hint="Two at once would falsify each other: wait for it, or interrupt it.",
                    ) from None
                time.sleep(0.1)
        handle.truncate(0)
        handle.write(f"run {run_id}")
        handle.flush()
        yield


def is_alive(attempt: Mapping[str, Any]) -> bool:
    """Whether the orchestrator that wrote *attempt* still runs; in doubt it does.

    An attempt of another machine counts as alive: nothing can be said about it from here. After a restart of what seems
    to be the same machine, a lock file that is not there proves nothing: it may lie on another disk.
    """
    if attempt.get("host_fingerprint") != host_fingerprint():
        return True
    if attempt.get("host_name") not in (None, platform.node()):
        return True
    other_boot = attempt.get("boot_id") not in (None, _boot_id())
    try:
        fd = os.open(str(attempt.get("lock") or ""), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return other_boot
    except OSError:
        return True  # it is there and cannot be asked (another user's): leave it alone
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
