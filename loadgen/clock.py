"""The offset between the wall clock, which stamps packets in the kernel, and the monotonic clock of
everything else.

Belongs here: sampling that offset, noticing that the wall clock was set, and taking back the kernel stamps
that were converted while it was wrong.
Does not belong here: reading sockets (``transport``).

The offset is sampled every 100 ms. When it moved by more than 0.2 ms between two samples nobody knows when
it did, so reads that came in since the first of the two keep their user stamp instead, and say so
(``lags_ns`` -1). The interval reaches one sample's length further, for packets that waited in the socket
while the clock was set. A slewing clock (at most 500 ppm, 0.05 ms between samples) is followed.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.exchange import Exchange

SAMPLE_NS = 100_000_000
JUMP_NS = 200_000
_SURE_NS = 20_000  # two readings of the monotonic clock around one of the wall clock, when nobody interrupts
_TRIES = 5
_TIMESPEC = struct.Struct("qq")
_FUTURE_NS = 50_000  # what the offset may be wrong by
_EARLY_NS = 100_000  # a stamp may precede the send it answers by so much: errors of two samples


def reading(wall: Callable[[], int], monotonic: Callable[[], int]) -> tuple[int, int]:
    """Monotonic time and the wall clock's offset from it, ns; the narrowest of a few tries, since a thread that is
    interrupted between two looks at the clocks would see an offset that never was."""
    best = (0, 0)
    narrowest: int | None = None
    for _ in range(_TRIES):
        before = monotonic()
        at = wall()
        after = monotonic()
        if narrowest is None or after - before < narrowest:
            narrowest, best = after - before, (after, at - (before + after) // 2)
        if narrowest < _SURE_NS:
            break
    return best


class KernelClock:
    """``offset_ns`` = wall clock - ``perf_counter_ns``. ``jumps`` are monotonic intervals (ns) whose kernel
    stamps are void; ``fallbacks`` counts reads that have a user stamp instead of the kernel's."""

    __slots__ = ("_monotonic", "_sampled_ns", "_wall", "fallbacks", "jumps", "offset_ns")

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self.jumps: list[tuple[int, int]] = []
        self.fallbacks = 0
        self._sampled_ns, self.offset_ns = reading(self._wall, self._monotonic)

    def sample(self) -> None:
        """Take the offset anew if 100 ms have passed; to be called often."""
        if self._monotonic() - self._sampled_ns < SAMPLE_NS:
            return
        now, offset = reading(self._wall, self._monotonic)
        if abs(offset - self.offset_ns) > JUMP_NS:
            self.jumps.append((self._sampled_ns, now + SAMPLE_NS))
        self._sampled_ns, self.offset_ns = now, offset

    def stamp(self, now_ns: int, ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
        """Stamp and lag of a read that was over at *now_ns* (monotonic) and came with *ancillary* data."""
        if ancillary:
            seconds, nanos = _TIMESPEC.unpack(ancillary[0][2])
            lag: int = now_ns + self.offset_ns - seconds * 1_000_000_000 - nanos
            if lag >= 0:
                return now_ns - lag, lag
            if lag > -_FUTURE_NS:
                return now_ns, 0
        self.fallbacks += 1
        return now_ns, -1

    def repair(self, exchange: Exchange) -> None:
        """Give reads their user stamp back whose kernel stamp cannot be trusted: those read around a jump,
        and those stamped before the request was sent. To be called when the last jump is known."""
        stamps, lags = exchange.stamps, exchange.lags_ns
        if not lags:
            return
        earliest = exchange.sent_ns - _EARLY_NS
        jumps = [one for one in self.jumps if one[0] <= exchange.end_ns and one[1] >= exchange.sent_ns]
        if not jumps and min(stamps) >= earliest:
            return
        for index, lag in enumerate(lags):
            user = stamps[index] + lag
            if lag >= 0 and (stamps[index] < earliest or any(begin <= user <= end for begin, end in jumps)):
                stamps[index], lags[index] = user, -1
                self.fallbacks += 1
