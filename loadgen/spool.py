"""Raw answers on disk between the socket and the decoder, so that memory does not grow with the run.

Belongs here: the file format of finished exchanges, parts of long answers that are still coming in, segment
files and their removal.
Does not belong here: decoding (``spool_decode``), phases and counts (``ledger``), the killed generator's files
(``recover``).

A spool is a row of segment files ``.spool-PID-NNNN.raw`` (mode 0600) in the output folder. Each begins with
an ``origin`` record and goes on with ``exchange`` records, so that it can be decoded alone. A record: header
(magic, kind, length of the JSON, length of the payload), JSON, payload. An exchange's payload: stamps and
lags (int64 each), sizes of the reads (uint32), the reads' bytes, in this machine's byte order. Bytes of long
answers in flight go to ``.spill-PID-NNNN.raw`` and are copied into their record at the end; a file no
answer needs is removed. While the writer lives it holds a lock on ``.spool-PID.lock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from loadgen.exchange import Exchange, Failure, Request
from loadgen.plan import Replica

SEGMENT_BYTES = 256 * 2**20
ORIGIN, EXCHANGE = 1, 2
_HEAD = struct.Struct("=4sIIQ")
_MAGIC = b"spl1"
_SPILL_READS = 256


class Spool:
    """Appends exchanges; one per run. Raises ``OSError`` when the disk is full or gone."""

    def __init__(self, folder: Path, *, temporary: bool = False, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder, self._temporary, self._segment_bytes = folder, temporary, segment_bytes
        self.segments: list[Path] = []  # in order; the last one is being written
        self._origin = b""
        self._file = self._spill_file = self._lock = -1
        self._size = self._spill_size = self._count = self._spill_count = 0
        self._pieces: Counter[int] = Counter()  # live pieces of each spill file

    @classmethod
    def open(cls, folder: Path | str | None = None, *, segment_bytes: int = SEGMENT_BYTES) -> Spool:
        """A spool in *folder*, which exists; ``None`` makes a temporary folder and removes it at the end."""
        if folder is None:
            made = Path(tempfile.mkdtemp(prefix="loadgen-spool-"))
            return cls(made, temporary=True, segment_bytes=segment_bytes)
        return cls(Path(folder), segment_bytes=segment_bytes)

    def begin(self, origin: dict[str, Any]) -> None:
        """What every exchange from now on has in common; a JSON object, the first record of each segment."""
        self._origin = _record(ORIGIN, _json(origin), b"")
        if self._file >= 0:
            self._write(self._origin)

    def append(self, exchange: Exchange) -> None:
        """Write one finished exchange; its bytes may be dropped then."""
        if self._file < 0 or self._size > self._segment_bytes:
            self._next_segment()
        self._restore(exchange)
        payload = b"".join(
            (
                exchange.stamps.tobytes(),
                (exchange.lags_ns or array("q", [-1]) * len(exchange.stamps)).tobytes(),
                array("I", map(len, exchange.reads)).tobytes(),
                *exchange.reads,
            )
        )
        self._write(_record(EXCHANGE, _meta(exchange), payload))

    def spill(self, exchange: Exchange) -> None:
        """Move the bytes of a long answer that is still coming in out of memory; cheap for a short one."""
        if len(exchange.reads) < _SPILL_READS:
            return
        if self._spill_file < 0 or self._spill_size > self._segment_bytes:
            self._next_spill()
        data = b"".join(exchange.reads)
        _write_all(self._spill_file, data)
        exchange.spilled.append((self._spill_count, self._spill_size, len(data)))
        exchange.spilled_sizes.extend(map(len, exchange.reads))
        exchange.reads.clear()
        self._pieces[self._spill_count] += 1
        self._spill_size += len(data)

    def full_segments(self) -> list[Path]:
        """Segments nothing more is appended to."""
        return self.segments[:-1] if self._file >= 0 else self.segments[:]

    def finish(self) -> list[Path]:
        """Nothing more comes until the next :meth:`append`: all segments, to be decoded and removed."""
        self._close_segment()
        return self.segments[:]

    def remove(self, segment: Path) -> None:
        """Forget a decoded segment."""
        segment.unlink(missing_ok=True)
        self.segments.remove(segment)

    def close(self) -> None:
        """Remove everything."""
        self._close_segment()
        for segment in self.segments:
            segment.unlink(missing_ok=True)
        self.segments.clear()
        if self._spill_file >= 0:
            os.close(self._spill_file)
            self._spill_file = -1
        for index in {*self._pieces, self._spill_count}:
            self._spill_path(index).unlink(missing_ok=True)
        if self._lock >= 0:
            self._lock_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1
        if self._temporary:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    # ------------------------------------------------------------------ files

    def _next_segment(self) -> None:
        self._close_segment()
        self._count += 1
        path = self.folder / f".spool-{os.getpid()}-{self._count:04d}.raw"
        if self._lock < 0:
            self._lock = os.open(self._lock_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.segments.append(path)
        self._size = 0
        self._write(self._origin)

    @property
    def _lock_path(self) -> Path:
        return self.folder / f".spool-{os.getpid()}.lock"

    def _close_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, record: bytes) -> None:
        try:
            _write_all(self._file, record)
        except OSError:
            os.ftruncate(self._file, self._size)  # half a record would hide all that follow
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(record)

    def _spill_path(self, index: int) -> Path:
        return self.folder / f".spill-{os.getpid()}-{index:04d}.raw"

    def _next_spill(self) -> None:
        if self._spill_file >= 0:
            os.close(self._spill_file)
        previous, self._spill_count = self._spill_count, self._spill_count + 1
        if not self._pieces[previous]:
            self._spill_path(previous).unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._spill_file = os.open(self._spill_path(self._spill_count), flags, 0o600)
        self._spill_size = 0

    def _restore(self, exchange: Exchange) -> None:
        """Bring the spilled reads of an exchange back, which then needs their files no longer."""
        if not exchange.spilled:
            return
        pieces: list[bytes] = []
        for index, offset, size in exchange.spilled:
            with self._spill_path(index).open("rb") as file:
                file.seek(offset)
                pieces.append(file.read(size))
            self._pieces[index] -= 1
            if not self._pieces[index]:
                del self._pieces[index]
                if index != self._spill_count:
                    self._spill_path(index).unlink(missing_ok=True)
        data, at, reads = b"".join(pieces), 0, []
        for size in exchange.spilled_sizes:
            reads.append(data[at : at + size])
            at += size
        exchange.reads[:0] = reads
        exchange.spilled.clear()
        del exchange.spilled_sizes[:]


def _record(kind: int, meta: bytes, payload: bytes) -> bytes:
    return b"".join((_HEAD.pack(_MAGIC, kind, len(meta), len(payload)), meta, payload))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # text of a user's data set that is no proper Unicode
        return json.dumps(value).encode("ascii")


def _parse(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)


def _meta(exchange: Exchange) -> bytes:
    request, failure = exchange.request, exchange.failure
    return _json(
        [
            [
                request.seq,
                request.request_id,
                request.prompt_hash,
                request.input_tokens,
                request.output_tokens,
            ],
            [request.model, request.session_id, request.turn, request.cancel_after_ns],
            [exchange.replica.replica_id, exchange.replica.base_url],
            [exchange.stream, exchange.scheduled_ns, exchange.begun_ns, exchange.sent_ns, exchange.end_ns],
            [
                exchange.connect_ms,
                exchange.reused,
                exchange.http_status,
                exchange.phase,
                exchange.planned_cancel,
            ],
            failure and [failure.status, failure.error_class, failure.text],
            len(exchange.stamps),
        ]
    )


def _exchange(meta: bytes, payload: bytes) -> Exchange:
    asked, labels, replica, times, facts, failure, count = _parse(meta)
    request = Request(asked[0], asked[1], b"", b"", asked[3], asked[4], stored_prompt_hash=asked[2])
    request.model, request.session_id, request.turn, request.cancel_after_ns = labels
    found = Exchange(request, Replica(*replica), times[0])
    found.scheduled_ns, found.begun_ns, found.sent_ns, found.end_ns = times[1:]
    found.connect_ms, found.reused, found.http_status, found.phase, found.planned_cancel = facts
    found.failure = Failure(*failure) if failure else None
    at = 8 * count
    found.stamps.frombytes(payload[:at])
    found.lags_ns.frombytes(payload[at : 2 * at])
    sizes = array("I")
    sizes.frombytes(payload[2 * at : 2 * at + 4 * count])
    at = 2 * at + 4 * count
    for size in sizes:
        found.reads.append(payload[at : at + size])
        at += size
    return found


def records(path: Path) -> Iterator[dict[str, Any] | Exchange]:
    """The records of a segment in order: a ``dict`` is an origin. A record the writer did not finish ends
    it."""
    with path.open("rb", buffering=2**20) as file:
        while (found := _next(file)) is not None:
            yield found


def _next(file: BinaryIO) -> dict[str, Any] | Exchange | None:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, kind, meta_size, size = _HEAD.unpack(head)
    meta, payload = file.read(meta_size), file.read(size)
    if magic != _MAGIC or len(meta) < meta_size or len(payload) < size:
        return None
    if kind == ORIGIN:
        origin: dict[str, Any] = _parse(meta)
        return origin
    return _exchange(meta, payload)


def origins(path: Path) -> Iterator[dict[str, Any]]:
    """The origin records of a segment, without reading what lies between them."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            magic, kind, meta_size, size = _HEAD.unpack(head)
            if magic != _MAGIC:
                return
            if kind == ORIGIN:
                yield _parse(file.read(meta_size))
            else:
                file.seek(meta_size + size, os.SEEK_CUR)


def left_behind(folder: Path) -> list[Path]:
    """Segments in *folder* whose writer is gone, oldest first. Raises ``BlockingIOError`` while one lives."""
    for path in folder.glob(".spool-*.lock"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    return sorted(folder.glob(".spool-*-*.raw"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def sweep_up(folder: Path) -> None:
    """Remove what a dead writer left besides its segments."""
    for pattern in (".spool-*.lock", ".spill-*-*.raw"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
