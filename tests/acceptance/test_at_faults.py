"""AT-13: faults of every kind, each counted exactly as the server's log has it, and nothing hangs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from loadgen import workloads
from tests.loadgen.conftest import Result, Truth, make_plan, run, truth

__all__ = ["run", "truth"]

Start = Callable[..., Truth]
Run = Callable[..., Result]
CLASS_OF = {
    "500": ("error", "5xx"),
    "429": ("error", "429"),
    "reset": ("error", "mid_stream"),
    "hang": ("timeout", "timeout"),
    "stall": ("timeout", "timeout"),
    "error_event": ("error", "mid_stream"),
    "malformed": ("error", "malformed"),
    "short": ("incomplete", "wrong_length"),
    None: ("ok", None),
}


REQUEST_S, IDLE_S = 3.0, 2.0


def expected(row: dict[str, Any], entry: dict[str, Any]) -> tuple[str, str | None]:
    """The fault's class; of an answer that took as long as its limit allows, whatever the reason, a timeout."""
    timeout = CLASS_OF["hang"]
    if (row["status"], row["error_class"]) == timeout and row["ended_ms"] >= 1000 * min(REQUEST_S, IDLE_S):
        return timeout
    return CLASS_OF[entry.get("fault")]


def faulty_run(server: Truth, run: Run, requests: int, users: int) -> Result:
    workload = workloads.custom(
        concurrency=users,
        isl=32,
        osl=16,
        duration_s=100.0,
        warmup_s=0.1,
        tail_s=10.0,
        requests=requests,
        request_timeout_s=REQUEST_S,
        idle_timeout_s=IDLE_S,
    )
    return run(make_plan(server.url, workload))


def test_at13_each_fault_is_counted_as_the_server_dealt_it(truth: Start, run: Run) -> None:
    server = truth(
        *("--ttft", "10", "--gap", "2", "--seed", "3"),
        *("--faults", "500:0.03,reset:0.02,hang:0.01,error_event:0.01"),
    )
    result = faulty_run(server, run, 1_000, 32)
    assert result.code == 0, result.error
    rows, log = [row for row in result.rows if row["phase"] != "calibration"], server.log()
    measured = [row for row in rows if row["phase"] == "measure"]
    assert len(measured) >= 1_000
    late_ms = 500.0 + result.shard["client"]["loop_lag_max_ms"]  # it looks for timeouts ten times a second
    for row in rows:
        entry = log[row["request_id"]]
        fault = entry.get("fault")
        if row["status"] == "cancelled":  # in the tail, when the step ended
            assert row["phase"] == "tail"
            continue
        assert (row["status"], row["error_class"]) == expected(row, entry), (fault, row["error_text"])
        kept, sent = len(row["chunk_offset_us"]), len(entry["sends_ns"])
        slow = row["status"] == "timeout" and CLASS_OF[fault] != CLASS_OF["hang"]
        assert kept <= sent if slow else kept == sent, fault  # every partial sample is kept
        assert row["ended_ms"] <= 1000 * REQUEST_S + late_ms, (fault, "it hung past its timeout")
    dealt = Counter(log[row["request_id"]].get("fault") for row in measured)
    assert min(dealt[name] for name in ("500", "reset", "hang", "error_event")) >= 3
    step = result.shard["steps"][0]
    counted: Counter[str | None] = Counter()
    for row in measured:
        counted[expected(row, log[row["request_id"]])[1]] += 1
    assert step["ok"] == counted.pop(None)
    assert step["failed_by_class"] == counted
    causes = {
        (one["status"], one["error_class"], one["http_status"]): one["count"]
        for one in result.shard["causes"]
    }
    failed = Counter(
        (row["status"], row["error_class"], row["http_status"])
        for row in result.rows
        if row["status"] not in ("ok", "cancelled")
    )
    assert causes == failed
    lines = [line for line in result.error.splitlines() if "failed" in line]
    assert len(lines) <= len(causes)  # at most one line a cause, whatever the number of requests


@pytest.mark.parametrize("framing", ["whole", "split", "bytewise"])
def test_malformed_and_short_answers_are_counted_however_they_are_cut(
    truth: Start, run: Run, framing: str
) -> None:
    server = truth(
        *("--ttft", "5", "--gap", "1", "--seed", "3", "--framing", framing),
        *("--faults", "malformed:0.1,short:0.1,429:0.1,stall:0.1"),
    )
    result = faulty_run(server, run, 100, 16)
    assert result.code == 0, result.error
    log = server.log()
    seen: Counter[str | None] = Counter()
    for row in result.measured():
        fault = log[row["request_id"]].get("fault")
        assert (row["status"], row["error_class"]) == expected(row, log[row["request_id"]]), row["error_text"]
        seen[fault] += 1
    assert min(seen[name] for name in ("malformed", "short", "429", "stall")) >= 1, seen
