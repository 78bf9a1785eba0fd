"""The generator against the ground-truth server's own log: accuracy, counts, omission, connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from loadgen import workloads

from .conftest import Result, Truth, make_plan

Start = Callable[..., Truth]
Run = Callable[..., Result]


def small(**changes: Any) -> workloads.Workload:
    fields: dict[str, Any] = {"isl": 32, "osl": 16, "duration_s": 1.0, "warmup_s": 0.3, "tail_s": 5.0}
    return workloads.custom(**{**fields, **({} if "rate" in changes else {"concurrency": 4}), **changes})


def median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def differences(result: Result, truth: Truth) -> dict[str, list[float]]:
    """Client minus server, ms, of every measured request that ended well."""
    log = truth.log()
    found: dict[str, list[float]] = {"ttft": [], "e2e": [], "tpot": []}
    for row in result.measured():
        if row["status"] == "ok":
            entry = log[row["request_id"]]
            sends, received = entry["sends_ns"], entry["received_ns"]
            found["ttft"].append(row["ttft_from_send_ms"] - (sends[0] - received) / 1e6)
            found["e2e"].append(row["e2e_from_send_ms"] - (sends[-1] - received) / 1e6)
            spread = entry["tokens"] - row["chunk_tokens"][0]
            found["tpot"].append(row["tpot_ms"] - (sends[-1] - sends[0]) / spread / 1e6)
    return found


def test_latencies_agree_with_the_servers_log_at_16_users(truth: Start, run: Run) -> None:
    server = truth("--ttft-ms", "50", "--gap-ms", "10")
    result = run(make_plan(server.url, small(concurrency=16, osl=64, duration_s=1.6)))
    assert result.code == 0, result.error
    rows = result.measured()
    assert len(rows) >= 32
    assert all(row["status"] == "ok" and row["chunk_tokens"] == [1] * 64 for row in rows)
    assert {(row["input_tokens"], row["output_tokens"], row["token_count_source"]) for row in rows} == {
        (32, 64, "usage")
    }
    assert {row["chunk_stamp"] for row in rows} <= {"kernel", "shared"}
    found = differences(result, server)
    assert 0 <= median(found["ttft"]) < 2
    assert 0 <= median(found["e2e"]) < 2
    assert abs(median(found["tpot"])) < 0.2
    step = result.shard["steps"][0]
    assert (step["sent"], step["ok"], step["cut"], step["requests_scheduled_in_window"]) == (
        len(rows),
        len(rows),
        0,
        len(rows),
    )


def test_shard_record_agrees_with_its_parts(truth: Start, run: Run) -> None:
    import hashlib

    result = run(
        make_plan(truth("--ttft-ms", "5", "--gap-ms", "1").url, small(concurrency=[1, 2], duration_s=0.4))
    )
    shard = result.shard
    assert (shard["complete"], shard["reason"], shard["rows"]) == (True, None, len(result.rows))
    assert [part["name"] for part in shard["parts"]] == ["part-000-000.parquet", "part-001-000.parquet"]
    for part in shard["parts"]:
        data = (result.out / "shard=000" / part["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (part["bytes"], part["sha256"])
    assert sorted(path.name for path in (result.out / "shard=000").iterdir()) == [
        "part-000-000.parquet",
        "part-001-000.parquet",
        "shard.json",
    ]
    assert (
        Counter(row["phase"] for row in result.rows)["calibration"] == 4
    )  # two lengths, the check, ignore_eos
    assert shard["calibration"]["tokens_per_word"] == 1.0
    assert shard["calibration"]["template_tokens"] == 4.0
    for step in shard["steps"]:
        starts = step["phase_starts_ns"]
        for row in result.rows:
            if row["step_index"] == step["step_index"] and row["phase"] != "calibration":
                at = row["scheduled_at"]
                expected = (
                    "warmup"
                    if at < starts["measure"]
                    else "measure"
                    if at < step["measure_end_ns"]
                    else "tail"
                )
                assert row["phase"] == expected
    client = shard["client"]
    assert client["stamp_source"] == "kernel"
    assert client["rss_peak_mib"] > 10
    assert 0 < client["cpu_share_max"] <= 1
    assert client["loop_lag_p99_ms"] <= client["loop_lag_max_ms"]
    kinds = [event["event"] for event in result.events]
    assert kinds[0] == "calibrated"
    assert kinds.count("step_start") == kinds.count("step_end") == 2
    assert kinds[-1] == "done"


@pytest.mark.parametrize("layout", ["role-first", "plain"])
def test_four_tokens_per_chunk_have_tpot_of_their_gaps(truth: Start, run: Run, layout: str) -> None:
    server = truth("--ttft-ms", "20", "--gap-ms", "10", "--tokens-per-chunk", "4", "--chunk-layout", layout)
    rows = run(make_plan(server.url, small(osl=64, duration_s=0.5))).measured()
    assert all(row["chunk_tokens"] == [4] * 16 for row in rows)
    tpot = median([row["tpot_ms"] for row in rows])
    assert tpot == pytest.approx(10.0, abs=0.2)  # 600 ms over 60 tokens; (N - 1) would give 9.52
    if layout == "role-first":
        assert (
            median([row["ttfe_ms"] for row in rows])
            < 10
            < 19
            < median([row["ttft_from_send_ms"] for row in rows])
        )


@pytest.mark.parametrize(
    ("usage", "source", "counted"),
    [("every", "per_chunk_usage", 16), ("never", "chunks", None), ("final", "usage", 16)],
)
def test_usage_styles(truth: Start, run: Run, usage: str, source: str, counted: int | None) -> None:
    server = truth("--ttft-ms", "5", "--gap-ms", "1", "--usage", usage)
    result = run(make_plan(server.url, small(duration_s=0.3), api="completions"))
    assert {(row["token_count_source"], row["output_tokens"]) for row in result.measured()} == {
        (source, counted)
    }
    assert all(row["chunk_tokens"] == [1] * 16 for row in result.measured())
    assert (result.shard["calibration"] is None) == (usage == "never")
    assert bool(result.shard["warnings"]) == (usage == "never")


def test_whole_answers(truth: Start, run: Run) -> None:
    result = run(make_plan(truth("--ttft-ms", "5", "--gap-ms", "1").url, small(duration_s=0.3), stream=False))
    rows = result.measured()
    assert {(row["status"], row["output_tokens"], len(row["chunk_tokens"])) for row in rows} == {
        ("ok", 16, 1)
    }
    assert all(row["tpot_ms"] is None and row["e2e_ms"] >= 20 for row in rows)


def test_faults_are_counted_exactly_by_class(truth: Start, run: Run) -> None:
    shares = "500:0.06,reset:0.05,hang:0.02,error_event:0.05"
    server = truth("--ttft-ms", "3", "--gap-ms", "1", "--faults", shares, "--seed", "3")
    result = run(
        make_plan(
            server.url, small(concurrency=16, duration_s=2.0, request_timeout_s=0.8), request_timeout_s=0.8
        )
    )
    log = server.log()
    expected = {
        None: ("ok", None, 200),
        "500": ("error", "5xx", 500),
        "reset": ("error", "mid_stream", 200),
        "error_event": ("error", "mid_stream", 200),
        "hang": ("timeout", "timeout", None),
    }
    rows = [row for row in result.rows if row["status"] != "cancelled"]
    assert len(rows) > 300
    for row in rows:
        got = (row["status"], row["error_class"], row["http_status"])
        assert got == expected[log[row["request_id"]]["fault"]], row["error_text"]
    faults = Counter(
        log[row["request_id"]]["fault"] for row in result.measured() if row["status"] != "cancelled"
    )
    assert set(faults) == {None, "500", "reset", "error_event", "hang"}
    step = result.shard["steps"][0]
    assert step["ok"] == faults[None]
    assert step["failed_by_class"] == {
        "5xx": faults["500"],
        "mid_stream": faults["reset"] + faults["error_event"],
        "timeout": faults["hang"],
    }
    resets = [row for row in rows if log[row["request_id"]]["fault"] == "reset"]
    assert all(len(row["chunk_tokens"]) == 8 for row in resets)  # what came before the failure is kept


def test_open_loop_keeps_its_schedule_while_the_server_is_frozen(truth: Start, run: Run) -> None:
    """Constant 50/s for 2.5 s; the server is silent for 1 s. Each arrival is sent on time and waits."""
    server = truth("--ttft-ms", "5", "--gap-ms", "1", "--freeze", "1.0:1.0")
    workload = small(rate=50.0, arrival="constant", osl=4, warmup_s=0.0, duration_s=2.5)
    result = run(make_plan(server.url, workload))
    rows = sorted(result.measured(), key=lambda row: row["seq"])
    assert (
        len(rows) == result.shard["steps"][0]["requests_scheduled_in_window"] == 125
    )  # due at 10 ms, 30 ms … 2,490 ms
    assert all(row["status"] == "ok" for row in rows)
    gaps = [later["scheduled_at"] - earlier["scheduled_at"] for earlier, later in pairwise(rows)]
    assert set(gaps) == {20_000_000}
    assert median([row["send_lag_ms"] for row in rows]) < 2
    waits = sorted(row["ttft_ms"] for row in rows)
    assert waits[-1] > 900
    assert 40 <= sum(wait > 100 for wait in waits) <= 55  # 45 of the 50 that met the freeze waited so long
    log = server.log()
    received = [log[row["request_id"]]["kernel_received_ns"] for row in rows]
    line = [(at - received[0]) / 1e6 - 20 * index for index, at in enumerate(received)]
    assert median([abs(at - median(line)) for at in line]) < 3


def test_poisson_open_loop_sends_what_was_drawn(truth: Start, run: Run) -> None:
    from loadgen.source import StepSource

    server = truth("--ttft-ms", "5", "--gap-ms", "1")
    workload = small(rate=100.0, osl=2, duration_s=1.0)
    plan = make_plan(server.url, workload)
    result = run(plan)
    due = StepSource(plan, workload, plan.steps[0], 28).due_ns
    rows = sorted((row for row in result.rows if row["phase"] != "calibration"), key=lambda row: row["seq"])
    start = result.shard["steps"][0]["phase_starts_ns"]["warmup"]
    assert [row["scheduled_at"] - start for row in rows] == list(due[: len(rows)])
    measured = result.shard["steps"][0]["requests_scheduled_in_window"]
    assert measured == sum(300_000_000 <= at < 1_300_000_000 for at in due) == len(result.measured())


@pytest.mark.parametrize(("connection", "reused"), [("keep-alive", True), ("close", False), ("drop", False)])
def test_connections_are_kept_when_the_server_keeps_them(
    truth: Start, run: Run, connection: str, reused: bool
) -> None:
    server = truth("--ttft-ms", "5", "--gap-ms", "1", "--connection", connection)
    result = run(make_plan(server.url, small(duration_s=0.5)))
    rows = result.measured()
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["connection_reused"] for row in rows} == {reused}
    assert all((row["connect_ms"] == 0) == reused for row in rows)
    client = result.shard["client"]
    if reused:
        assert client["connections_opened"] <= 5
    else:
        assert client["connections_opened"] >= len(rows)
    warned = any("went out again" in text for text in result.shard["warnings"])
    assert warned == (connection == "drop")
    log = server.log()
    assert all(row["request_id"] in log for row in rows)


def test_round_robin_over_replicas(truth: Start, run: Run) -> None:
    servers = [truth("--ttft-ms", "5", "--gap-ms", "1") for _ in range(2)]
    result = run(make_plan([server.url for server in servers], small(duration_s=0.4)))
    for row in result.measured():
        assert row["replica_id"] == servers[row["seq"] % 2].url.partition("://")[2]
    logs = [server.log() for server in servers]
    assert all(row["request_id"] in logs[row["seq"] % 2] for row in result.measured())


def test_a_request_limit_ends_the_window(truth: Start, run: Run) -> None:
    server = truth("--ttft-ms", "5", "--gap-ms", "1", "--connection", "close")
    result = run(make_plan(server.url, small(duration_s=30.0, warmup_s=0.0, requests=25)))
    assert len(result.measured()) == 25
    assert {row["status"] for row in result.measured()} == {"ok"}


def test_slots_make_requests_wait(truth: Start, run: Run) -> None:
    server = truth("--ttft-ms", "20", "--gap-ms", "1", "--slots", "2")
    result = run(make_plan(server.url, small(osl=2, duration_s=0.8)))
    found = differences(result, server)
    assert median(found["ttft"]) < 2
    assert median([row["ttft_ms"] for row in result.measured()]) == pytest.approx(
        41, abs=4
    )  # a turn of waiting
