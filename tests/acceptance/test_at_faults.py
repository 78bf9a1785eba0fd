"""AT-13: faults of every kind, each counted exactly as the server's log has it, and nothing hangs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

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


def faulty_run(server: Truth, run: Run, requests: int, users: int) -> tuple[Result, float]:
    workload = workloads.custom(
        concurrency=users,
        isl=32,
        osl=16,
        duration_s=60.0,
        warmup_s=0.1,
        tail_s=10.0,
        requests=requests,
        request_timeout_s=3.0,
        idle_timeout_s=2.0,
    )
    began = time.monotonic()
    result = run(make_plan(server.url, workload, null_server=False, deadline_s=120.0))
    return result, time.monotonic() - began


def test_at13_each_fault_is_counted_as_the_server_dealt_it(truth: Start, run: Run) -> None:
    server = truth(
        *("--ttft", "10", "--gap", "2", "--seed", "3"),
        *("--faults", "500:0.03,reset:0.02,hang:0.01,error_event:0.01"),
    )
    result, took = faulty_run(server, run, 1_000, 32)
    assert result.code == 0, result.error
    rows, log = [row for row in result.rows if row["phase"] != "calibration"], server.log()
    measured = [row for row in rows if row["phase"] == "measure"]
    assert len(measured) >= 1_000
    for row in rows:
        fault = log[row["request_id"]].get("fault")
        if row["status"] == "cancelled":  # in the tail, when the step ended
            assert row["phase"] == "tail"
            continue
        assert (row["status"], row["error_class"]) == CLASS_OF[fault], (fault, row["error_text"])
        sent = len(log[row["request_id"]]["sends_ns"])
        assert len(row["chunk_offset_us"]) == sent, fault  # every partial sample is kept
        assert row["ended_ms"] <= 3_500 or fault is not None  # nothing hangs past its timeout
        assert row["ended_ms"] <= 3_000 * 3, fault
    dealt = Counter(log[row["request_id"]].get("fault") for row in measured)
    assert min(dealt[name] for name in ("500", "reset", "hang", "error_event")) >= 3
    step = result.shard["steps"][0]
    counted: Counter[str | None] = Counter()
    for fault, count in dealt.items():
        counted[CLASS_OF[fault][1]] += count
    assert step["ok"] == counted.pop(None)
    assert step["failed_by_class"] == counted
    assert took < 60
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
    result, _ = faulty_run(server, run, 100, 16)
    assert result.code == 0, result.error
    log = server.log()
    seen: Counter[str | None] = Counter()
    for row in result.measured():
        fault = log[row["request_id"]].get("fault")
        assert (row["status"], row["error_class"]) == CLASS_OF[fault], (fault, row["error_text"])
        seen[fault] += 1
    assert min(seen[name] for name in ("malformed", "short", "429", "stall")) >= 1, seen
