"""The raw sample: one row a request, its schema, and how its durations are derived.

Belongs here: the schema of ``raw_samples`` (this package owns it), rows, Parquet bytes.
Does not belong here: where Parquet goes (``output``), percentiles and verdicts.

Durations in milliseconds, of one request: a = scheduled arrival (closed loop: a := s), s = first byte
handed to the socket, e = first event, f = first chunk with a token, o = first chunk with visible output, l
= last token chunk, d = end of stream. ttft = f-a, ttft_from_send = f-s, e2e = l-a, e2e_from_send = l-s,
ttfe = e-s, ttfo = o-a, tail = d-l, send_lag = s-a, tpot = (l-f)/(N-m1) where m1 is the first chunk's
tokens, at least two chunks came and N > m1. ``ended`` = end of the exchange, however it ended, - s.

A read has one stamp, that of the last event in it. ``shared_chunks`` counts the token chunks whose read
brought more than one of them; ``chunk_stamp`` is ``shared`` when all of them (two or more) came with one
read, so that their gaps mean nothing, and ``user`` when any read lacks the kernel's stamp.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

from loadgen.decode import Answer
from loadgen.exchange import Exchange

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = "2"  # 1 lacked the last three columns
_UINT32_MAX, _UINT16_MAX = 2**32 - 1, 2**16 - 1
# name, type, null allowed: in the order of the table's definition
_COLUMNS: tuple[tuple[str, str, bool], ...] = (
    ("run_id", "string", False),
    ("shard", "int16", False),
    ("step_index", "int16", False),
    ("seq", "int32", False),
    ("request_id", "string", False),
    ("phase", "dict", False),
    ("model", "string", False),
    ("replica_id", "string", True),
    ("session_id", "string", True),
    ("turn", "int16", True),
    ("scheduled_at", "time", False),
    ("sent_at", "time", True),
    ("connect_ms", "float64", True),
    ("connection_reused", "bool", True),
    ("ttft_ms", "float64", True),
    ("e2e_ms", "float64", True),
    ("ttft_from_send_ms", "float64", True),
    ("e2e_from_send_ms", "float64", True),
    ("ttfe_ms", "float64", True),
    ("ttfo_ms", "float64", True),
    ("tail_ms", "float64", True),
    ("send_lag_ms", "float64", True),
    ("tpot_ms", "float64", True),
    ("chunk_offset_us", "list_uint32", False),
    ("chunk_tokens", "list_uint16", False),
    ("chunk_stamp", "dict", True),
    ("shared_chunks", "int32", False),
    ("client_lag_p99_us", "uint32", True),
    ("input_tokens_requested", "int32", True),
    ("output_tokens_requested", "int32", True),
    ("input_tokens", "int32", True),
    ("output_tokens", "int32", True),
    ("cached_input_tokens", "int32", True),
    ("reasoning_tokens", "int32", True),
    ("token_count_source", "dict", True),
    ("status", "dict", False),
    ("error_class", "dict", True),
    ("http_status", "int16", True),
    ("error_text", "string", True),
    ("finish_reason", "string", True),
    ("prompt_hash", "string", False),
    ("server_ttft_ms", "float64", True),
    ("server_tokens_per_s", "float64", True),
    ("server_usd_per_1k_tokens", "float64", True),
    ("ended_ms", "float64", True),
    ("planned_cancel_ms", "float64", True),
    ("answer_hash", "string", True),
)
_SERVER_HEADERS = (
    ("server_ttft_ms", "x-ttft-ms"),
    ("server_tokens_per_s", "x-tokens-per-second"),
    ("server_usd_per_1k_tokens", "x-cost-per-1k-usd"),
)


def sample_schema() -> pa.Schema:
    """The Arrow schema of ``raw_samples``; ``schema_version`` is in its metadata."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "bool": pa.bool_(),
        "dict": pa.dictionary(pa.int32(), pa.string()),
        "time": pa.timestamp("ns", tz="UTC"),
        "list_uint32": pa.list_(pa.uint32()),
        "list_uint16": pa.list_(pa.uint16()),
    } | {name: getattr(pa, name)() for name in ("int16", "int32", "uint32", "float64")}
    fields = [pa.field(name, types[kind], nullable) for name, kind, nullable in _COLUMNS]
    return pa.schema(fields, metadata={"schema_version": SCHEMA_VERSION})


@dataclass(frozen=True, slots=True)
class Origin:
    """What every row of a step has in common. ``wall_offset_ns`` turns monotonic stamps into UTC."""

    run_id: str
    shard: int
    step_index: int
    model: str
    wall_offset_ns: int
    redact: Callable[[str], str]


@dataclass(slots=True)
class SampleBatch:
    """Rows of one part, column-wise; chunk lists are kept as flat machine arrays.

    ``read_lags_us`` (user minus kernel stamp, of every read that has both; ``lag_offsets`` are its row bounds)
    and ``borrowed_chunks`` (of each row: chunks whose read brought a later one too, so that the stamp is not
    theirs) are for the counts of the run; they are no columns of the schema.
    """

    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name, kind, _ in _COLUMNS if not kind.startswith("list")}
    )
    offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    chunk_offset_us: array[int] = field(default_factory=lambda: array("I"))
    chunk_tokens: array[int] = field(default_factory=lambda: array("H"))
    lag_offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    read_lags_us: array[int] = field(default_factory=lambda: array("I"))
    borrowed_chunks: array[int] = field(default_factory=lambda: array("i"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def size_bytes(self) -> int:
        """Roughly what the batch takes in memory."""
        return 1500 * len(self) + 6 * len(self.chunk_tokens) + 4 * len(self.read_lags_us)

    def add(self, origin: Origin, phase: str, exchange: Exchange, answer: Answer) -> None:
        """Append the row of one request."""
        sent, stamps = exchange.sent_ns, exchange.stamps
        times = [stamps[read] for read in answer.chunk_reads]
        offsets = [(at - sent) // 1000 for at in times]
        if offsets and not 0 <= min(offsets) <= max(offsets) <= _UINT32_MAX:
            offsets = [min(_UINT32_MAX, max(0, offset)) for offset in offsets]
        self.chunk_offset_us.extend(offsets)
        self.chunk_tokens.extend([min(_UINT16_MAX, tokens) for tokens in answer.chunk_tokens])
        self.offsets.append(len(self.chunk_offset_us))
        lags = [min(_UINT32_MAX, lag // 1000) for lag in exchange.lags_ns if lag >= 0]
        self.read_lags_us.extend(lags)
        self.lag_offsets.append(len(self.read_lags_us))
        self.borrowed_chunks.append(len(times) - len(set(answer.chunk_reads)))
        row = _identity(origin, phase, exchange, answer) | _durations(exchange, answer, times)
        if self.borrowed_chunks[-1]:
            shared = sum(count for count in Counter(answer.chunk_reads).values() if count > 1)
        else:
            shared = 0
        row["shared_chunks"] = shared
        row["client_lag_p99_us"] = sorted(lags)[ceil(0.99 * len(lags)) - 1] if lags else None
        for name, header in _SERVER_HEADERS:
            row[name] = _number(answer.headers.get(header))
        for name, column in self.columns.items():
            column.append(row[name])

    def to_parquet(self, *, with_counts: bool = False) -> bytes:
        """The batch as one Parquet file (zstd), with the schema's own types; *with_counts* adds what
        :meth:`from_parquet` restores beside the columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = sample_schema()
        lists = {
            "chunk_offset_us": (self.offsets, self.chunk_offset_us),
            "chunk_tokens": (self.offsets, self.chunk_tokens),
            "read_lags_us": (self.lag_offsets, self.read_lags_us),
        }
        if with_counts:
            schema = schema.append(pa.field("read_lags_us", pa.list_(pa.uint32())))
            schema = schema.append(pa.field("borrowed_chunks", pa.int32()))
        arrays = []
        for column in schema:
            if column.name in lists:
                bounds, flat = lists[column.name]
                offsets = pa.Array.from_buffers(pa.int32(), len(bounds), [None, pa.py_buffer(bounds)])
                values = pa.Array.from_buffers(column.type.value_type, len(flat), [None, pa.py_buffer(flat)])
                arrays.append(pa.ListArray.from_arrays(offsets, values))
            elif column.name == "borrowed_chunks":
                arrays.append(pa.array(self.borrowed_chunks, type=pa.int32()))
            else:
                arrays.append(pa.array(self.columns[column.name], type=column.type))
        texts = [name for name, kind, _ in _COLUMNS if kind in ("dict", "string")]
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd", use_dictionary=texts
        )
        return bytes(sink.getvalue())

    @classmethod
    def from_parquet(cls, data: bytes) -> SampleBatch:
        """The batch that ``to_parquet(with_counts=True)`` wrote."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(pa.BufferReader(data)).combine_chunks()
        batch = cls()
        for name, column in batch.columns.items():
            values = table[name]
            if pa.types.is_timestamp(values.type):  # Python's datetime has no nanoseconds
                values = values.cast(pa.int64())
            column.extend(values.to_pylist())
        for name, bounds, flat in (
            ("chunk_offset_us", batch.offsets, batch.chunk_offset_us),
            ("chunk_tokens", None, batch.chunk_tokens),
            ("read_lags_us", batch.lag_offsets, batch.read_lags_us),
        ):
            for value in table[name].to_pylist():
                flat.extend(value)
                if bounds is not None:
                    bounds.append(len(flat))
        batch.borrowed_chunks.extend(table["borrowed_chunks"].to_pylist())
        return batch


def _identity(origin: Origin, phase: str, exchange: Exchange, answer: Answer) -> dict[str, Any]:
    request = exchange.request
    text = answer.error_text
    return {
        "run_id": origin.run_id,
        "shard": origin.shard,
        "step_index": origin.step_index,
        "seq": request.seq,
        "request_id": request.request_id,
        "phase": phase,
        "model": request.model or origin.model,
        "replica_id": exchange.replica.replica_id,
        "session_id": request.session_id,
        "turn": request.turn,
        "scheduled_at": exchange.reference_ns + origin.wall_offset_ns,
        "sent_at": exchange.sent_ns + origin.wall_offset_ns if exchange.sent_ns else None,
        "connect_ms": exchange.connect_ms,
        "connection_reused": exchange.reused,
        "input_tokens_requested": request.input_tokens,
        "output_tokens_requested": request.output_tokens,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "cached_input_tokens": answer.cached_input_tokens,
        "reasoning_tokens": answer.reasoning_tokens,
        "token_count_source": answer.token_count_source,
        "status": answer.status,
        "error_class": answer.error_class,
        "http_status": answer.http_status,
        "error_text": origin.redact(text)[:200] if text is not None else None,
        "finish_reason": answer.finish_reason,
        "prompt_hash": request.prompt_hash,
        "answer_hash": hashlib.blake2b(answer.text.encode("utf-8", "replace"), digest_size=8).hexdigest()
        if answer.text
        else None,
    }


def _durations(exchange: Exchange, answer: Answer, times: list[int]) -> dict[str, Any]:
    sent, due, stamps = exchange.sent_ns, exchange.reference_ns, exchange.stamps

    def span(start: int, read: int | None) -> float | None:
        return None if read is None or not sent else (stamps[read] - start) / 1e6

    first, last = (answer.chunk_reads[0], answer.chunk_reads[-1]) if times else (None, None)
    tokens = sum(answer.chunk_tokens) if answer.output_tokens is None else answer.output_tokens
    spread = tokens - answer.chunk_tokens[0] if len(times) > 1 else 0
    planned = exchange.request.cancel_after_ns
    span_end = exchange.finish_ns - sent if sent and exchange.end_ns else None
    source = ("kernel" if exchange.kernel_stamped else "user") if times else None
    return {
        "ttft_ms": span(due, first),
        "e2e_ms": span(due, last),
        "ttft_from_send_ms": span(sent, first),
        "e2e_from_send_ms": span(sent, last),
        "ttfe_ms": span(sent, answer.first_event_read),
        "ttfo_ms": span(due, answer.first_output_read),
        "tail_ms": (stamps[answer.done_read] - times[-1]) / 1e6
        if times and answer.done_read is not None
        else None,
        "send_lag_ms": (sent - due) / 1e6 if sent else None,
        "tpot_ms": (times[-1] - times[0]) / spread / 1e6 if spread > 0 else None,
        "chunk_stamp": "shared" if len(times) > 1 and first == last else source,
        "ended_ms": span_end / 1e6 if span_end is not None else None,
        # One that the end of the step cut before its time was cut, not cancelled as planned.
        "planned_cancel_ms": planned / 1e6
        if planned is not None and (exchange.planned_cancel or answer.status != "cancelled")
        else None,
    }


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
