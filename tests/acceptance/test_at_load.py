"""AT-3, 6, 19, 22, 23, 27: what load does to a server whose every number is known.

The real generator against the real ground-truth server. Rates, residence and concurrency are compared with the
server's own log of the same run wherever it has them, at the methodology's tolerances, and with the nominal values
on medians, since a busy machine makes the server itself late.
"""

from __future__ import annotations

import heapq
import json
import signal
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accelbench_assets.bench.frame import Frame, frames, step_windows
from accelbench_assets.bench.metrics import percentile_rows, step_row
from accelbench_assets.bench.rules.outcome import first_void
from accelbench_assets.bench.saturation import ADMISSION_LIMITED, implied_slots, saturation_labels
from accelbench_assets.bench.validity import judge
from loadgen import workloads
from loadgen.capacity import Point, Search, point
from loadgen.plan import Plan, Step
from loadgen.schedule import arrivals, child_seed
from tests.loadgen.conftest import Result, Truth, finish, make_plan, run, start_run, truth

__all__ = ["run", "truth"]

Start = Callable[..., Truth]
Run = Callable[..., Result]
NS = 1_000_000_000


def table(result: Result) -> pa.Table:
    folder = result.out / "shard=000"
    return pa.concat_tables(pq.read_table(folder / part["name"]) for part in result.shard["parts"])


def measured(result: Result) -> list[Frame]:
    return list(frames(table(result), step_windows([result.shard])))


def plan(url: str, workload: workloads.Workload, **changes: Any) -> Plan:
    return make_plan(url, workload, null_server=False, **changes)


def median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


# ---------------------------------------------------------------------- AT-3

LITTLE = {  # profile -> its load here; lengths, texts, arrivals and sessions are the profile's own
    "oha.c12@1": [12],
    "dria.concurrent@1": [9],
    "burst.gamma025@1": [20],
    "shared.sys2k@1": [12],
    "multiturn.chat@1": [6],
}


def shortened(name: str) -> workloads.Workload:
    document = dict(workloads.load(name).document)
    times = {"warmup": 0.8, "window": 2.0, "tail": 20, "request_timeout": 60, "idle_timeout": 30}
    document |= {"ladder": LITTLE[name], "times_s": times, "warmup_rule": "time", "evidence_level": "smoke"}
    if name == "multiturn.chat@1":
        document["sessions"] = {**document["sessions"], "think_s": {"mu": -1.6, "sigma": 0.4, "cap": 1}}
    if document["osl"]["law"] != "natural":  # the shape of the lengths is not what is tested
        document["osl"] = {"law": "const", "tokens": 64}
    return workloads.from_document(document)


@pytest.mark.parametrize("name", LITTLE)
def test_at3_littles_law(truth: Start, run: Run, name: str) -> None:
    """Requests in flight by the server's log = completions a second x residence by the client, edges corrected."""
    server = truth("--ttft", "80", "--gap", "5")
    result = run(plan(server.url, shortened(name)))
    assert result.code == 0, result.error
    shard, log = result.shard, server.log()
    (step,) = shard["steps"]
    offset = shard["wall_anchor"][0]["wall_ns"] - shard["wall_anchor"][0]["mono_ns"]
    begin, end = step["phase_starts_ns"]["measure"] - offset, step["measure_end_ns"] - offset
    rows = [row for row in result.rows if row["phase"] != "calibration"]
    stays = [
        (sent, sent + int(row["ended_ms"] * 1e6))
        for row in rows
        if row["sent_at"] is not None and (sent := row["sent_at"] - offset)
    ]
    completed = [(s, e) for s, e in stays if begin <= e < end]
    assert len(completed) > 12
    throughput = len(completed) * NS / (end - begin)
    residence_s = sum(e - s for s, e in completed) / len(completed) / NS
    before = sum(begin - s for s, e in completed if s < begin)
    beyond = sum(end - max(s, begin) for s, e in stays if s < end <= e)
    in_flight = throughput * residence_s + (beyond - before) / (end - begin)
    served = [(one["kernel_received_ns"], one["last_send_ns"]) for one in log.values()]
    inside = sum(max(0, min(e, end) - max(s, begin)) for s, e in served)
    by_log = inside / (end - begin)
    assert in_flight == pytest.approx(by_log, rel=0.01)
    (frame,) = measured(result)
    assert step_row(frame, accelerators=1)["concurrency_mean"] == pytest.approx(by_log, rel=0.01)


# ---------------------------------------------------------------------- AT-6


@pytest.mark.parametrize(("slots", "users"), [(4, 2), (4, 4), (4, 8)])
def test_at6_slots_in_a_closed_loop(truth: Start, run: Run, slots: int, users: int) -> None:
    """X = min(C, K)/S and R = S max(1, C/K): S = 400 ms."""
    server = truth("--slots", str(slots), "--ttft", "50", "--gap", "50")
    workload = workloads.custom(concurrency=users, isl=32, osl=8, duration_s=2.4, warmup_s=0.8, tail_s=5.0)
    result = run(plan(server.url, workload))
    assert result.code == 0, result.error
    rows = result.measured()
    residence_ms = 400.0 * max(1.0, users / slots)
    assert median([row["e2e_ms"] for row in rows]) == pytest.approx(residence_ms, rel=0.01)
    ends = sorted(row["sent_at"] + int(row["e2e_from_send_ms"] * 1e6) for row in rows)
    wave = min(users, slots)  # answers end together, so many at a time
    waves = [median(ends[k : k + wave]) for k in range(0, len(ends) - wave + 1, wave)]
    cycle_s = median([float(b - a) for a, b in pairwise(waves)]) / NS
    assert wave / cycle_s == pytest.approx(wave / 0.4, rel=0.01)


# ---------------------------------------------------------------------- AT-19


def test_at19_a_slow_client_voids_its_run(truth: Start, tmp_path: Any) -> None:
    """The generator has a fifth of a core: it is stopped for 80 of every 100 ms."""
    server = truth("--ttft", "20", "--gap", "2")
    workload = workloads.custom(
        rate=50.0, arrival="constant", isl=32, osl=16, duration_s=2.5, warmup_s=0.2, tail_s=5.0
    )
    process, out = start_run(plan(server.url, workload), tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "step_start":
            break
    until = time.monotonic() + 4.0
    while process.poll() is None and time.monotonic() < until:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.08)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
    result = finish(process, out)
    assert result.code == 0, result.error
    client = result.shard["client"]
    assert client["loop_lag_p99_ms"] > 50
    assert client["send_lag_p99_ms"] > 20
    found = measured(result)
    rules = judge(
        found,
        [step_row(frame, accelerators=1) for frame in found],
        [result.shard],
        evidence_level="smoke",
        planned_steps=1,
        fixed_output_length=True,
        window_required_s=1.0,
    )
    assert rules["loop_lag_p99"]["verdict"] == rules["dispatch_delay"]["verdict"] == "void"
    assert first_void(rules) is not None


# ---------------------------------------------------------------------- AT-22


def simulated(seed: int, step: Step, slots: int, service_s: float, slo: dict[str, Any]) -> Point:
    """What a FIFO server with equal service times would do with this very schedule."""
    limit_s = slo["e2e_ms"] / 1000
    if step.load_kind == "closed":
        rate = min(step.load_value, slots) / service_s
        fits = service_s * max(1.0, step.load_value / slots) <= limit_s
        return point(step, slo, requests_per_s=rate, attainment=float(fits), error_rate=0.0)
    duration = step.warmup_limit_s + step.window_s + step.tail_s
    due = arrivals(
        step.arrival,
        step.load_value,
        duration,
        child_seed(seed, "arrival", step.step_index),
        lead_s=step.warmup_s,
    )
    free, good, total = [0.0] * slots, 0, 0
    for at_ns in due:
        at = at_ns / NS
        end = max(at, heapq.heappop(free)) + service_s
        heapq.heappush(free, end)
        if step.warmup_s <= at < step.warmup_s + step.window_s:
            total += 1
            good += end - at <= limit_s
    return point(step, slo, requests_per_s=total / step.window_s, attainment=good / total, error_rate=0.0)


def search_simulated(of: Plan, slots: int, service_s: float) -> dict[str, Any]:
    assert of.search is not None
    search = Search(of.steps[0], of.search["slo"])
    points: list[Point] = []
    while (step := search.next(points)) is not None:
        points.append(simulated(of.seed, step, slots, service_s, dict(search.slo)))
    return search.result(points)


@pytest.mark.long
def test_at22_capacity_of_sixteen_slots(truth: Start, tmp_path: Any) -> None:
    """K = 16, S = 0.2 s, objective E2E 0.3 s: the methodology's server, ten times as fast."""
    server = truth("--slots", "16", "--ttft", "25", "--gap", "25")
    workload = workloads.custom(concurrency=1, isl=32, osl=8, duration_s=6.0, warmup_s=1.0, tail_s=5.0)
    search = {"slo": {"e2e_ms": 300.0, "quantile": 0.95}}
    asked = plan(server.url, workload, search=search, deadline_s=400.0)
    process, out = start_run(asked, tmp_path)
    stdout, stderr = process.communicate(timeout=420)
    result = Result(process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr, out)
    assert result.code == 0, result.error
    capacity = result.shard["capacity"]
    expected = search_simulated(asked, 16, 0.2)
    assert capacity["status"] == expected["status"] == "confirmed", capacity
    assert capacity["knee_concurrency"] == 16
    assert capacity["closed_requests_per_s"] == pytest.approx(80.0, rel=0.05)
    assert capacity["capacity_requests_per_s"] == pytest.approx(expected["capacity_requests_per_s"], rel=0.05)


# ---------------------------------------------------------------------- AT-23


@pytest.mark.parametrize(
    ("rate", "tokens", "warmup_s", "window_s"),
    [(10.0, 100, 1.5, 3.0), pytest.param(0.5, 2000, 21.0, 20.0, marks=pytest.mark.long)],
)
def test_at23_the_window_excludes_ramp_and_drain(
    truth: Start, tmp_path: Any, rate: float, tokens: int, warmup_s: float, window_s: float
) -> None:
    """Answers of 10 ms a token, ten in flight after the ramp: exactly 1,000 tokens/s. The long one has 20 s of ramp
    and of drain."""
    server = truth("--ttft", "10", "--gap", "10")
    workload = workloads.custom(
        rate=rate,
        arrival="constant",
        isl=32,
        osl=tokens,
        duration_s=window_s,
        warmup_s=warmup_s,
        tail_s=25.0,
    )
    process, out = start_run(plan(server.url, workload, deadline_s=150.0), tmp_path)
    stdout, stderr = process.communicate(timeout=150)
    result = Result(process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr, out)
    assert result.code == 0, result.error
    (frame,) = measured(result)
    row = step_row(frame, accelerators=1)
    assert row["output_tokens_per_s_served"] == pytest.approx(1000, rel=0.005)
    rows = [one for one in result.rows if one["phase"] != "calibration"]
    first = min(one["sent_at"] for one in rows)
    last = max(one["sent_at"] + int((one["e2e_from_send_ms"] or 0) * 1e6) for one in rows)
    whole_run = sum(len(one["chunk_tokens"]) for one in rows) * NS / (last - first)
    assert whole_run < 950, "tokens over the whole run, as most generators count, would be low"


# ---------------------------------------------------------------------- AT-27


def test_at27_admission_looks_like_admission(truth: Start, run: Run) -> None:
    """Four slots: beyond four users ITL stays, TTFT grows with each, and X_out x ITL counts the slots."""
    server = truth("--slots", "4", "--ttft", "10", "--gap", "10")
    workload = workloads.custom(
        concurrency=list(range(1, 10)), isl=32, osl=16, duration_s=1.0, warmup_s=0.4, tail_s=5.0
    )
    result = run(plan(server.url, workload))
    assert result.code == 0, result.error
    found = measured(result)
    steps = [step_row(frame, accelerators=1) for frame in found]
    percentiles = [row for frame in found for row in percentile_rows(frame, intervals=False)]
    means = {(row["step_index"], row["metric"]): row["mean"] for row in percentiles}
    for index in range(9):
        assert means[index, "itl"] == pytest.approx(10.0, rel=0.1)
        waiting = max(0, index + 1 - 4) / 4 * 160.0
        assert means[index, "ttft"] == pytest.approx(10.0 + waiting, abs=20)
    labels = saturation_labels(steps, percentiles)
    assert labels[-1] == ADMISSION_LIMITED
    slots = implied_slots(steps, percentiles)[-1]
    assert slots is not None
    assert round(slots) == 4
