"""One step of a ladder against the clock: warm-up, window, tail.

Belongs here: when requests go out (closed: C users back to back; open: at their due times), when the step
ends.
Does not belong here: sockets (``client``), drawing (``source``), decoding (``ledger``).

Phases are planned before the step starts. Load goes on unchanged through the tail until every request that
arrived in the window is done, at most ``tail_s``; the rest is then cut and kept as cancelled. An open loop
has no cap on requests in flight but a ceiling for the client's own safety; a request above it fails with
class ``client``.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

from loadgen.client import Client
from loadgen.control import Control
from loadgen.exchange import Exchange, Failure
from loadgen.ledger import Ledger
from loadgen.monitor import TICK_NS, Monitor
from loadgen.progress import Progress
from loadgen.samples import Origin
from loadgen.source import StepSource
from loadgen.timer import Timer

NS = 1_000_000_000
_LEAD_NS = 30_000_000  # between drawing and the start of the warm-up: connections open in it
_SWEEP_NS = NS // 10
_REST_NS = NS // 10  # a user whose connection was refused rests so long; it is a failure all the same
_GONE_NS = 3 * NS
_GONE_FAILURES = 10


@dataclass(slots=True)
class StepResult:
    """Monotonic times in ns. ``stopped`` says why the step did not run to its end, ``gone`` that the server
    had gone."""

    ledger: Ledger
    starts_ns: dict[str, int]
    measure_end_ns: int
    scheduled_in_window: int
    unfinished: int
    stopped: str | None
    ceiling_hits: int


class StepRunner:
    """Runs one step; the client and the timer live as long as the run."""

    def __init__(
        self,
        source: StepSource,
        client: Client,
        timer: Timer,
        control: Control,
        monitor: Monitor,
        progress: Progress,
        *,
        requests: int | None,
        in_flight_ceiling: int,
    ) -> None:
        self.source, self.client, self.timer = source, client, timer
        self.control, self.monitor, self.progress = control, monitor, progress
        self.step = source.step
        self._limit, self._ceiling = requests, in_flight_ceiling
        self._closed = self.step.load_kind == "closed"
        self._next_seq = self._window_submitted = self._ceiling_hits = self._resting = 0
        self._refused, self._refused_since_ns, self._refused_text = 0, 0, ""

    def run(self, origin: Origin) -> StepResult:
        """Run the step and decode it."""
        step = self.step
        self.source.build()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            start = time.perf_counter_ns() + _LEAD_NS
            measure = start + int(step.warmup_s * NS)
            tail = measure + int(step.window_s * NS)
            self._start_ns, self._end_ns = start, tail + int(step.tail_s * NS)
            self.ledger = Ledger(origin, self.monitor, measure, tail)
            if self._closed:
                self.client.warm(int(step.load_value))
            self._say("step_start", start)
            stopped, unfinished = self._loop()
        finally:
            gc.enable()
            gc.unfreeze()
        self.monitor.window_end()
        self.ledger.measure_end_ns = min(self.ledger.measure_end_ns, max(measure, time.perf_counter_ns()))
        self._take_done()
        self.ledger.settle()
        self.client.close_idle()
        end = self.ledger.measure_end_ns
        if self._closed:
            scheduled = self.ledger.window_sent
        else:
            scheduled = sum(measure <= start + due < end for due in self.source.due_ns)
        starts = {"warmup": start, "measure": measure, "tail": tail, "end": self._end_ns}
        self._say("step_end", time.perf_counter_ns(), output_tokens=self.ledger.output_tokens)
        return StepResult(self.ledger, starts, end, scheduled, unfinished, stopped, self._ceiling_hits)

    def _loop(self) -> tuple[str | None, int]:
        tick = self._start_ns
        sweep = report = self._start_ns + _SWEEP_NS
        due = self.source.due_ns
        send: Callable[[int], None] = self._top_up if self._closed else self._send_due
        self.timer.arm(tick)
        while True:
            self.client.poll()
            now = time.perf_counter_ns()
            if self.client.done:
                self._take_done()
            if now >= self._start_ns:
                send(now)
            if now >= tick:
                if self.ledger.measure_ns <= now < self.ledger.measure_end_ns:
                    self.monitor.tick(tick, now)
                elif now >= self.ledger.measure_end_ns:
                    self.monitor.window_end()
                if self.client.clock is not None:
                    self.client.clock.sample()
                if now >= sweep:
                    sweep = now + _SWEEP_NS
                    self._resting = 0
                    self.client.sweep(now)
                if now >= report:
                    report = now + NS
                    self._say("progress", now)
                stopped = self.control.stop_reason() or self._gone(now)
                if stopped is not None or self._over(now):
                    return stopped, self._cut(stopped)
                tick += (now - tick) // TICK_NS * TICK_NS + TICK_NS
            upcoming = self._start_ns + due[self._next_seq] if self._next_seq < len(due) else tick
            self.timer.arm(min(tick, upcoming))

    def _top_up(self, now: int) -> None:
        """Closed loop: every user who is idle and not resting sends. At the limit the window ends, and load
        goes on."""
        in_window = self.ledger.measure_ns <= now < self.ledger.measure_end_ns
        for _ in range(int(self.step.load_value) - len(self.client.in_flight) - self._resting):
            if in_window and self._window_submitted == self._limit:
                if all(exchange.sent_ns for exchange in self.client.in_flight.values()):
                    self.ledger.measure_end_ns = time.perf_counter_ns()
                return
            self._window_submitted += in_window
            self._submit(0)

    def _send_due(self, now: int) -> None:
        """Open loop: everything due by now, in order."""
        due = self.source.due_ns
        while self._next_seq < len(due) and self._start_ns + due[self._next_seq] <= now:
            scheduled = self._start_ns + due[self._next_seq]
            if len(self.client.in_flight) < self._ceiling:
                self._submit(scheduled)
                continue
            exchange = self.source.exchange(self._next_seq, scheduled)
            text = f"not sent: {self._ceiling} requests were in flight, the client's safety ceiling"
            exchange.begun_ns, exchange.failure = now, Failure("error", "client", text)
            self._next_seq += 1
            self._ceiling_hits += 1
            self.ledger.take(exchange)

    def _submit(self, scheduled_ns: int) -> None:
        exchange = self.source.exchange(self._next_seq, scheduled_ns)
        self._next_seq += 1
        self.ledger.sent += 1
        self.client.submit(exchange)

    def _take_done(self) -> None:
        done, self.client.done = self.client.done, []
        for exchange in done:
            self.ledger.take(exchange)
            failure = exchange.failure
            if failure is None or failure.error_class != "connect":
                self._refused = 0
                continue
            self._resting += self._closed
            if self._refused == 0:
                self._refused_since_ns = exchange.end_ns
            self._refused += 1
            self._refused_text = failure.text

    def _gone(self, now: int) -> str | None:
        if self._refused >= _GONE_FAILURES and now - self._refused_since_ns > _GONE_NS:
            return f"the server is gone: {self._refused} connections in a row failed ({self._refused_text})"
        return None

    def _over(self, now: int) -> bool:
        if now < self.ledger.measure_end_ns:
            return False
        return now >= self._end_ns or not any(self._in_window(one) for one in self.client.in_flight.values())

    def _in_window(self, exchange: Exchange) -> bool:
        return self.ledger.phase(exchange.reference_ns) == "measure"

    def _cut(self, stopped: str | None) -> int:
        unfinished = len(self.client.in_flight)
        self.client.cut(f"cut: {stopped}" if stopped else "cut when the step ended")
        return unfinished

    def _say(self, event: str, now: int, **fields: int) -> None:
        ledger = self.ledger
        self.progress.event(
            event,
            step_index=self.step.step_index,
            phase=ledger.phase(now),
            elapsed_s=round(max(0, now - self._start_ns) / NS, 3),
            planned_s=round((ledger.measure_end_ns - self._start_ns) / NS, 3),
            load_kind=self.step.load_kind,
            load_value=self.step.load_value,
            sent=ledger.sent,
            completed=ledger.completed,
            failed=ledger.failed,
            output_tokens=fields.get("output_tokens"),
        )
