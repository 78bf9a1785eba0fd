"""The run around its steps: capacity search, client calibration, causes of failure, progress, flags."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadgen import workloads
from loadgen.plan import Plan

from .conftest import ENV, HANG_S, Result, Truth, finish, make_plan, start_run

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "5", "--gap-ms", "1")


def command(*options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "loadgen", "run", *options]
    return subprocess.run(line, capture_output=True, text=True, env=ENV, timeout=HANG_S, check=False)


def search_plan(url: str, deadline_s: float, **slo: float) -> Plan:
    workload = workloads.custom(concurrency=1, isl=32, osl=4, duration_s=1.0, warmup_s=0.1, tail_s=2.0)
    search = {"slo": {"quantile": 0.9, **slo}, "max_concurrency": 2, "fractions": [0.5]}
    return make_plan(url, workload, search=search, deadline_s=deadline_s)


def test_a_search_adds_steps_and_says_what_it_found(truth: Start, run: Run) -> None:
    result = run(search_plan(truth("--ttft-ms", "90", "--gap-ms", "20").url, 110, e2e_ms=5000.0))
    assert result.code == 0, result.error
    capacity, steps = result.shard["capacity"], result.shard["steps"]
    assert [(p["kind"], p["load_kind"]) for p in capacity["points"]] == [
        ("ladder", "closed"),
        ("ladder", "closed"),
        ("confirm", "open"),
    ]
    assert [step["load_value"] for step in steps] == [p["load_value"] for p in capacity["points"]]
    assert [step["step_index"] for step in steps] == [0, 1, 2]
    assert capacity["status"] == "confirmed", capacity
    assert capacity["capacity_requests_per_s"] == steps[2]["load_value"]
    rates = []
    for step in steps[:2]:
        rows = [
            row for row in result.rows if (row["step_index"], row["status"]) == (step["step_index"], "ok")
        ]
        ended = [row["sent_at"] + int(row["e2e_from_send_ms"] * 1e6) for row in rows]
        begin, end = step["phase_starts_ns"]["measure"], step["measure_end_ns"]
        rates.append(sum(begin <= at < end for at in ended) / (end - begin) * 1e9)
    assert capacity["closed_requests_per_s"] == pytest.approx(max(rates), rel=1e-6)
    assert capacity["closed_requests_per_s"] <= 2 / 0.150 + 2, "two users are not answered faster"
    assert result.shard["schedule_hash"]
    messages = [event["message"] for event in result.events if event["event"] == "point"]
    assert len(messages) == 3
    assert messages[0].startswith("ladder C=1: ")


def test_a_search_that_runs_out_of_time_says_so_and_keeps_its_points(truth: Start, tmp_path: Path) -> None:
    workload = workloads.custom(concurrency=1, isl=32, osl=4, duration_s=1.5, warmup_s=0.1, tail_s=2.0)
    search, url, result = {"slo": {"quantile": 0.9}}, truth(*FAST).url, None
    for deadline_s in (9.0, 18.0, 36.0, 72.0):  # a machine that needs nine seconds to begin gets more
        plan = make_plan(url, workload, search=search, deadline_s=deadline_s, null_server=True)
        folder = tmp_path / f"{deadline_s:g}"
        folder.mkdir()
        result = finish(*start_run(plan, folder))
        if result.shard["steps"]:
            break
    assert result is not None
    assert result.code == 0, result.error
    capacity = result.shard["capacity"]
    assert capacity["status"] == "incomplete"
    assert "of the deadline are left" in capacity["reason"]
    assert 1 <= len(capacity["points"]) == len(result.shard["steps"]) <= deadline_s / 1.6
    assert any("ended early" in warning for warning in result.shard["warnings"])
    assert "deadline" in result.shard["client"]["null_server_reason"]


def test_the_client_is_measured_against_a_null_server(truth: Start, tmp_path: Path) -> None:
    workload = workloads.custom(concurrency=4, isl=32, osl=8, duration_s=1.0, warmup_s=0.1)
    plan = make_plan(truth(*FAST).url, workload, null_server=True)
    for attempt in range(5):
        (tmp_path / str(attempt)).mkdir()
        result = finish(*start_run(plan, tmp_path / str(attempt)))
        assert result.code == 0, result.error
        client = result.shard["client"]
        if "did not start within" not in str(client["null_server_reason"]):
            break  # else the machine was too busy for it, and the record said so
    found = client["null_server"]
    assert client["null_server_reason"] is None
    assert found["events_per_s"] >= found["requests_per_s"] > 0
    assert client["events_per_s_max"] > 0
    assert found["own_latency_p99_ms"] >= 0
    ids = {row["request_id"] for row in result.rows}
    assert "null" not in ids, "its requests are no samples"


def test_no_null_server_when_switched_off(truth: Start, run: Run) -> None:
    workload = workloads.custom(concurrency=1, isl=32, osl=4, duration_s=0.2, warmup_s=0)
    result = run(make_plan(truth(*FAST).url, workload, null_server=False))
    client = result.shard["client"]
    assert (client["null_server"], client["null_server_reason"]) == (None, "it was switched off")
    assert {"workers", "stamp_lag_p99_ms", "clock_fallbacks", "clock_jumps", "shared_chunk_share"} <= set(
        client
    )


def test_one_line_for_each_cause_of_failure(truth: Start, run: Run) -> None:
    urls = [
        truth(*FAST).url,
        truth(*FAST, "--faults", "500:0.3,reset:0.2").url,
    ]  # the first answers the calibration
    workload = workloads.custom(rate=200.0, arrival="constant", isl=32, osl=4, duration_s=1.0, warmup_s=0.1)
    result = run(make_plan(urls, workload))
    failed: dict[str, int] = {}
    for row in result.rows:
        if row["phase"] != "calibration" and row["status"] not in ("ok", "cancelled"):
            failed[row["error_class"]] = failed.get(row["error_class"], 0) + 1
    causes = {cause["error_class"]: cause["count"] for cause in result.shard["causes"]}
    assert causes == failed
    assert {"5xx", "mid_stream"} <= set(causes)
    lines = [event["message"] for event in result.events if event["event"] == "cause"]
    assert len(lines) == len(causes)
    assert any(line.startswith(f"{causes['5xx']} requests failed (5xx)") for line in lines)
    assert sum(step["ok"] for step in result.shard["steps"]) > 0


SPOOL_FULL = (
    "from loadgen.spool import Spool\nreal, count = Spool.append, []\n"
    "def append(self, exchange):\n"
    "    count.append(1)\n"
    "    if len(count) > 30: raise OSError(errno.ENOSPC, 'No space left on device')\n"
    "    real(self, exchange)\n"
    "Spool.append = append\n"
)
PARTS_FULL = (
    "from loadgen.samples import SampleBatch\nfrom loadgen.output import OutputError\n"
    "def full(*_): raise OutputError('The disk is full: writing a part failed.')\n"
    "SampleBatch.to_parquet = full\n"
)


@pytest.mark.parametrize(("patch", "left"), [(SPOOL_FULL, False), (PARTS_FULL, True)])
def test_a_full_disk_is_one_sentence_and_costs_no_answer(
    truth: Start, tmp_path: Path, patch: str, left: bool
) -> None:
    """What was received is in the parts, or in the spool for ``recover``."""
    workload = workloads.custom(concurrency=2, isl=32, osl=4, duration_s=60, warmup_s=0, requests=60)
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(make_plan(truth(*FAST).url, workload).to_json())
    code = f"import errno, sys\n{patch}from loadgen.__main__ import main\nsys.exit(main())"
    line = [sys.executable, "-c", code, "run", "--plan", str(path), "--out", str(out), "--progress", "json"]
    done = subprocess.run(line, capture_output=True, text=True, env=ENV, timeout=HANG_S, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The disk is full: ")
    assert done.stderr.count("\n") == 1
    shard = out / "shard=000" / "shard.json"
    document = json.loads(shard.read_text())
    assert not document["complete"]
    hint = any(f"recover --out {shard.parent}" in warning for warning in document["warnings"])
    assert hint == left
    if left:
        again = [sys.executable, "-m", "loadgen", "recover", "--out", str(out)]
        recovered = subprocess.run(
            again, capture_output=True, text=True, env=ENV, timeout=HANG_S, check=False
        )
        assert recovered.returncode == 0, recovered.stderr
    assert json.loads(shard.read_text())["rows"] >= 30
    assert not list(shard.parent.glob(".spool-*")), "nothing raw stays"


def test_skew_and_concurrency_are_in_the_steps_record(truth: Start, run: Run) -> None:
    urls = [truth(*FAST).url, truth(*FAST).url]
    workload = workloads.custom(concurrency=3, isl=32, osl=4, duration_s=0.5, warmup_s=0.1)
    (step,) = run(make_plan(urls, workload)).shard["steps"]
    first, second = step["requests_by_replica"].values()
    assert abs(first - second) <= 1, "in turn over the replicas"
    assert step["in_flight_at_start"] == step["in_flight_at_end"] == step["in_flight_max"] == 3
    assert (step["kind"], step["warmup"]["status"]) == ("ladder", "time")


def test_progress_tells_live_events(truth: Start, run: Run) -> None:
    workload = workloads.custom(concurrency=4, isl=32, osl=50, duration_s=2.5, warmup_s=0.2)
    result = run(make_plan(truth("--ttft-ms", "20", "--gap-ms", "10").url, workload))
    live = [event for event in result.events if event["event"] == "progress" and event["phase"] == "measure"]
    assert live
    assert all(event["in_flight"] == 4 for event in live)
    told, before_s = 0.0, 0.0
    for event in (one for one in result.events if one["event"] == "progress"):
        told += event["events_per_s"] * (event["elapsed_s"] - before_s)
        before_s = event["elapsed_s"]
    start, late_s = result.shard["steps"][0]["phase_starts_ns"]["warmup"], 0.0
    if (lag_ms := result.shard["client"]["loop_lag_max_ms"]) is not None:
        late_s = lag_ms / 1000

    def came(until_s: float) -> int:
        """Reads that brought tokens, by the samples."""
        rows = [row for row in result.rows if row["phase"] != "calibration"]
        return sum(
            (row["sent_at"] - start) / 1e9 + offset / 1e6 < until_s
            for row in rows
            for offset in set(row["chunk_offset_us"])
        )

    begun = sum(row["phase"] != "calibration" for row in result.rows)
    assert came(before_s - late_s - 0.01) - 5 <= told <= came(before_s + 0.01) + 4 * begun + 5
    assert came(before_s) > 50, "it is mostly tokens that were counted"


BASE = ("--out", "/nowhere/x", "--url", "http://127.0.0.1:9", "--model", "m")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--out", "x"), "--url"),
        ((*BASE, "--concurrency", "1", "--shard", "2/2"), "--shard"),
        ((*BASE, "--concurrency", "1", "--shard", "two"), "--shard"),
        ((*BASE, "--concurrency", "1", "--slo", "chat"), "--slo"),
        ((*BASE, "--find-capacity"), "--slo"),
        ((*BASE, "--find-capacity", "--slo", "quick"), "slo"),
        ((*BASE, "--find-capacity", "--slo", "chat", "--requests", "5"), "--requests"),
        ((*BASE, "--find-capacity", "--slo", "chat", "--workers", "2"), "search"),
        ((*BASE, "--concurrency", "0"), "--concurrency"),
        ((*BASE, "--rate", "-1"), "--rate"),
        ((*BASE, "--concurrency", "1", "--rate", "1"), "--rate"),
        ((*BASE, "--concurrency", "1", "--duration", "nan"), "--duration"),
        ((*BASE, "--rate", "1", "--arrival", "gamma:0"), "arrival"),
        ((*BASE, "--rate", "1", "--arrival", "sometimes"), "arrival"),
        ((*BASE, "--concurrency", "1", "--workers", "0"), "workers"),
        ((*BASE, "--concurrency", "1", "--proxy", "http://u:p@h:1"), "proxy_env"),
        ((*BASE, "--concurrency", "1", "--proxy-env", "NO_SUCH_PROXY"), "NO_SUCH_PROXY"),
        ((*BASE, "--workload", "demo.chat@1", "--concurrency", "1"), "--workload"),
        ((*BASE, "--workload", "demo.chat@1", "--warmup-rule", "state"), "--warmup-rule"),
        (("--out", "x", "--plan", "/no/such/plan.json"), "/no/such/plan.json"),
    ],
)
def test_wrong_usage_is_one_sentence_and_code_2(options: tuple[str, ...], named: str, tmp_path: Path) -> None:
    done = command(*options)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert "u:p" not in done.stderr


def test_unknown_flags_are_refused() -> None:
    done = command("--out", "x", "--speed", "11")
    assert done.returncode == 2
    assert "--speed" in done.stderr


def test_flags_make_the_plan(truth: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command(
        *("--out", str(out), "--url", truth(*FAST).url, "--model", "truth"),
        *("--rate", "50", "--arrival", "gamma:0.5", "--duration", "0.4", "--warmup", "0", "--isl", "32"),
        *("--osl", "2", "--fresh-connections", "--no-null-server", "--shard", "1/2", "--seed", "3"),
    )
    assert done.returncode == 0, done.stderr
    shard: dict[str, Any] = json.loads((out / "shard=001" / "shard.json").read_text())
    (step,) = shard["steps"]
    assert (step["arrival"], step["load_value"], shard["shards"]) == ("gamma:0.5", 25.0, 2)
    client = shard["client"]
    assert client["fresh_connections"]
    assert client["connections_opened"] >= shard["rows"]
    assert "samples written" in done.stdout


def test_help_tells_every_group() -> None:
    done = command("--help")
    assert done.returncode == 0
    for word in ("server", "load", "capacity search", "processes", "--find-capacity", "--shard I/N"):
        assert word in done.stdout
    assert "--as-worker" not in done.stdout


def document(**changes: Any) -> workloads.Workload:
    base = dict(
        workloads.custom(rate=40.0, isl=32, osl=20, duration_s=1.0, warmup_s=0.2, tail_s=5.0).document
    )
    return workloads.from_document(base | changes)


def test_planned_cancels_go_out_on_time(truth: Start, run: Run) -> None:
    server = truth("--ttft", "100", "--gap", "20")
    result = run(make_plan(server.url, document(cancel={"share": 0.5, "expected_ms": 480})))
    assert result.code == 0, result.error
    rows = result.measured()
    planned = [row for row in rows if row["planned_cancel_ms"] is not None]
    assert 0.2 < len(planned) / len(rows) < 0.8
    cut = [row for row in planned if row["status"] == "cancelled"]
    assert cut
    late = sorted(row["ended_ms"] - row["planned_cancel_ms"] for row in cut)
    assert late[0] >= -0.5
    lag_ms = result.shard["client"]["loop_lag_p99_ms"]
    assert late[len(late) // 2] < max(20.0, lag_ms), "no later than the loop came to anything else"
    assert {row["status"] for row in rows if row["planned_cancel_ms"] is None} == {"ok"}
    assert result.shard["causes"] == [], "a planned cancel is no failure"


def test_a_planned_cancel_waits_for_nothing_from_the_server(truth: Start, run: Run) -> None:
    """One of two servers is silent for ten minutes after its first token: a timer has to wake the loop."""
    urls = [
        truth(*FAST).url,
        truth("--ttft", "5", "--gap", "600000").url,
    ]  # the first answers the calibration
    result = run(make_plan(urls, document(cancel={"share": 1.0, "expected_ms": 400})))
    assert result.code == 0, result.error
    rows = [row for row in result.measured() if urls[1].endswith(row["replica_id"])]
    assert len(rows) >= 15
    assert {row["status"] for row in rows} == {"cancelled"}
    assert None not in {row["planned_cancel_ms"] for row in rows}, "as planned, not cut when the step ended"
    assert max(row["ended_ms"] - row["planned_cancel_ms"] for row in rows) < 60_000


def test_work_given_at_once_ends_the_window_when_it_is_done(truth: Start, run: Run) -> None:
    workload = document(
        arrival="at_once", ladder=[30], times_s={**document().document["times_s"], "window": 20}
    )
    result = run(make_plan(truth("--slots", "10", *FAST).url, workload))
    assert result.code == 0, result.error
    (step,) = result.shard["steps"]
    starts = step["phase_starts_ns"]
    assert step["measure_end_ns"] < starts["tail"] - 10e9
    assert step["ok"] == step["requests_scheduled_in_window"] == len(result.measured()) > 0


def test_models_of_a_pool_are_asked_and_named(truth: Start, run: Run) -> None:
    server = truth(*FAST, "--model", "a", "--model", "b")
    workload = document(models={"count": 2, "zipf": 0.0})
    result = run(make_plan(server.url, workload, model="a", models=("a", "b")))
    assert result.code == 0, result.error
    counts = {name: sum(row["model"] == name for row in result.measured()) for name in ("a", "b")}
    assert min(counts.values()) > 5


def test_turns_of_a_session_follow_each_other(truth: Start, run: Run) -> None:
    source = dict(workloads.load("multiturn.chat@1").document)
    source |= {
        "ladder": [5],
        "warmup_rule": "time",
        "evidence_level": "smoke",
        "times_s": {"warmup": 0.5, "window": 2.0, "tail": 5, "request_timeout": 20, "idle_timeout": 20},
        "sessions": {**source["sessions"], "think_s": {"mu": -2.3, "sigma": 0.1, "cap": 1}},
    }
    result = run(make_plan(truth("--tokens", "5", *FAST).url, workloads.from_document(source)))
    assert result.code == 0, result.error
    rows = [row for row in result.rows if row["session_id"] is not None]
    by_session: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_session.setdefault(row["session_id"], {})[row["turn"]] = row
    later = 0
    for turns in by_session.values():
        first = min(turns)
        for turn in sorted(turns)[1:]:
            before, row = turns[turn - 1], turns[turn]
            ended = before["sent_at"] + before["ended_ms"] * 1e6
            think_ms = (row["scheduled_at"] - ended) / 1e6
            assert 50 < think_ms < 200, "due a think time after the answer before it ended"
            assert row["input_tokens"] > before["input_tokens"], "the history grows"
            later += 1
        assert sorted(turns) == list(range(first, first + len(turns)))
    assert later > 5
    scheduled = result.shard["steps"][0]["requests_scheduled_in_window"]
    assert scheduled == len(result.measured()), "turns count as scheduled when they were due in the window"
