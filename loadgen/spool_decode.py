"""Segments of the spool to batches of samples, in bounded memory: in this process after the clock, or in a
background process at the lowest priority while a long step still runs.

Belongs here: when a batch is full, the background process and its files.
Does not belong here: the segments' format (``spool``), phases and counts (``ledger``).

A batch's ``phase`` is empty where only the time decides it: the window may still move. That process writes
``SEGMENT.NNN.parquet`` beside its segment and, when all are there, ``SEGMENT.done`` with the number of reads
whose kernel stamp it took back; texts of errors in them are not scrubbed yet, so they are as private as the
segment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from loadgen.clock import KernelClock
from loadgen.decode import decode
from loadgen.exchange import Exchange
from loadgen.samples import Origin, SampleBatch
from loadgen.spool import Spool, records

BATCH_ROWS, BATCH_BYTES = 1_024, 16 * 2**20
WAITING_BYTES_MAX = 2**30


def origin_of(record: dict[str, Any], redact: Callable[[str], str]) -> Origin:
    """The samples' origin of an origin record."""
    names = (record["run_id"], record["shard"], record["step_index"], record["model"])
    return Origin(*names, record["wall_offset_ns"], redact)


def batches(
    segment: Path,
    clock: KernelClock | None,
    redact: Callable[[str], str],
    skip: Container[str] = (),
) -> Iterator[SampleBatch]:
    """Decode a segment in order, leaving out the request ids in *skip*; *clock* knows the jumps."""
    batch, origin = SampleBatch(), None
    for record in records(segment):
        if not isinstance(record, Exchange):
            if len(batch):
                yield batch
                batch = SampleBatch()
            origin = origin_of(record, redact)
            continue
        assert origin is not None  # a segment begins with one
        if record.request.request_id in skip:
            continue
        record.clock = clock
        batch.add(origin, record.phase or "", record, decode(record, text=True))
        if len(batch) >= BATCH_ROWS or batch.size_bytes >= BATCH_BYTES:
            yield batch
            batch = SampleBatch()
    if len(batch):
        yield batch


class BackgroundDecoder:
    """Decodes full segments of *spool*, one at a time, once more than *limit_bytes* wait."""

    def __init__(self, spool: Spool, *, limit_bytes: int = WAITING_BYTES_MAX) -> None:
        self._spool, self._limit = spool, limit_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._segment: Path | None = None
        self._seen = 0
        self.decoded: list[Path] = []  # segments whose batches lie beside them, in order
        for segment in spool.segments:  # of a killed run
            self._judge(segment)

    def look(self, clock: KernelClock | None) -> None:
        """To be called now and then: take what is finished, start what is due. Costs nothing below the
        limit."""
        full = self._spool.full_segments()
        if self._process is None and len(full) == self._seen:
            return
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._take()
        self._seen = len(full)
        waiting = [segment for segment in full if segment not in self.decoded]
        if sum(segment.stat().st_size for segment in waiting) <= self._limit:
            return
        self._seen = -1  # look again when this one is done
        self._segment = waiting[0]
        jumps = clock.jumps if clock is not None else []
        command = [sys.executable, "-m", "loadgen.spool_decode", str(self._segment), json.dumps(jumps)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=_HOME
        )

    def stop(self) -> None:
        """End the background process; what it has not finished is decoded by the caller."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._take()

    def _take(self) -> None:
        assert self._segment is not None
        self._judge(self._segment)
        self._process = self._segment = None

    def _judge(self, segment: Path) -> None:
        """Keep what was decoded of *segment* if it is all there."""
        if _done(segment).exists():
            self.decoded.append(segment)
            os.truncate(segment, 0)  # its bytes are no longer needed, its name still orders the rest
        else:
            for part in parts(segment):
                part.unlink()

    def batches(self, segment: Path, clock: KernelClock | None) -> Iterator[SampleBatch]:
        """What was decoded of *segment* before; its files go as they are read."""
        if clock is not None:
            clock.fallbacks += int(_done(segment).read_text(encoding="ascii"))
        for part in parts(segment):
            yield SampleBatch.from_parquet(part.read_bytes())
            part.unlink()
        _done(segment).unlink()


_HOME = Path(__file__).parents[1]  # where ``python -m loadgen…`` finds this package


def parts(segment: Path) -> list[Path]:
    """The background process's files of a segment, in order."""
    return sorted(segment.parent.glob(f"{segment.name}.*.parquet"))


def _done(segment: Path) -> Path:
    return segment.with_name(f"{segment.name}.done")


def _main(segment: Path, jumps: list[tuple[int, int]]) -> None:
    os.nice(19)
    os.umask(0o077)
    clock = KernelClock()
    clock.jumps = jumps
    for index, batch in enumerate(batches(segment, clock, lambda text: text)):
        segment.with_name(f"{segment.name}.{index:06d}.parquet").write_bytes(
            batch.to_parquet(with_counts=True)
        )
    partial = segment.with_name(f"{segment.name}.done.tmp")
    partial.write_text(str(clock.fallbacks), encoding="ascii")
    partial.rename(_done(segment))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), [(begin, end) for begin, end in json.loads(sys.argv[2])])
