"""The threads that read the side channels beside a load: at fixed times, bounded, never in anybody's way.

Belongs here: when readings are taken, what a gap is, how many rows are kept. Does not belong here: what is read
(``prometheus``, ``sources``), what is made of it (``reduce``).

One thread for the engine's pages and one for each accelerator source, so that a slow driver makes no gaps in the
engine's series. Readings are due on an absolute schedule (start + k × ``every_s``), whatever the one before took. A
reading that fails or takes longer than two seconds (nobody could say which moment it describes) is a gap, as are a
replica that did not answer and every time that passed meanwhile: gaps are counted by reason and never an error. Times
are of one clock: the monotonic one, anchored to UTC once at the start, like the load generator's own.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from accelbench_assets.telemetry.prometheus import Reading, engine_readings
from accelbench_assets.telemetry.sources import Source, Unread
from loadgen import clock

if TYPE_CHECKING:
    import pyarrow as pa

SLOW_S = 2.0
MAX_ROWS = 200_000
"""Rows one thread keeps; beyond, every other moment is dropped and the pace halved (coverage then says so)."""
_ABSENT_AFTER = 5
_JOIN_S = 6.0
_NS = 1_000_000_000


class _Record:
    """Readings of one thread, in machine arrays: some 20 bytes a row however long the run."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.keys: dict[tuple[str, str, str], int] = {}
        self.at_ns, self.key, self.value = array("q"), array("l"), array("d")
        self.readings = 0
        self.gaps: Counter[str] = Counter()

    def add(self, at_ns: int, readings: Sequence[Reading]) -> bool:
        """Keep one moment; true when there were too many and every other moment was dropped."""
        self.readings += 1
        for reading in readings:
            identity = (reading.source, reading.name, reading.labels)
            self.at_ns.append(at_ns)
            self.key.append(self.keys.setdefault(identity, len(self.keys)))
            self.value.append(reading.value)
        if len(self.at_ns) <= self.max_rows:
            return False
        kept = {moment for index, moment in enumerate(dict.fromkeys(self.at_ns)) if index % 2 == 0}
        rows = [i for i, moment in enumerate(self.at_ns) if moment in kept]
        self.at_ns = array("q", [self.at_ns[i] for i in rows])
        self.key = array("l", [self.key[i] for i in rows])
        self.value = array("d", [self.value[i] for i in rows])
        return True


class Sampler:
    """Reads the engine and *extra* sources while its ``with`` block runs; rows are there once it is left.

    *read* returns the engine's metrics text by replica and bounds its own time, as ``Endpoint.read_metrics`` does; an
    engine that shows no page at all is left alone after five tries. *engine* names it in the reasons of gaps.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, str]],
        engine: str,
        run_id: str,
        every_s: float = 1.0,
        extra: Sequence[Source] = (),
        *,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._read, self._engine, self._run_id, self._every_s = read, engine, run_id, every_s
        self._extra = tuple(extra)
        self._engine_record = _Record(max_rows)
        self._extra_records = tuple(_Record(max_rows) for _ in self._extra)
        self._replicas: set[str] = set()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._wall_offset_ns = 0

    def __enter__(self) -> Sampler:
        """Start reading: the first readings are taken at once."""
        self._wall_offset_ns = clock.reading(time.time_ns, time.monotonic_ns)[1]
        jobs: list[tuple[str, Callable[[], list[Reading]], _Record]] = [
            (self._engine, self._read_engine, self._engine_record)
        ]
        jobs += [(s.name, s.read, record) for s, record in zip(self._extra, self._extra_records, strict=True)]
        for name, read, record in jobs:
            thread = threading.Thread(
                target=self._follow, args=(read, record), name=f"telemetry {name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more readings; one under way may still end, within its own bound."""
        self._stop.set()
        limit = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, limit - time.monotonic()))
        for source in self._extra:
            source.close()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """``engine_metrics`` rows: run_id, at, source, name (canonical), labels (JSON, own name included), value."""
        return self._rows([self._engine_record])

    @property
    def accelerator_rows(self) -> list[dict[str, Any]]:
        """``accelerator_metrics`` rows, of the same fields; ``source`` begins with the kind of source."""
        return self._rows(self._extra_records)

    @property
    def gaps(self) -> dict[str, int]:
        """How many readings were missed, by reason; an engine without a known page misses none."""
        total: Counter[str] = Counter()
        for record in (self._engine_record, *self._extra_records):
            if record.readings or record is not self._engine_record:
                total += record.gaps
        return dict(total)

    @property
    def readings(self) -> int:
        """Readings taken, the engine's and the accelerators' together."""
        return sum(record.readings for record in (self._engine_record, *self._extra_records))

    def table(self, schema: pa.Schema, *, accelerators: bool = False) -> pa.Table:
        """The rows as a table of *schema* (``engine_metrics`` or ``accelerator_metrics``)."""
        import pyarrow as pa

        rows = self.accelerator_rows if accelerators else self.rows
        return pa.Table.from_pylist(rows, schema=schema)

    def _rows(self, records: Sequence[_Record]) -> list[dict[str, Any]]:
        found = []
        for record in records:
            keys = list(record.keys)
            for at_ns, key, value in zip(record.at_ns, record.key, record.value, strict=False):
                source, name, labels = keys[key]
                at = datetime.fromtimestamp(at_ns // _NS, UTC).replace(microsecond=at_ns % _NS // 1000)
                found.append(
                    {
                        "run_id": self._run_id,
                        "at": at,
                        "source": source,
                        "name": name,
                        "labels": labels,
                        "value": value,
                    }
                )
        return found

    def _read_engine(self) -> list[Reading]:
        texts = self._read()
        for replica in self._replicas - set(texts) if texts else ():
            self._engine_record.gaps[f"{replica} did not answer"] += 1
        self._replicas |= set(texts)
        readings = [reading for replica, text in texts.items() for reading in engine_readings(replica, text)]
        if not readings:
            what = "shows no metrics that are known" if texts else "did not answer"
            raise Unread(f"{self._engine} {what}")
        return readings

    def _follow(self, read: Callable[[], list[Reading]], record: _Record) -> None:
        """One thread's life: read at start + k × every_s until told to stop."""
        every_ns = int(self._every_s * _NS)
        absent = 0
        due = time.monotonic_ns()
        while not self._stop.is_set():
            began = time.monotonic_ns()
            try:
                readings = read()
                took = time.monotonic_ns() - began
                if took > SLOW_S * _NS:
                    raise Unread(f"a reading took longer than {SLOW_S:g} s")
                if record.add(began + took // 2 + self._wall_offset_ns, readings):
                    every_ns *= 2
            except Exception as error:  # whatever a side channel does, the run goes on
                record.gaps[_reason(error)] += 1
                absent += time.monotonic_ns() - began < SLOW_S * _NS  # a server too busy to answer is there
                if record.readings == 0 and absent >= _ABSENT_AFTER:
                    return
            due += every_ns
            while due <= time.monotonic_ns():
                record.gaps["a reading was still under way"] += 1
                due += every_ns
            self._stop.wait((due - time.monotonic_ns()) / _NS)


def _reason(error: Exception) -> str:
    return str(error)[:200] if isinstance(error, Unread) else f"{type(error).__name__}: {error}"[:200]
