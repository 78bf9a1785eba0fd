"""One request being answered, and the record of all that were: log lines and totals.

Belongs here: what is kept of a request, the JSON line made of it once it ended, the server's own CPU use.
Does not belong here: sending (``loop``), names of metrics (``metrics``).

Lines are made while nothing is due, since making one would delay what is: a burst of answers that end
together is written out after the burst. All are written before the process ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, BinaryIO

import orjson

from loadgen.truth.answers import Answer
from loadgen.truth.asking import Asked
from loadgen.truth.draws import Draw

NS = 1_000_000_000
_MOST_WAITING = 1024
_SHORTEST_SPAN_NS = NS // 5


@dataclass(slots=True, eq=False)
class Job:
    """Times in ``perf_counter_ns``. ``received_ns`` is the user's stamp of the read that completed the
    request, ``kernel_ns`` the kernel's (``None``: it gave none, or the wall clock was set). ``stamps`` has
    one entry for each of the answer's writes that was begun."""

    number: int
    connection: Any
    request_id: str
    received_ns: int
    kernel_ns: int | None
    asked: Asked
    draw: Draw
    cached_tokens: int
    answer: Answer
    send: Callable[[bytes], int]
    data: tuple[bytes, ...] = ()
    ttft_ms: float | None = None
    gap_ms: float | None = None
    began_ns: int = 0
    offsets: list[int] = field(default_factory=list)
    next: int = 0
    stamps: list[int] = field(default_factory=list)
    buffered: int = 0
    ended: str | None = None

    @property
    def arrived_ns(self) -> int:
        """Where service may begin: the kernel's stamp, else the user's."""
        return self.received_ns if self.kernel_ns is None else self.kernel_ns

    @property
    def tokens(self) -> int:
        """Tokens sent so far."""
        return self.answer.generated[self.next]

    def sends(self) -> tuple[list[int], list[int]]:
        """When tokens were sent, and how many each time."""
        counts = self.answer.tokens
        return list(compress(self.stamps, counts)), [count for count in counts[: len(self.stamps)] if count]


class Usage:
    """CPU time of this process since it began to serve; shares of a core over spans of a second."""

    def __init__(self) -> None:
        self._began = self._since = (time.perf_counter_ns(), time.process_time_ns())
        self.core_share_max = 0.0

    def tick(self, now_ns: int, *, last: bool = False) -> None:
        """To be called often; closes a span when it is a second long, or the *last* one."""
        wall = now_ns - self._since[0]
        if wall >= NS or (last and (wall >= _SHORTEST_SPAN_NS or not self.core_share_max)):
            cpu = time.process_time_ns()
            self.core_share_max = max(self.core_share_max, (cpu - self._since[1]) / wall)
            self._since = (now_ns, cpu)

    def figures(self) -> dict[str, float]:
        """CPU and wall seconds so far and the largest share."""
        return {
            "cpu_s": (time.process_time_ns() - self._began[1]) / NS,
            "wall_s": (time.perf_counter_ns() - self._began[0]) / NS,
            "core_share_max": self.core_share_max,
        }


class Record:
    """Takes ended requests; *observe* is told of each (with its sends), *log* gets its line."""

    def __init__(self, log: BinaryIO | None, observe: Callable[[Job, list[int], list[int]], None]) -> None:
        self._log, self._observe = log, observe
        self._waiting: deque[Job] = deque()

    def take(self, job: Job) -> None:
        """Note an ended request; more than a thousand are not kept waiting."""
        self._waiting.append(job)
        if len(self._waiting) > _MOST_WAITING:
            self._settle(self._waiting.popleft())

    def work(self, until_ns: int) -> None:
        """Settle what waits, until *until_ns*."""
        while self._waiting and time.perf_counter_ns() < until_ns:
            self._settle(self._waiting.popleft())

    def settle(self) -> None:
        """Settle everything."""
        while self._waiting:
            self._settle(self._waiting.popleft())

    def close(self, figures: dict[str, Any]) -> None:
        """Write what is left, and the last line with the server's own *figures*."""
        self.settle()
        if self._log is not None:
            self._log.write(orjson.dumps({"server": figures}) + b"\n")
            self._log.close()

    def _settle(self, job: Job) -> None:
        times, counts = job.sends()
        self._observe(job, times, counts)
        if self._log is None:
            return
        line = {
            "request_id": job.request_id,
            "received_ns": job.received_ns,
            "kernel_received_ns": job.arrived_ns,
            "stamp": "user" if job.kernel_ns is None else "kernel",
            "began_ns": job.began_ns,
            "queue_ms": (job.began_ns - job.arrived_ns) / 1e6 if job.began_ns else None,
            "ttft_ms": job.ttft_ms,
            "gap_ms": job.gap_ms,
            "first_event_ns": job.stamps[job.answer.first_event]
            if len(job.stamps) > job.answer.first_event
            else None,
            "sends_ns": times,
            "sent_tokens": counts,
            "last_send_ns": job.stamps[-1] if job.stamps else 0,
            "tokens": sum(counts),
            "input_tokens": job.asked.input_tokens,
            "cached_tokens": job.cached_tokens,
            "fault": job.draw.fault,
            "finish": job.answer.finish,
            "ended": job.ended,
            "buffered_sends": job.buffered,
        }
        self._log.write(orjson.dumps(line) + b"\n")  # unbuffered: a reader never sees half a line
