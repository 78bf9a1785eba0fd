"""The raw sample: one row a request, its schema, and how its durations are derived.

Belongs here: the schema of ``raw_samples`` (this package owns it), rows, Parquet bytes.
Does not belong here: where Parquet goes (``output``), percentiles and verdicts.

Durations in milliseconds, of one request: a = scheduled arrival (closed loop: a := s), s = first byte
handed to the socket, e = first event, f = first chunk with a token, o = first chunk with visible output, l
= last token chunk, d = end of stream. ttft = f-a, ttft_from_send = f-s, e2e = l-a, e2e_from_send = l-s,
ttfe = e-s, ttfo = o-a, tail = d-l, send_lag = s-a, tpot = (l-f)/(N-m1) where m1 is the first chunk's
tokens, at least two chunks came and N > m1. ``chunk_stamp`` is ``shared`` when all token chunks (two or
more) came with one read, so that their gaps mean nothing.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

from loadgen.decode import Answer
from loadgen.exchange import Exchange

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = "1"
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
    """Rows of one part, column-wise; chunk lists are kept as flat machine arrays."""

    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name, kind, _ in _COLUMNS if not kind.startswith("list")}
    )
    offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    chunk_offset_us: array[int] = field(default_factory=lambda: array("I"))
    chunk_tokens: array[int] = field(default_factory=lambda: array("H"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def add(self, origin: Origin, phase: str, exchange: Exchange, answer: Answer) -> None:
        """Append the row of one request."""
        sent, stamps = exchange.sent_ns, exchange.stamps
        times = [stamps[read] for read in answer.chunk_reads]
        self.chunk_offset_us.extend(min(_UINT32_MAX, max(0, (at - sent) // 1000)) for at in times)
        self.chunk_tokens.extend(min(_UINT16_MAX, tokens) for tokens in answer.chunk_tokens)
        self.offsets.append(len(self.chunk_offset_us))
        row = _identity(origin, phase, exchange, answer) | _durations(exchange, answer, times)
        for name, header in _SERVER_HEADERS:
            row[name] = _number(answer.headers.get(header))
        for name, column in self.columns.items():
            column.append(row[name])

    def to_parquet(self) -> bytes:
        """The batch as one Parquet file (zstd), with the schema's own types."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = sample_schema()
        lists = {"chunk_offset_us": self.chunk_offset_us, "chunk_tokens": self.chunk_tokens}
        offsets = pa.Array.from_buffers(pa.int32(), len(self.offsets), [None, pa.py_buffer(self.offsets)])
        arrays = []
        for column in schema:
            if column.name in lists:
                flat, kind = lists[column.name], column.type.value_type
                values = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
                arrays.append(pa.ListArray.from_arrays(offsets, values))
            else:
                arrays.append(pa.array(self.columns[column.name], type=column.type))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
        return bytes(sink.getvalue())


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
        "model": origin.model,
        "replica_id": exchange.replica.replica_id,
        "session_id": None,
        "turn": None,
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
        "prompt_hash": hashlib.sha256(request.prompt).hexdigest()[:16],
    }


def _durations(exchange: Exchange, answer: Answer, times: list[int]) -> dict[str, Any]:
    sent, due, stamps = exchange.sent_ns, exchange.reference_ns, exchange.stamps

    def span(start: int, read: int | None) -> float | None:
        return None if read is None or not sent else (stamps[read] - start) / 1e6

    first, last = (answer.chunk_reads[0], answer.chunk_reads[-1]) if times else (None, None)
    tokens = sum(answer.chunk_tokens) if answer.output_tokens is None else answer.output_tokens
    spread = tokens - answer.chunk_tokens[0] if len(times) > 1 else 0
    repeats = sum(
        later == earlier for earlier, later in zip(answer.chunk_reads, answer.chunk_reads[1:], strict=False)
    )
    heads = sum(
        later == earlier and (index == 0 or answer.chunk_reads[index - 1] != earlier)
        for index, (earlier, later) in enumerate(
            zip(answer.chunk_reads, answer.chunk_reads[1:], strict=False)
        )
    )
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
        "shared_chunks": repeats + heads,
        "client_lag_p99_us": _p99(exchange.lags_us),
    }


def _p99(values: Iterable[int]) -> int | None:
    ordered = sorted(values)
    return max(0, min(_UINT32_MAX, ordered[ceil(0.99 * len(ordered)) - 1])) if ordered else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
