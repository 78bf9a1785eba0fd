"""One step of a ladder against the clock: warm-up, window, tail.

Belongs here: the loop, when phases begin and end, the books' closing. Does not belong here: what is sent when
(``orders``), when the server is warm (``warmup``), sockets (``client``), decoding (``ledger``).

By time, phases are planned before the step starts; by state, the window is of planned length and begins when the
warm-up is over. Load goes on unchanged through the tail until every request that arrived in the window is done, at
most ``tail_s``; the rest is then cut and kept as cancelled.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loadgen.client import Client
from loadgen.conductor import Conductor
from loadgen.control import Control
from loadgen.decode import decode
from loadgen.exchange import Exchange
from loadgen.ledger import Ledger
from loadgen.monitor import TICK_NS, Monitor
from loadgen.orders import Orders
from loadgen.plan import Step
from loadgen.progress import Progress
from loadgen.samples import Origin, SampleBatch
from loadgen.source import StepSource
from loadgen.spool import Spool
from loadgen.timer import Timer
from loadgen.warmup import Cells, Warmup, batch_means

NS = 1_000_000_000
_NAP_S, _NAP_CLEAR_NS, _NAP_BELOW = 250e-6, 500_000, 16
_NAP_WORTH_NS = 250_000_000  # a rest of 0.1 % of an answer, on average half of that
_PREPARE_AT_ONCE = 8  # requests encoded ahead of their turn between two looks at the sockets
_FLUSH_AT_ONCE = 4  # finished requests written to the spool between two looks at the sockets
_DRAIN_NS = 10 * NS  # the longest wait for what the tail left in flight
_SWEEP_NS = NS // 10
_GONE_NS = 3 * NS
_GONE_FAILURES = 10
_NEVER_NS = 2**62


@dataclass(slots=True)
class Machinery:
    """What lives as long as the run."""

    client: Client
    timer: Timer
    control: Control
    monitor: Monitor
    progress: Progress
    conductor: Conductor
    spool: Spool
    in_flight_ceiling: int


@dataclass(slots=True)
class StepResult:
    """Monotonic times in ns. ``stopped`` says why the step did not run to its end; ``error`` broke it off, and what it
    had measured is kept. ``backlog`` are 20 batch means of the requests in flight over the window."""

    ledger: Ledger
    starts_ns: dict[str, int]
    measure_end_ns: int
    scheduled_in_window: int
    unfinished: int
    stopped: str | None
    ceiling_hits: int
    warmup: dict[str, Any]
    in_flight_at_start: int | None
    in_flight_at_end: int | None
    in_flight_max: int
    error: Exception | None
    backlog: list[float] = field(default_factory=list)


class StepRunner:
    """Runs one step. *share* is this process's load (users, or arrivals a second), *index* counts the run's steps."""

    def __init__(
        self,
        source: StepSource,
        step: Step,
        share: float,
        machinery: Machinery,
        *,
        index: int,
    ) -> None:
        self.source, self.step, self.index = source, step, index
        self._made = machinery
        self.client, self.control, self.monitor = machinery.client, machinery.control, machinery.monitor
        self._users = int(share) if step.load_kind == "closed" else None
        self._refused, self._refused_since_ns, self._refused_text = 0, 0, ""
        self._asked = False
        self._in_flight_at: dict[str, int] = {}
        self._in_flight_max = 0
        self._answers_ns = 0.0  # how long answers take, smoothed: a rest must be nothing beside them
        self._drain_until_ns: int | None = None  # set once nothing of the window is left in flight
        self._said = (0, 0)  # when and at how many reads the last progress line was written

    def run(self, origin: Origin, emit: Callable[[SampleBatch], None]) -> StepResult:
        """Run the step and decode it; every batch of rows goes to *emit*."""
        step, made = self.step, self._made
        self.source.build()
        gc.collect()
        gc.freeze()
        gc.disable()
        error: Exception | None = None
        try:
            start = made.conductor.step_start(self.index, self.control)
            self._start_ns = start
            self.warmup = Warmup(step, self._users, start, fixed=made.conductor.fixed_warmup)
            self.ledger = Ledger(origin, self.monitor, _NEVER_NS, _NEVER_NS, made.spool)
            self._end_ns = _NEVER_NS
            if self.warmup.fixed:
                self._begin_window(start + int(step.warmup_s * NS))
            self.orders = Orders(
                self.source,
                self.client,
                self.ledger,
                start_ns=start,
                users=self._users,
                ceiling=made.in_flight_ceiling,
            )
            if self._users is not None:
                self.client.warm(min(self._users, made.in_flight_ceiling))
            self._said = (start, self.client.counters.reads)
            self._say("step_start", start)
            try:
                stopped, unfinished = self._loop()
            except Exception as failure:  # what was measured up to now is kept
                error, stopped = failure, f"{type(failure).__name__}: {failure}"
                unfinished = self._cut("an error inside the load generator")
        finally:
            gc.enable()
            gc.unfreeze()
        return self._close(stopped, unfinished, error, emit)

    def _begin_window(self, at_ns: int) -> None:
        ledger = self.ledger
        ledger.measure_ns, ledger.measure_end_ns = at_ns, at_ns + int(self.step.window_s * NS)
        self._end_ns = ledger.measure_end_ns + int(self.step.tail_s * NS)
        self.cells = Cells(at_ns)

    def _close(
        self,
        stopped: str | None,
        unfinished: int,
        error: Exception | None,
        emit: Callable[[SampleBatch], None],
    ) -> StepResult:
        ledger, orders = self.ledger, self.orders
        self.monitor.window_end()
        now = time.perf_counter_ns()
        planned_end = ledger.measure_ns + int(self.step.window_s * NS)
        if ledger.measure_ns == _NEVER_NS:  # stopped while warming up
            ledger.measure_ns = ledger.measure_end_ns = planned_end = self._end_ns = now
            self.cells = Cells(now)
        ledger.measure_end_ns = min(ledger.measure_end_ns, max(ledger.measure_ns, now))
        self._take_done()
        ledger.settle(emit)
        self.client.close_idle()
        end = ledger.measure_end_ns
        closed = self._users is not None
        scheduled = ledger.window_sent if closed else orders.scheduled_in(ledger.measure_ns, end)
        starts = {
            "warmup": self._start_ns,
            "measure": ledger.measure_ns,
            "tail": planned_end,
            "end": self._end_ns,
        }
        self._say("step_end", time.perf_counter_ns(), output_tokens=ledger.output_tokens)
        return StepResult(
            ledger,
            starts,
            end,
            scheduled,
            unfinished,
            stopped,
            orders.ceiling_hits,
            self.warmup.record(ledger.measure_ns),
            self._in_flight_at.get("start"),
            self._in_flight_at.get("end"),
            self._in_flight_max,
            error,
            batch_means(self.cells.in_flight),
        )

    def _loop(self) -> tuple[str | None, int]:
        client, orders, timer = self.client, self.orders, self._made.timer
        tick = self._start_ns
        self._sweep_ns = self._report_ns = self._start_ns + _SWEEP_NS
        timer.arm(tick)
        # A rest delays connecting too, so connections have to be kept.
        in_flight, naps = client.in_flight, client.stamped_by_kernel and not self.source.fresh_connections
        upcoming = tick
        while True:
            ready = client.poll()
            now = time.perf_counter_ns()
            if not client.done and now < upcoming and client.next_due_ns() is None:
                # Nothing but bytes, and the kernel has stamped them: reading a little later, many at a time, costs
                # fewer wake-ups and changes no stamp but those that a read shares. Spare time goes to what would
                # otherwise be done in the burst at the end of an answer.
                if ready >= _NAP_BELOW or upcoming - now < _NAP_CLEAR_NS:
                    continue
                if self.ledger.waiting:
                    self.ledger.flush(_FLUSH_AT_ONCE if naps else 1)
                elif orders.prepare(_PREPARE_AT_ONCE if naps else 1):
                    pass
                elif naps and len(in_flight) >= _NAP_BELOW and self._answers_ns > _NAP_WORTH_NS:
                    time.sleep(_NAP_S)
                continue
            if (due := client.next_due_ns()) is not None and due <= now:
                client.fire_due(now)
            if client.done:
                self._take_done()
            if now >= self._start_ns and self._drain_until_ns is None:
                orders.send(now)
            if now >= tick:
                if ready < _NAP_BELOW:
                    self.ledger.flush(_FLUSH_AT_ONCE)
                self._tick(tick, now)
                stopped = self.control.stop_reason() or self._gone(now)
                if stopped is not None or self._drained(now):
                    return stopped, self._cut(stopped)
                tick += (now - tick) // TICK_NS * TICK_NS + TICK_NS
            upcoming = tick
            next_order = orders.next_ns() if self._drain_until_ns is None else None
            for due in (next_order, client.next_due_ns()):
                if due is not None and due < upcoming:
                    upcoming = due
            timer.arm(upcoming)

    def _tick(self, tick: int, now: int) -> None:
        client, ledger = self.client, self.ledger
        in_flight, reads = len(client.in_flight), client.counters.reads
        self._in_flight_max = max(self._in_flight_max, in_flight)
        if now < ledger.measure_ns:
            if now >= self._start_ns:
                self._warm(now, in_flight, reads)
        elif now < ledger.measure_end_ns:
            self._in_flight_at.setdefault("start", in_flight)
            self._in_flight_at["end"] = in_flight
            self.cells.tick(now, in_flight, reads)
            self.monitor.tick(tick, now, reads)
        else:
            self.monitor.window_end()
        if client.clock is not None:
            client.clock.sample()
        if now >= self._sweep_ns:
            self._sweep_ns = now + _SWEEP_NS
            self.orders.resting = 0
            client.sweep(now)
            if not self.source.sessions:
                ledger.spill(client.in_flight.values())
        if now >= self._report_ns:
            self._report_ns = now + NS
            self._say("progress", now)

    def _warm(self, now: int, in_flight: int, reads: int) -> None:
        if self.warmup.by_state and not self._asked:
            self.warmup.cells.tick(now, in_flight, reads)
        if self.warmup.fixed or (not self._asked and not self.warmup.over(now)):
            return
        conductor = self._made.conductor
        if not self._asked:
            self._asked = True
            conductor.ask_window(self.index)
        if self.ledger.measure_ns == _NEVER_NS and (at := conductor.window_start(self.index)) is not None:
            self._begin_window(at)

    def _take_done(self) -> None:
        done, self.client.done = self.client.done, []
        for exchange in done:
            if exchange.sent_ns:
                self._answers_ns += (exchange.end_ns - exchange.sent_ns - self._answers_ns) / 8
            if self.warmup.by_state and not self._asked and exchange.end_ns < self.ledger.measure_ns:
                self.warmup.done(exchange)
            if self.source.sessions:
                self.orders.done(exchange, decode(exchange, text=True))
            self.ledger.take(exchange)
            failure = exchange.failure
            if failure is None or failure.error_class != "connect":
                self._refused = 0
                continue
            # A refused user rests; it is a failure all the same.
            self.orders.resting += self._users is not None
            if self._refused == 0:
                self._refused_since_ns = exchange.end_ns
            self._refused += 1
            self._refused_text = failure.text

    def _gone(self, now: int) -> str | None:
        if self._refused >= _GONE_FAILURES and now - self._refused_since_ns > _GONE_NS:
            return f"the server is gone: {self._refused} connections in a row failed ({self._refused_text})"
        return None

    def _drained(self, now: int) -> bool:
        """Whether the step is done: the window is, and what the tail still had in flight came to its end.

        Cutting it would leave the engine working for nobody while the next step begins, and its counters would never
        agree with ours. It is cut all the same after ten seconds, or when the longest tail is over.
        """
        if self._drain_until_ns is None and self._over(now):
            self._drain_until_ns = min(self._end_ns, now + _DRAIN_NS)
        if self._drain_until_ns is None:
            return False
        return not self.client.in_flight or now >= self._drain_until_ns

    def _over(self, now: int) -> bool:
        ledger = self.ledger
        if now < ledger.measure_ns:
            return False
        if now < ledger.measure_end_ns:
            if self.client.in_flight or not self.orders.exhausted:
                return False
            ledger.measure_end_ns = now  # work given at once is done
        return now >= self._end_ns or not any(self._in_window(one) for one in self.client.in_flight.values())

    def _in_window(self, exchange: Exchange) -> bool:
        return self.ledger.measure_ns <= exchange.reference_ns < self.ledger.measure_end_ns

    def _cut(self, stopped: str | None) -> int:
        unfinished = len(self.client.in_flight)
        self.client.cut(f"cut: {stopped}" if stopped else "cut when the step ended")
        return unfinished

    def _say(self, event: str, now: int, **fields: int) -> None:
        ledger, reads = self.ledger, self.client.counters.reads
        since, before = self._said
        seconds = (now - since) / NS
        self._said = (now, reads)
        known = ledger.measure_end_ns != _NEVER_NS
        phase = "warmup" if not known else ledger.phase(now)
        planned_s = (ledger.measure_end_ns - self._start_ns) / NS if known else self.step.planned_s
        self._made.progress.event(
            event,
            step_index=self.step.step_index,
            kind=self.step.kind,
            phase=phase,
            elapsed_s=round(max(0, now - self._start_ns) / NS, 3),
            planned_s=round(planned_s, 3),
            load_kind=self.step.load_kind,
            load_value=self.step.load_value,
            sent=ledger.sent,
            completed=ledger.completed,
            failed=ledger.failed,
            in_flight=len(self.client.in_flight),
            events_per_s=round((reads - before) / seconds, 1) if seconds > 0.05 and reads >= before else None,
            output_tokens=fields.get("output_tokens"),
        )
