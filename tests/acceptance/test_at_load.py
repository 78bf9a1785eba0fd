"""AT-3, 6, 19, 22, 23, 27: what load does to a server whose every number is known.

The real generator against the real ground-truth server. Rates, residence and concurrency are compared with the
server's own log of the same run, at the methodology's tolerances. Laws that bound what a server of so many slots can do
hold on any machine and are tested here; how near a run comes to them is a matter of the machine, and of
``tests/benchmarks/test_nominal.py``.
"""

from __future__ import annotations

import heapq
import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean as mean
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
from tests.loadgen.against_log import Pairs, differences, first_token, last_token, median, token_ms
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
    return make_plan(url, workload, **changes)


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


SERVICE_MS = 400.0


def slots_run(truth: Start, run: Run, slots: int, users: int) -> Pairs:
    """Rows of a closed loop on a server of *slots*, with the server's lines on them: S = 400 ms."""
    server = truth("--slots", str(slots), "--ttft", "50", "--gap", "50")
    workload = workloads.custom(
        concurrency=users, isl=32, osl=8, duration_s=60.0, warmup_s=0.6, tail_s=30.0, requests=4 * users
    )
    result = run(plan(server.url, workload))
    assert result.code == 0, result.error
    log = server.log()
    return [(row, log[row["request_id"]]) for row in result.measured()]


def cycle_ms(ends_ns: list[int], wave: int) -> float:
    """Median time between ends *wave* apart, answers ending together, so many at a time."""
    ends = sorted(ends_ns)
    waves = [median(ends[k : k + wave]) for k in range(0, len(ends) - wave + 1, wave)]
    return median([b - a for a, b in pairwise(waves)]) / 1e6


@pytest.mark.parametrize(("slots", "users"), [(4, 2), (4, 4), (4, 8)])
def test_at6_slots_in_a_closed_loop(truth: Start, run: Run, slots: int, users: int) -> None:
    """X = min(C, K)/S and R = S max(1, C/K) are what no run can exceed; the client's X and R are the log's."""
    pairs = slots_run(truth, run, slots, users)
    assert len(pairs) == 4 * users
    assert abs(median(differences(pairs, "e2e_from_send_ms", last_token, 7))) <= 0.01 * SERVICE_MS
    ended = [entry["kernel_received_ns"] + int(last_token(entry) * 1e6) for _, entry in pairs]
    seen = [row["sent_at"] + int(row["e2e_from_send_ms"] * 1e6) for row, _ in pairs]
    wave = min(users, slots)
    assert cycle_ms(seen, wave) == pytest.approx(cycle_ms(ended, wave), rel=0.01)
    assert cycle_ms(ended, wave) >= 0.99 * SERVICE_MS, "so many slots do no more than X = min(C, K)/S"
    waits = [entry["queue_ms"] for _, entry in pairs]
    for row, entry in pairs:
        assert row["e2e_ms"] >= entry["queue_ms"] + SERVICE_MS - 0.3
    if users > slots:
        assert median(waits) > SERVICE_MS / 2, "twice as many users as slots: a turn of waiting"
    else:
        assert max(waits) == 0


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
    until = time.monotonic() + 4.0  # longer than warm-up and window together
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


def served(
    truth: Start, tmp_path: Any, rate: float, tokens: int, warmup_s: float, window_s: float
) -> tuple[float, float, float]:
    """Tokens a second in the window by the summary and by the server's log, and over the whole run."""
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
    shard, log = result.shard, server.log()
    (step,) = shard["steps"]
    offset = shard["wall_anchor"][0]["wall_ns"] - shard["wall_anchor"][0]["mono_ns"]
    begin, end = step["phase_starts_ns"]["measure"] - offset, step["measure_end_ns"] - offset
    inside = sum(begin <= at < end for entry in log.values() for at in entry["sends_ns"])
    rows = [one for one in result.rows if one["phase"] != "calibration"]
    first = min(one["sent_at"] for one in rows)
    last = max(one["sent_at"] + int((one["e2e_from_send_ms"] or 0) * 1e6) for one in rows)
    whole_run = sum(len(one["chunk_tokens"]) for one in rows) * NS / (last - first)
    return row["output_tokens_per_s_served"], inside * NS / (end - begin), whole_run


def test_at23_the_window_excludes_ramp_and_drain(truth: Start, tmp_path: Any) -> None:
    """Answers of 10 ms a token, ten in flight after the ramp: 1,000 tokens/s."""
    in_window, by_log, whole_run = served(truth, tmp_path, 10.0, 100, 1.5, 2.0)
    assert in_window == pytest.approx(by_log, rel=0.02)
    assert by_log == pytest.approx(1000, rel=0.03), "lateness moves tokens over the edges, it makes none"
    assert whole_run < 950, "tokens over the whole run, as most generators count, would be low"


# ---------------------------------------------------------------------- AT-27


@dataclass
class Ladder:
    """What a run came to: rows with the server's lines on them, by step, and what ``bench`` made of them."""

    pairs: list[Pairs]
    steps: list[dict[str, Any]]
    percentiles: list[dict[str, Any]]
    rules: Mapping[str, Any]

    def mean(self, index: int, metric: str) -> float:
        """Of a step, in ms."""
        rows = [row for row in self.percentiles if (row["step_index"], row["metric"]) == (index, metric)]
        return float(rows[0]["mean"])


def admission(url: str, folder: Path, ladder: list[int], token_ms: float, tokens: int, rounds: int) -> Result:
    """A ladder of users, answers of so many *tokens*."""
    workload = workloads.custom(
        concurrency=ladder,
        isl=32,
        osl=tokens,
        duration_s=60.0,
        warmup_s=tokens * token_ms / 1000 * 1.25,
        tail_s=30.0,
        requests=rounds * 4,
    )
    folder.mkdir()
    result = finish(*start_run(plan(url, workload), folder))
    assert result.code == 0, result.error
    return result


def reduced(result: Result, log: Mapping[str, Any]) -> Ladder:
    """*result* as ``bench`` reduces and judges it."""
    rows = [(row, log[row["request_id"]]) for row in result.measured()]
    found = measured(result)
    steps = [step_row(frame, accelerators=1) for frame in found]
    return Ladder(
        [[pair for pair in rows if pair[0]["step_index"] == index] for index in range(len(found))],
        steps,
        [row for frame in found for row in percentile_rows(frame, intervals=False)],
        judge(
            found,
            steps,
            [result.shard],
            evidence_level="smoke",
            planned_steps=len(found),
            fixed_output_length=True,
            window_required_s=0.5,
        ),
    )


def test_at27_admission_looks_like_admission(truth: Start, tmp_path: Path) -> None:
    """Four slots: beyond four users ITL stays, TTFT grows with each, and X_out x ITL counts the slots. Where the client
    was held up so long that chunks shared a read, its own monitor says so, and the run is made again."""
    ladder, gap_ms, turn_ms = [4, 6, 8], 50.0, 400.0
    for attempt in range(6):
        server = truth("--slots", "4", "--ttft", f"{gap_ms:g}", "--gap", f"{gap_ms:g}")
        result = admission(server.url, tmp_path / str(attempt), ladder, gap_ms, 8, rounds=5)
        got = reduced(result, server.log())
        true_itl = [mean([token_ms(entry) for _, entry in pairs]) for pairs in got.pairs]
        if all(got.mean(k, "itl") == pytest.approx(true_itl[k], rel=0.08) for k in range(3)):
            break
        verdict = got.rules["loop_lag_p99"]
        assert verdict["verdict"] != "pass", f"ITL is wrong and nothing says so: {verdict['text']}"
    else:
        pytest.fail(f"the client's monitor refused six runs: {verdict['text']}")
    for index, (users, pairs) in enumerate(zip(ladder, got.pairs, strict=True)):
        assert abs(median(differences(pairs, "ttft_from_send_ms", first_token, 0))) <= 2
        waiting = mean([entry["queue_ms"] for _, entry in pairs])
        assert waiting == pytest.approx(max(0, users - 4) / 4 * turn_ms, abs=0.25 * turn_ms)
        assert got.mean(index, "ttft") >= waiting + gap_ms - 0.3
    labels = saturation_labels(got.steps, got.percentiles)
    assert labels[-1] == ADMISSION_LIMITED
    slots = implied_slots(got.steps, got.percentiles)[-1]
    assert slots is not None
    assert round(slots) == 4
