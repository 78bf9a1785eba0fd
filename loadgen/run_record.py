"""``shard.json``: what one process did, from the figures others kept.

Belongs here: the document's fields and their order. Does not belong here: measuring (``steps``, ``monitor``), writing
it (``run``).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen import __version__
from loadgen.calibrate import CalibrationResult
from loadgen.client import Client
from loadgen.monitor import Monitor
from loadgen.plan import Plan, Step
from loadgen.steps import StepResult


def step_record(step: Step, share: float, result: StepResult, offset_ns: int) -> dict[str, Any]:
    """One step; times in nanoseconds since 1970, the load is this shard's own *share*."""
    ledger = result.ledger
    return {
        "step_index": step.step_index,
        "kind": step.kind,
        "load_kind": step.load_kind,
        "load_value": share,
        "arrival": step.arrival,
        "phase_starts_ns": {name: at + offset_ns for name, at in result.starts_ns.items()},
        "measure_end_ns": result.measure_end_ns + offset_ns,
        "warmup": result.warmup,
        "requests_scheduled_in_window": result.scheduled_in_window,
        "sent": ledger.window_sent,
        "ok": ledger.window_ok,
        "failed_by_class": dict(sorted(ledger.window_failures.items())),
        "cut": ledger.window_cut,
        "unfinished": result.unfinished,
        "in_flight_at_start": result.in_flight_at_start,
        "in_flight_at_end": result.in_flight_at_end,
        "in_flight_max": result.in_flight_max,
        "requests_by_replica": dict(sorted(ledger.requests_by_replica.items())),
    }


class Totals:
    """Sums over the steps of a run."""

    def __init__(self) -> None:
        self.chunks = self.shared_chunks = 0
        self.lag_p99_us: int | None = None
        self.measured_s = 0.0
        self._causes: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(self, result: StepResult) -> None:
        """One step's, after it was decoded."""
        ledger = result.ledger
        self.chunks += ledger.chunks
        self.shared_chunks += ledger.shared_chunks
        self.measured_s += (result.measure_end_ns - result.starts_ns["measure"]) / 1e9
        lag = ledger.lag_p99_us()
        if lag is not None:
            self.lag_p99_us = max(lag, self.lag_p99_us or 0)
        for cause in ledger.causes():
            if cause["status"] == "cancelled":
                continue  # by the harness: planned, or when the step ended
            key = (cause["status"], cause["error_class"], cause["http_status"])
            known = self._causes.setdefault(key, {**cause, "count": 0})
            known["count"] += cause["count"]

    def causes(self) -> list[dict[str, Any]]:
        """Why requests failed, most frequent first."""
        return sorted(self._causes.values(), key=lambda cause: -cause["count"])


def cause_text(cause: Mapping[str, Any]) -> str:
    """One line for people."""
    kind = cause["error_class"] or cause["status"]
    text = f"{cause['count']} request{'s' if cause['count'] != 1 else ''} failed ({kind})"
    return f"{text}: {cause['text']}" if cause["text"] else text


def client_record(
    plan: Plan,
    client: Client,
    monitor: Monitor,
    totals: Totals,
    null_server: Mapping[str, Any] | None,
    reason: str | None,
) -> dict[str, Any]:
    """How this process itself did; *reason* says why there is no *null_server*."""
    counters = client.counters
    return {
        **monitor.figures(),
        "workers": plan.workers,
        "connections_opened": counters.opened,
        "connections_reused": counters.reused,
        "stamp_source": stamp_source(plan, client),
        "stamp_lag_p99_ms": None if totals.lag_p99_us is None else totals.lag_p99_us / 1000,
        "clock_fallbacks": counters.clock_fallbacks,
        "clock_jumps": counters.clock_jumps,
        "shared_chunk_share": totals.shared_chunks / totals.chunks if totals.chunks else None,
        "http_version": plan.http_version,
        "proxy": plan.proxy is not None or plan.proxy_env is not None,
        "fresh_connections": plan.fresh_connections,
        "null_server": null_server,
        "null_server_reason": reason,
    }


def stamp_source(plan: Plan, client: Client) -> str:
    """Whose receive stamps the samples have: ``kernel`` or ``user``."""
    tls = any(replica.base_url.startswith("https:") for replica in plan.replicas)
    return "user" if tls or client.clock is None else "kernel"


def shard_record(
    plan: Plan,
    *,
    reason: str | None,
    parts: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    hashes: tuple[str | None, str | None],
    anchors: tuple[Mapping[str, int], Mapping[str, int]],
    client: Mapping[str, Any],
    calibration: CalibrationResult | None,
    capacity: Mapping[str, Any] | None,
    canary: Mapping[str, Any] | None,
    causes: Sequence[Mapping[str, Any]],
    scrapes: Sequence[Mapping[str, Any]],
    dataset: Mapping[str, Any] | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The whole document; *reason* says why the run is not complete, *anchors* are both clocks at its ends."""
    start, end = anchors
    minutes = (end["mono_ns"] - start["mono_ns"]) / 60e9
    drift_ns = (end["wall_ns"] - start["wall_ns"]) - (end["mono_ns"] - start["mono_ns"])
    return {
        "format": 1,
        "run_id": plan.run_id,
        "shard": plan.shard,
        "shards": plan.shards,
        "complete": reason is None,
        "reason": reason,
        "rows": sum(part["rows"] for part in parts),
        "parts": parts,
        "loadgen_version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "workload_id": plan.workload_id,
        "workload_hash": plan.workload_hash,
        "schedule_hash": hashes[0],
        "prompts_hash": hashes[1],
        "seed": plan.seed,
        "wall_anchor": [start, end],
        "drift_ms_per_min": drift_ns / 1e6 / minutes if minutes > 0 else 0.0,
        "steps": steps,
        "client": client,
        "calibration": calibration.record() if calibration is not None else None,
        "capacity": capacity,
        "canary": canary,
        "causes": causes,
        "scrapes": scrapes,
        "dataset": dataset,
        "warnings": warnings,
    }
