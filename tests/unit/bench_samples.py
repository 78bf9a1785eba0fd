"""Samples and shard manifests made by hand, for the tests of ``bench``."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from loadgen.samples import sample_schema

T0 = 1_780_000_000_000_000_000  # UTC ns at which the window of step 0 starts
SECOND = 1_000_000_000
STEP_APART = 1000 * SECOND


def row(
    *,
    at_s: float,
    seq: int = 0,
    step: int = 0,
    lag_ms: float = 0.0,
    chunks_ms: tuple[float, ...] = (50.0, 60.0, 70.0),
    tokens: tuple[int, ...] | None = None,
    status: str = "ok",
    phase: str = "measure",
    **other: Any,
) -> dict[str, Any]:
    """One request scheduled *at_s* after its window's start; *chunks_ms* are offsets from its send."""
    tokens = tokens if tokens is not None else (1,) * len(chunks_ms)
    scheduled = T0 + step * STEP_APART + round(at_s * SECOND)
    n = sum(tokens)
    first, last = (chunks_ms[0], chunks_ms[-1]) if chunks_ms else (None, None)
    spread = n - tokens[0] if len(chunks_ms) > 1 else 0
    made = {
        "run_id": "run",
        "shard": 0,
        "step_index": step,
        "seq": seq,
        "request_id": f"run-{step}-{seq}",
        "phase": phase,
        "model": "m",
        "replica_id": "a:1",
        "scheduled_at": scheduled,
        "sent_at": scheduled + round(lag_ms * 1e6),
        "ttft_ms": None if first is None else first + lag_ms,
        "e2e_ms": None if last is None else last + lag_ms,
        "ttft_from_send_ms": first,
        "e2e_from_send_ms": last,
        "tail_ms": None if first is None else 0.0,
        "send_lag_ms": lag_ms,
        "tpot_ms": (chunks_ms[-1] - chunks_ms[0]) / spread if spread > 0 else None,
        "chunk_offset_us": [round(ms * 1000) for ms in chunks_ms],
        "chunk_tokens": list(tokens),
        "shared_chunks": 0,
        "input_tokens": 16 if status == "ok" else None,
        "output_tokens": n if status == "ok" else None,
        "output_tokens_requested": n,
        "status": status,
        "prompt_hash": "0" * 16,
    }
    return {**made, **other}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """*rows* with the generator's schema, nulls for what they leave out."""
    schema = sample_schema()
    return pa.Table.from_pydict({name: [r.get(name) for r in rows] for name in schema.names}, schema=schema)


def shard(*, windows_s: list[float], scheduled: list[int], **other: Any) -> dict[str, Any]:
    """A complete ``shard.json`` of closed steps with C = 1, 2, 4, …"""
    steps = []
    for index, (seconds, count) in enumerate(zip(windows_s, scheduled, strict=True)):
        start = T0 + index * STEP_APART
        end = start + round(seconds * SECOND)
        steps.append(
            {
                "step_index": index,
                "load_kind": "closed",
                "load_value": float(2**index),
                "arrival": "none",
                "phase_starts_ns": {
                    "warmup": start - SECOND,
                    "measure": start,
                    "tail": end,
                    "end": end + SECOND,
                },
                "measure_end_ns": end,
                "requests_scheduled_in_window": count,
                "cut": 0,
            }
        )
    client = {
        **{"loop_lag_p99_ms": 0.4, "loop_lag_max_ms": 3.0, "cpu_share_max": 0.2},
        **{"stamp_lag_p99_ms": 0.1, "clock_jumps": 0, "clock_fallbacks": 0, "events_per_s_max": 1000},
        "null_server": {"events_per_s": 100_000.0, "own_latency_p99_ms": 0.3, "requests_per_s": 2000.0},
    }
    return {
        "format": 1,
        "run_id": "run",
        "shard": 0,
        "complete": True,
        "reason": None,
        "parts": [],
        "rows": 0,
        "loadgen_version": "0",
        "schedule_hash": "s",
        "prompts_hash": "p",
        "drift_ms_per_min": 0.01,
        "steps": steps,
        "client": client,
        **other,
    }
