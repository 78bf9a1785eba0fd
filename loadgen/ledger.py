"""Books of one step: finished requests in, sample rows and counts out.

Belongs here: the phase a request belongs to, when its bytes are decoded, the counts of ``shard.json``.
Does not belong here: the clock (``steps``), writing (``run``).

Bytes are decoded after the step. Only when more than 512 MiB of them wait, one answer is decoded at each
look, so that a long step's memory stays bounded; the loop's lag shows what that costs.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from loadgen.decode import decode
from loadgen.exchange import Exchange
from loadgen.monitor import Monitor
from loadgen.samples import Origin, SampleBatch

_RAW_BYTES_MAX = 512 * 2**20


@dataclass(slots=True)
class Ledger:
    """Phases by the reference time a: warm-up before ``measure_ns``, window up to ``measure_end_ns``, tail
    after it."""

    origin: Origin
    monitor: Monitor
    measure_ns: int
    measure_end_ns: int
    batch: SampleBatch = field(default_factory=SampleBatch)
    sent: int = 0
    completed: int = 0
    failed: int = 0
    window_sent: int = 0
    window_ok: int = 0
    window_cut: int = 0
    window_failures: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    _waiting: deque[Exchange] = field(default_factory=deque)
    _raw_bytes: int = 0

    def phase(self, reference_ns: int) -> str:
        """warmup, measure or tail."""
        if reference_ns < self.measure_ns:
            return "warmup"
        return "measure" if reference_ns < self.measure_end_ns else "tail"

    def take(self, exchange: Exchange) -> None:
        """Accept a finished request; cheap."""
        self._waiting.append(exchange)
        self._raw_bytes += sum(map(len, exchange.reads))
        cut = exchange.failure is not None and exchange.failure.status == "cancelled"
        self.completed += not cut
        self.failed += not cut and (exchange.failure is not None or exchange.http_status != 200)
        if self._raw_bytes > _RAW_BYTES_MAX:
            self._settle_one()

    def settle(self) -> None:
        """Decode everything that waits, after the clock."""
        while self._waiting:
            self._settle_one()

    def _settle_one(self) -> None:
        exchange = self._waiting.popleft()
        self._raw_bytes -= sum(map(len, exchange.reads))
        answer = decode(exchange)
        phase = self.phase(exchange.reference_ns)
        self.batch.add(self.origin, phase, exchange, answer)
        self.output_tokens += sum(answer.chunk_tokens)
        if phase != "measure":
            return
        self.window_sent += exchange.sent_ns > 0
        if exchange.sent_ns:
            self.monitor.send_lags_ns.append(exchange.sent_ns - exchange.reference_ns)
        if answer.status == "ok":
            self.window_ok += 1
        elif answer.status == "cancelled":
            self.window_cut += 1
        else:
            self.window_failures[answer.error_class or answer.status] += 1
