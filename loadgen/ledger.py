"""Books of one step: finished requests in, batches of samples and counts out.

Belongs here: the phase a request belongs to, what waits for the decoder and where, the counts of
``shard.json``.
Does not belong here: the clock (``steps``), the spool's format (``spool``), writing parts (``run``).

While the clock runs, :meth:`Ledger.take` and :meth:`Ledger.flush` put raw answers into the spool; nothing
stays in memory. :meth:`Ledger.settle` decodes them afterwards. Phases are decided then, so the window may
be moved until then.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from loadgen.clock import KernelClock
from loadgen.decode import decode
from loadgen.exchange import Exchange
from loadgen.monitor import Monitor
from loadgen.output import OutputError, sentence
from loadgen.samples import Origin, SampleBatch
from loadgen.spool import Spool
from loadgen.spool_decode import BackgroundDecoder, batches

_PENDING_MAX = 32
_CAUSE_TEXT_MAX = 200


@dataclass(slots=True)
class Ledger:
    """Phases by the reference time a: warm-up before ``measure_ns``, window up to ``measure_end_ns``, tail
    after it. Counts of the window are there after :meth:`settle`, and so are ``chunks``, ``shared_chunks``
    (chunks whose read brought a later one too: its stamp is not theirs) and the lag. Requests whose ids are
    in *skip* are left out. ``sent`` is the caller's to count; ``completed`` and ``failed`` are current, of
    what was taken. Without a *spool* it has a temporary one of its own.
    """

    origin: Origin
    monitor: Monitor
    measure_ns: int
    measure_end_ns: int
    spool: Spool | None = None
    skip: Container[str] = ()
    sent: int = 0
    completed: int = 0
    failed: int = 0
    window_sent: int = 0
    window_ok: int = 0
    window_cut: int = 0
    window_failures: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    chunks: int = 0
    shared_chunks: int = 0
    requests_by_replica: Counter[str] = field(default_factory=Counter)
    _own_spool: bool = False
    _phases_written: tuple[int, int] | None = None
    _background: BackgroundDecoder | None = None
    _clock: KernelClock | None = None
    _pending: list[Exchange] = field(default_factory=list)
    _lags_us: Counter[int] = field(default_factory=Counter)
    _causes: dict[tuple[str, str | None, int | None], list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.spool is None:
            self.spool, self._own_spool = Spool.open(None), True
        self._background = BackgroundDecoder(self.spool)
        self._begin()

    def _begin(self) -> None:
        assert self.spool is not None
        origin = self.origin
        self._phases_written = (self.measure_ns, self.measure_end_ns)
        self.spool.begin(
            {
                "run_id": origin.run_id,
                "shard": origin.shard,
                "step_index": origin.step_index,
                "model": origin.model,
                "wall_offset_ns": origin.wall_offset_ns,
                "measure_ns": self.measure_ns,
                "measure_end_ns": self.measure_end_ns,
            }
        )

    def phase(self, reference_ns: int) -> str:
        """warmup, measure or tail."""
        if reference_ns < self.measure_ns:
            return "warmup"
        return "measure" if reference_ns < self.measure_end_ns else "tail"

    def take(self, exchange: Exchange) -> None:
        """Accept a finished request; costs next to nothing until :meth:`flush`, which it calls when many wait."""
        self._pending.append(exchange)
        failure = exchange.failure
        cut = failure is not None and failure.status == "cancelled"
        self.completed += not cut
        self.failed += not cut and (failure is not None or exchange.http_status != 200)
        if len(self._pending) >= _PENDING_MAX:  # a busy loop: two for one, so that it never stalls for many
            self.flush(2)

    @property
    def waiting(self) -> int:
        """Requests taken and not yet written."""
        return len(self._pending)

    def flush(self, most: int | None = None) -> None:
        """Write what was taken (at most so many) to the spool: some 50 µs a request. Best called when nothing else is
        to be done. Raises ``OutputError``; what could not be written stays in memory."""
        assert self.spool is not None
        assert self._background is not None
        if not self._pending:
            return
        written = 0
        try:
            if self._phases_written != (self.measure_ns, self.measure_end_ns):
                self._begin()
            for exchange in self._pending[:most]:
                self._clock = exchange.clock or self._clock
                self.spool.append(exchange)
                written += 1
        except OSError as error:
            raise OutputError(sentence(error, f"writing answers to {self.spool.folder}")) from None
        finally:
            del self._pending[:written]
        self._background.look(self._clock)

    def spill(self, in_flight: Iterable[Exchange]) -> None:
        """Move the bytes of long answers that are still coming in to disk; to be called a few times a
        second."""
        assert self.spool is not None
        for exchange in in_flight:
            self.spool.spill(exchange)

    def settle(self, emit: Callable[[SampleBatch], None]) -> None:
        """Decode everything, after the clock, in the order requests finished, and hand it on in batches of at
        most 1,024 rows or about 16 MiB."""
        assert self.spool is not None
        assert self._background is not None
        with contextlib.suppress(OutputError):  # what could not be written is decoded from memory below
            self.flush()
        self._background.stop()
        try:
            for segment in self.spool.finish():
                for batch in self._batches(segment):
                    self._count(batch)
                    emit(batch)
                self.spool.remove(segment)
            if self._pending:
                batch = SampleBatch()
                for exchange in self._pending:
                    batch.add(self.origin, exchange.phase or "", exchange, decode(exchange, text=True))
                self._pending.clear()
                self._count(batch)
                emit(batch)
        finally:
            if self._own_spool:
                self.spool.close()

    def lag_p99_us(self) -> int | None:
        """User stamp minus kernel stamp over the reads of window requests, µs; ``None`` without kernel
        stamps."""
        wanted = -(-99 * self._lags_us.total() // 100)
        for lag in sorted(self._lags_us):
            wanted -= self._lags_us[lag]
            if wanted <= 0:
                return lag
        return None

    def causes(self) -> list[dict[str, Any]]:
        """Why requests did not end well, most frequent first: ``count``, ``status``, ``error_class``,
        ``http_status`` and the scrubbed ``text`` of the first. Of all phases; after :meth:`settle`."""
        rows = [
            dict(zip(("status", "error_class", "http_status"), key, strict=True), count=count, text=text)
            for key, (count, text) in self._causes.items()
        ]
        return sorted(rows, key=lambda row: -row["count"])

    def _batches(self, segment: Any) -> Iterator[SampleBatch]:
        assert self._background is not None
        if segment in self._background.decoded:
            return self._background.batches(segment, self._clock)
        return batches(segment, self._clock, self.origin.redact, self.skip)

    def _count(self, batch: SampleBatch) -> None:
        columns, origin = batch.columns, self.origin
        phases, replicas = columns["phase"], columns["replica_id"]
        for row, reference in enumerate(columns["scheduled_at"]):
            phase = phases[row] = phases[row] or self.phase(reference - origin.wall_offset_ns)
            text = columns["error_text"][row]
            if text is not None:
                text = columns["error_text"][row] = origin.redact(text)[:_CAUSE_TEXT_MAX]
            status, error_class = columns["status"][row], columns["error_class"][row]
            if status != "ok":
                key = (status, error_class, columns["http_status"][row])
                self._causes.setdefault(key, [0, text])[0] += 1
            first, end = batch.offsets[row], batch.offsets[row + 1]
            self.output_tokens += sum(batch.chunk_tokens[first:end])
            was_sent = columns["sent_at"][row] is not None
            self.requests_by_replica[replicas[row]] += was_sent
            if phase != "measure":
                continue
            self.window_sent += was_sent
            if was_sent:
                self.monitor.send_lags_ns.append(columns["sent_at"][row] - reference)
            self.chunks += end - first
            self.shared_chunks += batch.borrowed_chunks[row]
            self._lags_us.update(batch.read_lags_us[batch.lag_offsets[row] : batch.lag_offsets[row + 1]])
            if status == "ok":
                self.window_ok += 1
            elif status == "cancelled":
                self.window_cut += 1
            else:
                self.window_failures[error_class or status] += 1
