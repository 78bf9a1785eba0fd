"""When a request was there: the kernel's receive stamp on the monotonic clock.

Belongs here: reading a socket with its stamp, the offset between the clocks, what a set wall clock spoils.
The load generator has its own code for this (``transport``), on purpose: one fault must not hide in both.
Does not belong here: connections (``loop``).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

_SO_TIMESTAMPNS = 35  # the same number on x86-64 and arm64; Python's socket module does not name it
_TIMESPEC = struct.Struct("qq")
_BUFFERS = [memoryview(bytearray(262_144))]
_JUMP_NS = 200_000
_SLACK_NS = 20_000  # how far the offset itself may be off
SAMPLE_EVERY_NS = 100_000_000


def ask_for_stamps(listener: socket.socket) -> None:
    """Have every connection of *listener* stamped; without it the stamps are the user's."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def receive(sock: socket.socket) -> tuple[memoryview, int | None]:
    """One read: its bytes, valid until the next read, and the kernel's stamp (CLOCK_REALTIME, ns) if it has
    one. Raises what ``recvmsg`` raises."""
    size, extra, _, _ = sock.recvmsg_into(_BUFFERS, 64)
    for _, kind, value in extra:
        if kind == _SO_TIMESTAMPNS:
            seconds, nanos = _TIMESPEC.unpack(value)
            return _BUFFERS[0][:size], seconds * 1_000_000_000 + nanos
    return _BUFFERS[0][:size], None


class ReceiveClock:
    """Turns kernel stamps into ``perf_counter_ns``. To be sampled every 100 ms: an offset that moved by more
    than 0.2 ms between two samples means that the wall clock was set, and stamps from before are not used."""

    def __init__(self) -> None:
        self.jumps = self.fallbacks = 0
        self._offset_ns, self.sampled_ns = self._measure()
        self._trusted_from_ns = 0

    def sample(self) -> None:
        """Take the offset anew."""
        offset, now = self._measure()
        if abs(offset - self._offset_ns) > _JUMP_NS:
            self.jumps += 1
            self._trusted_from_ns = now
        self._offset_ns, self.sampled_ns = offset, now

    def monotonic(self, kernel_ns: int | None, user_ns: int) -> int | None:
        """*kernel_ns* on the monotonic clock; ``None`` (counted) when there is none or it cannot be
        trusted."""
        if kernel_ns is not None:
            self.sample()
            stamp = kernel_ns - self._offset_ns
            if self._trusted_from_ns <= stamp <= user_ns + _SLACK_NS:
                return min(stamp, user_ns)
        self.fallbacks += 1
        return None

    @staticmethod
    def _measure() -> tuple[int, int]:
        """Offset and time of the narrowest of up to three looks at both clocks: being moved off the core
        between two readings would look like a jump."""
        best = (1 << 62, 0, 0)
        for _ in range(3):
            before = time.perf_counter_ns()
            wall = time.time_ns()
            after = time.perf_counter_ns()
            best = min(best, (after - before, wall - (before + after) // 2, after))
            if after - before < 5_000:
                break
        return best[1], best[2]
