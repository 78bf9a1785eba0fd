"""The generator against the ground-truth server's own log: accuracy, counts, omission, connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from loadgen import workloads

from .against_log import Pairs, differences, first_token, last_token, median, since_arrival, token_ms
from .conftest import Result, Truth, make_plan

Start = Callable[..., Truth]
Run = Callable[..., Result]


def small(**changes: Any) -> workloads.Workload:
    """A closed loop's window ends after some requests, however long they take on this machine."""
    fields: dict[str, Any] = {"isl": 32, "osl": 16, "duration_s": 1.0, "warmup_s": 0.3, "tail_s": 30.0}
    if "rate" not in changes:
        fields |= {"duration_s": 60.0, "requests": 16, "warmup_s": 0.1}
    return workloads.custom(**{**fields, **({} if "rate" in changes else {"concurrency": 4}), **changes})


def paired(result: Result, truth: Truth) -> Pairs:
    """Measured rows that ended well, with the server's line on each."""
    log = truth.log()
    return [(row, log[row["request_id"]]) for row in result.measured() if row["status"] == "ok"]


def test_latencies_agree_with_the_servers_log_at_16_users(truth: Start, run: Run) -> None:
    server = truth("--ttft-ms", "50", "--gap-ms", "10")
    result = run(make_plan(server.url, small(concurrency=16, osl=64, requests=32)))
    assert result.code == 0, result.error
    rows = result.measured()
    assert len(rows) == 32
    assert all(row["status"] == "ok" and row["chunk_tokens"] == [1] * 64 for row in rows)
    assert {(row["input_tokens"], row["output_tokens"], row["token_count_source"]) for row in rows} == {
        (32, 64, "usage")
    }
    assert {row["chunk_stamp"] for row in rows} <= {"kernel", "shared"}
    pairs = paired(result, server)
    for column, true, chunk in (("ttft_from_send_ms", first_token, 0), ("e2e_from_send_ms", last_token, 63)):
        errors = differences(pairs, column, true, chunk)
        assert min(errors) > -0.3, "nothing arrives before it was sent; two clocks agree so far"
        assert median(errors) < 2
    assert abs(median(differences(pairs, "tpot_ms", token_ms, 0))) < 0.2
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
        make_plan(
            truth("--ttft-ms", "5", "--gap-ms", "1").url,
            small(concurrency=[1, 2], duration_s=0.4, requests=None),
        )
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
    pairs = paired(run(make_plan(server.url, small(osl=64, requests=8))), server)
    assert all(row["chunk_tokens"] == [4] * 16 for row, _ in pairs)
    own = [(row, entry) for row, entry in pairs if row["chunk_stamp"] == "kernel"]
    shares = [row["tpot_ms"] / token_ms(entry) for row, entry in own]
    assert median(shares) == pytest.approx(1.0, abs=0.02)  # of 600 ms over 60 tokens; (N - 1) would give 0.95
    if layout == "role-first":
        early = [(row, entry) for row, entry in pairs if row["ttfe_ms"] < row["ttft_from_send_ms"]]
        errors = differences(early, "ttfe_ms", lambda entry: since_arrival(entry, entry["first_event_ns"]))
        assert abs(median(errors)) < 2
        assert all(row["ttft_from_send_ms"] > 19 for row, _ in pairs), "the role's event is no token"


@pytest.mark.parametrize(
    ("usage", "source", "counted"),
    [("every", "per_chunk_usage", 16), ("never", "chunks", None), ("final", "usage", 16)],
)
def test_usage_styles(truth: Start, run: Run, usage: str, source: str, counted: int | None) -> None:
    server = truth("--ttft-ms", "5", "--gap-ms", "1", "--usage", usage)
    result = run(make_plan(server.url, small(), api="completions"))
    assert {(row["token_count_source"], row["output_tokens"]) for row in result.measured()} == {
        (source, counted)
    }
    assert all(row["chunk_tokens"] == [1] * 16 for row in result.measured())
    assert (result.shard["calibration"] is None) == (usage == "never")
    assert bool(result.shard["warnings"]) == (usage == "never")


def test_whole_answers(truth: Start, run: Run) -> None:
    result = run(make_plan(truth("--ttft-ms", "5", "--gap-ms", "1").url, small(), stream=False))
    rows = result.measured()
    assert {(row["status"], row["output_tokens"], len(row["chunk_tokens"])) for row in rows} == {
        ("ok", 16, 1)
    }
    assert all(row["tpot_ms"] is None and row["e2e_ms"] >= 20 for row in rows)


def test_faults_are_counted_exactly_by_class(truth: Start, run: Run) -> None:
    shares = "500:0.06,reset:0.05,hang:0.01,error_event:0.05"
    server = truth("--ttft-ms", "3", "--gap-ms", "1", "--faults", shares, "--seed", "3")
    result = run(
        make_plan(
            server.url, small(concurrency=16, requests=400, request_timeout_s=3.0), request_timeout_s=3.0
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
    log = server.log()
    answered = [log[row["request_id"]]["sends_ns"][0] for row in rows]
    silence = max(range(1, len(rows)), key=lambda k: answered[k] - answered[k - 1])
    begun, ended = (log[rows[k]["request_id"]]["sends_ns"][0] for k in (silence - 1, silence))
    assert ended - begun > 900_000_000, "the freeze, by the server's log"
    frozen = [row for row in rows if begun < log[row["request_id"]]["kernel_received_ns"] < ended - 1]
    assert len(frozen) >= 40, "those due in the second of silence were sent in it"
    for row in frozen:
        entry = log[row["request_id"]]
        waited = (ended - entry["kernel_received_ns"]) / 1e6 + row["send_lag_ms"]
        assert row["ttft_ms"] > waited - 1, "each waits for the end of the freeze, from when it was due"
    others = [row["send_lag_ms"] for row in rows if row not in frozen]
    assert median([row["send_lag_ms"] for row in frozen]) < max(others) + 20, "none was held back for it"


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
    result = run(make_plan(server.url, small()))
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
    result = run(make_plan([server.url for server in servers], small()))
    for row in result.measured():
        assert row["replica_id"] == servers[row["seq"] % 2].url.partition("://")[2]
    logs = [server.log() for server in servers]
    assert all(row["request_id"] in logs[row["seq"] % 2] for row in result.measured())


def test_a_request_limit_ends_the_window(truth: Start, run: Run) -> None:
    server = truth("--ttft-ms", "5", "--gap-ms", "1", "--connection", "close")
    result = run(make_plan(server.url, small(warmup_s=0.0, requests=25)))
    assert len(result.measured()) == 25
    assert {row["status"] for row in result.measured()} == {"ok"}


def test_slots_make_requests_wait(truth: Start, run: Run) -> None:
    server = truth("--ttft-ms", "60", "--gap-ms", "1", "--slots", "2")
    pairs = paired(run(make_plan(server.url, small(osl=2, requests=20))), server)
    assert median(differences(pairs, "ttft_from_send_ms", first_token, 0)) < 2
    waits = [entry["queue_ms"] for _, entry in pairs]
    assert sum(wait > 10 for wait in waits) > len(waits) / 2, "four users, two slots: a turn of waiting"
    for row, entry in pairs:
        assert row["ttft_ms"] >= entry["queue_ms"] + 60 - 0.3
