"""An absolute timer for the loop: timerfd on CLOCK_MONOTONIC, the clock of ``perf_counter_ns``.

Belongs here: waking at a due time to some tens of microseconds, on Python 3.11 (through the C library) and
later.
Does not belong here: what is due (``steps``, ``truth``).
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_NS = 1_000_000_000
_SPEC = struct.Struct("qqqq")
_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC, _ABSTIME = 1, 0o4000 | 0o2000000, 1
_PR_SET_TIMERSLACK = 29


class Timer:
    """A timerfd; register :meth:`fileno` for reading, and call :meth:`clear` when it fires."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._armed_ns = 0
        # The default slack of 50 microseconds would delay every wake-up.
        self._libc.prctl(_PR_SET_TIMERSLACK, 1)

    def fileno(self) -> int:
        """The descriptor that becomes readable at the due time."""
        return self._fd

    def arm(self, due_ns: int) -> None:
        """Fire at *due_ns* (at once if it has passed); an armed time is replaced."""
        if due_ns != self._armed_ns:
            self._armed_ns = due_ns
            spec = _SPEC.pack(0, 0, max(1, due_ns) // _NS, max(1, due_ns) % _NS)
            self._libc.timerfd_settime(self._fd, _ABSTIME, spec, None)

    def clear(self) -> None:
        """Take the wake-up, so that the descriptor is no longer readable."""
        self._armed_ns = 0
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._fd)


if sys.platform != "linux":
    raise ImportError("the load generator needs Linux: timerfd, epoll and kernel receive stamps")
