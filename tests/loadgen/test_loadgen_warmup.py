"""Warm-up by state: cells and batches, the rule on made series, and the rule in the running generator."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable

import pytest

from loadgen import workloads
from loadgen.exchange import Exchange, Request
from loadgen.plan import Plan, Replica, Step
from loadgen.warmup import CELL_NS, NS, Cells, Warmup, batch_means, batch_medians

from .conftest import Result, Truth, make_plan

START = 1_000 * NS
STEP = Step(0, "closed", 8, warmup_s=2, window_s=10, tail_s=10, warmup_rule="state", warmup_max_s=60)
TICK_NS = 10_000_000
FIRST_TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def finished(ttft_ns: int, e2e_ns: int, end_ns: int) -> Exchange:
    exchange = Exchange(Request(0, "r", b"", b"", 1, 1), Replica("h", "http://h"), True)
    exchange.sent_ns, exchange.end_ns, exchange.http_status = end_ns - e2e_ns, end_ns, 200
    for offset, data in ((ttft_ns, HEAD + FIRST_TOKEN), (e2e_ns, b"data: [DONE]\n\n")):
        exchange.stamps.append(exchange.sent_ns + offset)
        exchange.lags_ns.append(0)
        exchange.reads.append(data)
    return exchange


def drive(
    warmup: Warmup, ttft_ms: Callable[[float], float], e2e_s: float = 0.4, until_s: float = 60
) -> float:
    """Ticks and answers of eight users in virtual time; returns the seconds after which the rule ended it."""
    draw = random.Random(5)
    reads, ends = 0.0, [START + int(e2e_s * NS * (1 + k / 8)) for k in range(8)]
    now = START
    while now < START + until_s * NS:
        now += TICK_NS
        seconds = (now - START) / NS
        reads += 16 / ttft_ms(seconds) * draw.uniform(0.9, 1.1)
        warmup.cells.tick(now, 8, int(reads))
        for user, end in enumerate(ends):
            if end <= now:
                noise = draw.uniform(0.97, 1.03)
                warmup.done(finished(int(ttft_ms(seconds) * noise * 1e6), int(e2e_s * NS), end))
                ends[user] = end + int(e2e_s * NS)
        if warmup.over(now):
            return seconds
    return math.inf


def test_a_steady_server_is_warm_after_the_least_time() -> None:
    warmup = Warmup(STEP, 8, START)
    assert drive(warmup, lambda _: 50.0) < 4.0
    record = warmup.record(START + 2 * NS)
    assert (record["rule"], record["status"], record["seconds"]) == ("state", "warm", 2.0)
    assert record["figures"]["verdict"] == "steady"


def test_the_slow_beginning_is_cut_off_and_at_least_as_long_follows() -> None:
    """Compilation makes the first six seconds four times slower."""
    warmup = Warmup(STEP, 8, START)
    took = drive(warmup, lambda s: 200.0 if s < 6 else 50.0)
    assert warmup.status == "warm"
    assert 11.0 <= took < 25.0, "the slow part is at most half of it"
    assert warmup.record(0)["figures"]["cut_s"] >= 5.5


def test_a_server_that_never_settles_ends_as_not_warm_at_the_limit() -> None:
    warmup = Warmup(dataclasses.replace(STEP, warmup_max_s=20), 8, START)
    assert drive(warmup, lambda s: 50.0 * 1.08**s) == pytest.approx(20, abs=0.1)
    assert warmup.record(0)["status"] == "not_warm"
    assert warmup.record(0)["figures"]["reason"]


def test_the_warmup_covers_twice_the_slowest_latencies() -> None:
    warmup = Warmup(STEP, 8, START)
    assert drive(warmup, lambda _: 50.0, e2e_s=4.0) >= 8.0


def test_idle_users_are_not_warm() -> None:
    """S5 (c): seven of eight users in flight is less than 97 %."""
    warmup = Warmup(dataclasses.replace(STEP, warmup_max_s=10), 9, START)
    drive(warmup, lambda _: 50.0)
    record = warmup.record(0)
    assert record["status"] == "not_warm"
    assert "8.0 of 9 users" in record["figures"]["reason"]


def test_by_time_nothing_is_judged_and_a_fixed_one_is_judged_at_its_end() -> None:
    by_time = Warmup(dataclasses.replace(STEP, warmup_rule="time"), 8, START)
    assert by_time.fixed
    assert by_time.record(START + NS) == {"rule": "time", "status": "time", "seconds": 1.0, "figures": {}}
    fixed = Warmup(STEP, 8, START, fixed=True)
    for tick in range(1000):
        fixed.cells.tick(START + tick * TICK_NS, 8, 10 * tick)
    assert fixed.record(START + 2 * NS)["status"] == "not_warm", (
        "no answer came: nothing shows that it is warm"
    )


def test_cells_cover_time_the_loop_missed() -> None:
    cells = Cells(START)
    cells.tick(START, 4, 100)
    cells.tick(START + CELL_NS, 4, 120)
    cells.tick(START + 4 * CELL_NS, 8, 150)  # held up for three cells
    assert list(cells.reads) == [20, 10, 10, 10]
    assert len(cells) == len(cells.ttft_ms) == 4


def test_batches_of_cells() -> None:
    assert batch_means([1.0, 2.0, 3.0, 4.0], 2) == [1.5, 3.5]
    assert batch_means([1.0, 2.0], 20) == [1.0, 2.0]
    assert batch_means([], 20) == []
    medians = batch_medians([[1.0, 9.0], [5.0], [], []], 2)
    assert medians[0] == 5.0
    assert math.isnan(medians[1])


def state_plan(url: str, *, max_s: float) -> Plan:
    workload = workloads.custom(concurrency=4, isl=32, osl=8, duration_s=0.5, warmup_s=0.5)
    (step,) = workload.steps()
    step = dataclasses.replace(step, warmup_rule="state", warmup_max_s=max_s)
    return make_plan(url, workload, steps=(step,))


def test_the_generator_waits_for_the_state(truth: Callable[..., Truth], run: Callable[..., Result]) -> None:
    """The server says nothing for a second after its first request, so that the beginning is cut off."""
    server = truth("--ttft-ms", "60", "--gap-ms", "20", "--freeze", "0.3:1")
    result = run(state_plan(server.url, max_s=20))
    assert result.code == 0, result.error
    (step,) = result.shard["steps"]
    settled = step["warmup"]["seconds"] < 20  # a machine that never does is told so at the limit
    assert step["warmup"]["status"] == ("warm" if settled else "not_warm"), step["warmup"]
    assert step["warmup"]["seconds"] > 1.5
    starts = step["phase_starts_ns"]
    assert starts["measure"] - starts["warmup"] == pytest.approx(step["warmup"]["seconds"] * NS, rel=1e-6)
    assert step["measure_end_ns"] - starts["measure"] == pytest.approx(0.5 * NS, abs=1000)
    for row in result.rows:
        if row["phase"] in ("warmup", "measure", "tail"):
            inside = starts["measure"] <= row["scheduled_at"] < step["measure_end_ns"]
            assert (row["phase"] == "measure") == inside


def test_a_hard_stop_is_recorded_and_the_window_still_measured(
    truth: Callable[..., Truth], run: Callable[..., Result]
) -> None:
    server = truth("--ttft-ms", "300", "--gap-ms", "1")
    result = run(state_plan(server.url, max_s=0.6))
    (step,) = result.shard["steps"]
    assert result.code == 0, result.error
    assert step["warmup"]["status"] == "not_warm"
    assert 0.6 <= step["warmup"]["seconds"] < 10, "it did not wait for the state, which would not have come"
    assert step["ok"] > 0


def test_an_open_loop_goes_on_unbroken_through_a_warmup_by_state(
    truth: Callable[..., Truth], run: Callable[..., Result]
) -> None:
    workload = workloads.custom(
        rate=100.0, arrival="constant", isl=32, osl=2, duration_s=1.0, warmup_s=0.5, tail_s=2.0
    )
    (step,) = workload.steps()
    step = dataclasses.replace(step, warmup_rule="state", warmup_max_s=5)
    server = truth("--ttft-ms", "5", "--gap-ms", "1")
    result = run(make_plan(server.url, workload, steps=(step,)))
    assert result.code == 0, result.error
    (found,) = result.shard["steps"]
    assert found["requests_scheduled_in_window"] == pytest.approx(100, abs=1)
    due = sorted(row["scheduled_at"] for row in result.rows if row["phase"] != "calibration")
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert max(gaps) - min(gaps) < 1000, "one constant schedule from the first arrival to the last"
