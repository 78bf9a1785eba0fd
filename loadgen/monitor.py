"""Whether the client itself was the bottleneck: its loop's lag, its CPU, its memory.

Belongs here: figures about this process, taken inside measurement windows.
Does not belong here: the verdict on them, which the reader of ``shard.json`` gives.
"""

from __future__ import annotations

import time
from array import array
from math import ceil
from pathlib import Path

from loadgen.limits import cpu_limit, throttled_s

NS = 1_000_000_000
TICK_NS = 10_000_000
_MIN_SPAN_NS = NS // 5


def quantile(values: array[int], q: float) -> int | None:
    """Inverse empirical CDF: the value of rank ``ceil(q n)``; ``None`` of nothing."""
    return sorted(values)[max(0, ceil(q * len(values)) - 1)] if values else None


def rss_peak_mib() -> float:
    """Largest resident set of this process so far, MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Monitor:
    """Collects over all windows of a run. The loop calls :meth:`tick` every 10 ms with the time it was due.

    The lag of a tick is how late the loop came to it: the wait that any other event could have had. The CPU
    share is that of the loop's thread, over spans of about a second; 1 is one core. Events are socket reads, over
    the same spans. ``cpu_throttled_s`` is how long the container was held back in the windows for having used up its
    quota of ``cpu_limit_cores``; null outside of a container with one.
    """

    def __init__(self) -> None:
        self.lags_ns = array("q")
        self.send_lags_ns = array("q")
        self.cpu_share_max = self.events_per_s_max = 0.0
        self._since: tuple[int, int, int] | None = None  # wall and thread CPU in ns, socket reads
        self._reads = 0
        self._throttled_from: float | None = None
        self._throttled_s: float | None = None

    def tick(self, due_ns: int, now_ns: int, reads: int = 0) -> None:
        """Note one tick inside a window, with the count of socket reads so far; ticks the loop missed altogether
        count with the lag they had."""
        self._reads = reads
        late = max(0, now_ns - due_ns)
        self.lags_ns.append(late)
        while (late := late - TICK_NS) > 0:
            self.lags_ns.append(late)
        cpu = time.thread_time_ns()
        if self._since is None:
            self._since = (now_ns, cpu, reads)
            self._throttled_from = throttled_s()
        elif now_ns - self._since[0] >= NS:
            self._close(now_ns, cpu)
            self._since = (now_ns, cpu, reads)

    def window_end(self) -> None:
        """The window is over: take what is left of its last second."""
        now = time.perf_counter_ns()
        if self._since is not None and self._throttled_from is not None:
            self._throttled_s = (
                (self._throttled_s or 0.0) + (throttled_s() or self._throttled_from) - self._throttled_from
            )
        if self._since is not None and now - self._since[0] >= _MIN_SPAN_NS:
            self._close(now, time.thread_time_ns())
        self._since = None

    def _close(self, now_ns: int, cpu_ns: int) -> None:
        assert self._since is not None
        wall_ns, cpu_before_ns, reads = self._since
        self.cpu_share_max = max(self.cpu_share_max, (cpu_ns - cpu_before_ns) / (now_ns - wall_ns))
        self.events_per_s_max = max(self.events_per_s_max, (self._reads - reads) * NS / (now_ns - wall_ns))

    def figures(self) -> dict[str, float | None]:
        """The figures for ``shard.json``; null where no window was measured."""

        def ms(value: int | None) -> float | None:
            return None if value is None else value / 1e6

        return {
            "loop_lag_p99_ms": ms(quantile(self.lags_ns, 0.99)),
            "loop_lag_max_ms": ms(max(self.lags_ns, default=None)),
            "cpu_share_max": self.cpu_share_max if self.lags_ns else None,
            "events_per_s_max": self.events_per_s_max if self.lags_ns else None,
            "cpu_s": time.process_time(),
            "rss_peak_mib": rss_peak_mib(),
            "cpu_limit_cores": cpu_limit(),
            "cpu_throttled_s": self._throttled_s,
            "send_lag_p99_ms": ms(quantile(self.send_lags_ns, 0.99)),
        }
