"""AT-1, 2, 20: durations against the server's own log, a frozen server, a wall clock that is set.

The server's log says what it really did, so a machine that makes the server late does not make the client wrong. The
nominal times, and what the client costs (AT-28), are the machine's too: ``tests/benchmarks/test_nominal.py`` and
``tests/benchmarks/test_client_cost.py``. The long variants are the methodology's own sizes.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import pytest

from loadgen import workloads
from loadgen.client import Client
from loadgen.clock import SAMPLE_NS, KernelClock
from loadgen.decode import decode
from loadgen.exchange import Exchange, Request
from loadgen.plan import Replica
from loadgen.run_record import shard_record
from tests.loadgen.against_log import (
    Pairs,
    differences,
    first_token,
    gaps_ms,
    last_token,
    own_stamp,
    token_ms,
)
from tests.loadgen.conftest import HANG_S, Result, Truth, make_plan, run, truth

__all__ = ["run", "truth"]

Start = Callable[..., Truth]
Run = Callable[..., Result]


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[max(0, ceil(q * len(values)) - 1)]


def constant_times(truth: Start, run: Run, requests: int) -> Pairs:
    """Rows of eight users and the server's lines: TTFT 100 ms, 64 tokens 10 ms apart."""
    server = truth("--ttft", "100", "--gap", "10")
    workload = workloads.custom(
        concurrency=8, isl=32, osl=64, duration_s=550.0, warmup_s=0.1, tail_s=30.0, requests=requests
    )
    result = run(make_plan(server.url, workload, deadline_s=600.0))
    assert result.code == 0, result.error
    log = server.log()
    return [(row, log[row["request_id"]]) for row in result.measured()]


TIMES = {"ttft_ms": (first_token, 0), "e2e_ms": (last_token, 63), "tpot_ms": (token_ms, 0)}


@pytest.mark.parametrize("requests", [48, pytest.param(2_000, marks=pytest.mark.long)])
def test_at1_constant_times_come_out_as_they_went_in(truth: Start, run: Run, requests: int) -> None:
    pairs = constant_times(truth, run, requests)
    assert len(pairs) == requests
    assert {(row["status"], len(row["chunk_tokens"]), sum(row["chunk_tokens"])) for row, _ in pairs} == {
        ("ok", 64, 64)
    }
    for name, (true, chunk) in TIMES.items():
        errors = [abs(error) for error in differences(pairs, name, true, chunk)]
        assert quantile(errors, 0.5) <= 1.0, name
        assert quantile(errors, 0.9) <= 3.0, name  # p99 needs 1,000 and a machine of its own: the benchmark's
    ours, true_gaps = gaps_ms(pairs)
    assert quantile([abs(a - b) for a, b in zip(ours, true_gaps, strict=True)], 0.5) <= 1.0
    for row, entry in pairs:
        if own_stamp(row):
            assert row["ttft_ms"] >= 100.0 - 0.3, "nothing is earlier than it was asked for"
            assert first_token(entry) >= 100.0 - 0.01


def stalled(truth: Start, run: Run, window_s: float, freeze_s: float) -> Pairs:
    """Rows of 50 arrivals a second on a server that answers in 10 ms and is silent for a while, and its lines."""
    server = truth("--ttft", "10", "--gap", "0", "--freeze", f"{window_s / 2:g}:{freeze_s:g}")
    workload = workloads.custom(
        rate=50.0, isl=32, osl=1, duration_s=window_s, warmup_s=0.2, tail_s=30.0, arrival="constant"
    )
    result = run(make_plan(server.url, workload, deadline_s=180.0))
    assert result.code == 0, result.error
    log = server.log()
    rows = result.measured()
    assert len(rows) == pytest.approx(50 * window_s, abs=1)
    return [(row, log[row["request_id"]]) for row in rows]


def alone(truth: Start, run: Run, freeze_s: float) -> list[float]:
    """E2E from send of one user of the same server, which falls silent two seconds after its first request."""
    server = truth("--ttft", "10", "--gap", "0", "--freeze", f"2:{freeze_s:g}")
    workload = workloads.custom(
        concurrency=1, isl=32, osl=1, duration_s=freeze_s + 3.0, warmup_s=0.2, tail_s=30.0
    )
    result = run(make_plan(server.url, workload))
    return [row["e2e_from_send_ms"] for row in result.rows if row["e2e_from_send_ms"] is not None]


@pytest.mark.parametrize(
    ("window_s", "freeze_s"), [(6.0, 0.5), pytest.param(60.0, 5.0, marks=pytest.mark.long)]
)
def test_at2_a_stall_shows_in_full(truth: Start, run: Run, window_s: float, freeze_s: float) -> None:
    """One request in twelve is due during the freeze and waits for its end, from the time it was due."""
    pairs = stalled(truth, run, window_s, freeze_s)
    true = [first_token(entry) + row["send_lag_ms"] for row, entry in pairs]
    for q in (0.5, 0.95, 0.99):
        assert quantile([row["e2e_ms"] for row, _ in pairs], q) == pytest.approx(
            quantile(true, q), rel=0.05, abs=2
        )
    sends = sorted(entry["sends_ns"][0] for _, entry in pairs)
    begun, ended = max(pairwise(sends), key=lambda two: two[1] - two[0])
    assert ended - begun >= 0.9e9 * freeze_s, "the freeze, by the server's log"
    due_ns = {row["seq"]: entry["kernel_received_ns"] - row["send_lag_ms"] * 1e6 for row, entry in pairs}
    met = [row for row, _ in pairs if begun < due_ns[row["seq"]] < ended]
    assert len(met) == pytest.approx(50 * (ended - begun) / 1e9, abs=3), (
        "a twelfth of all, whenever they were sent"
    )
    for row in met:
        assert row["e2e_ms"] >= (ended - due_ns[row["seq"]]) / 1e6 - 1
    for _ in range(5):  # while the client was getting ready, the freeze may have passed unseen
        from_send = alone(truth, run, freeze_s)
        waited = [took for took in from_send if took > 800 * freeze_s]
        if waited:
            break
    assert 1 <= len(waited) <= 1 + len(from_send) / 50, "a closed loop meets the freeze with one request"
    assert len(met) > len(pairs) / 20, "where the open one meets it with a twelfth"


class SteppedClock(KernelClock):
    """A kernel clock on a machine whose wall clock someone sets: readings and packet stamps move together."""

    __slots__ = ("step_ns",)

    def __init__(self) -> None:
        self.step_ns = 0
        super().__init__(lambda: time.time_ns() + self.step_ns)

    def stamp(self, now_ns: int, ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
        ((level, kind, value),) = ancillary
        at = struct.pack("qq", *divmod(_ns(value) + self.step_ns, 1_000_000_000))
        return super().stamp(now_ns, [(level, kind, at)])


def _ns(timespec: bytes) -> int:
    seconds, nanos = struct.unpack("qq", timespec)
    return int(seconds * 1_000_000_000 + nanos)


BODY = (
    b'{"model":"truth","messages":[{"role":"user","content":"hi"}],"stream":true,"ignore_eos":true,'
    b'"max_tokens":%d,"stream_options":{"include_usage":true}}'
)


class Load:
    """A closed loop of *users* on a bare client."""

    def __init__(self, url: str, users: int, tokens: int, clock: KernelClock | None = None) -> None:
        self.replica = Replica("one", url)
        self.client = Client(
            (self.replica,),
            api="chat",
            headers={},
            request_timeout_s=HANG_S,
            idle_timeout_s=HANG_S,
            clock=clock,
        )
        self.users, self.tokens, self.sent = users, tokens, 0
        self.client.warm(users)
        for _ in range(20):
            self.client.poll(0.01)

    def run(self, total: int, each: Callable[[int], None] = lambda finished: None) -> list[Exchange]:
        client, found = self.client, []
        left = total

        def send() -> None:
            request = Request(self.sent, f"r-{self.sent}", BODY % self.tokens, b"hi", None, self.tokens)
            self.sent += 1
            client.submit(Exchange(request, self.replica, True))

        for _ in range(min(self.users, left)):
            left -= 1
            send()
        while len(found) < total:
            client.poll(1)
            assert client.clock is not None
            client.clock.sample()
            done, client.done = client.done, []
            for exchange in done:
                if left:
                    left -= 1
                    send()
                found.append(exchange)
                each(len(found))
        return found


def test_at20_a_wall_clock_that_is_set_changes_no_latency(truth: Start) -> None:
    server = truth("--ttft", "20", "--gap", "5")
    clock = SteppedClock()
    load = Load(server.url, 4, 40, clock)
    moments: list[int] = []

    def step(finished: int) -> None:
        if finished in (16, 32):
            clock.step_ns += 5_000_000_000 if finished == 16 else -5_000_000_000
            moments.append(time.perf_counter_ns())

    found = load.run(48, step)
    time.sleep(SAMPLE_NS / 1e9)
    clock.sample()
    log = server.log()
    errors: dict[bool, list[float]] = {True: [], False: []}
    fallen = 0
    for exchange in found:
        answer = decode(exchange)
        assert answer.status == "ok", answer.error_text
        entry = log[exchange.request.request_id]
        near = any(exchange.sent_ns - SAMPLE_NS <= at <= exchange.end_ns + SAMPLE_NS for at in moments)
        reads, sends = answer.chunk_reads, entry["sends_ns"]
        own = [k for k in (0, len(reads) - 1) if reads.count(reads[k]) == 1]
        for read, true in ((reads[k], sends[k]) for k in own):
            seen = exchange.stamps[read] - exchange.sent_ns
            errors[near].append(abs(seen - (true - entry["kernel_received_ns"])) / 1e6)
        fallen += sum(lag < 0 for lag in exchange.lags_ns)
        assert exchange.kernel_stamped or near
    assert quantile(errors[False], 0.5) <= 1.0
    assert quantile(errors[True], 0.5) <= 1.0
    assert max(errors[True]) < 1_000  # a clock moved by 5 s is nowhere to be seen
    counters = load.client.counters
    assert counters.clock_jumps == 2
    assert counters.clock_fallbacks == fallen > 0
    load.client.close()


def test_at20_the_drift_of_the_wall_clock_is_reported() -> None:
    workload = workloads.custom(concurrency=1, isl=32, osl=8, duration_s=60.0)
    anchors = ({"wall_ns": 10**18, "mono_ns": 0}, {"wall_ns": 10**18 + 125 * 10**9, "mono_ns": 120 * 10**9})
    nothing: dict[str, Any] = {"calibration": None, "capacity": None, "canary": None, "dataset": None}
    record = shard_record(
        make_plan("http://127.0.0.1:1", workload),
        reason=None,
        parts=[],
        steps=[],
        hashes=(None, None),
        anchors=anchors,
        client={},
        causes=[],
        warnings=[],
        scrapes=[],
        **nothing,
    )
    assert record["drift_ms_per_min"] == pytest.approx(2_500)  # 5 s in two minutes
    json.dumps(record)


def test_a_jump_voids_only_the_stamps_around_it_and_an_interrupted_sample_is_taken_again() -> None:
    now, wall = [0], [10**18]

    def monotonic() -> int:
        now[0] += 1_000
        return now[0]

    clock = KernelClock(lambda: wall[0] + now[0], monotonic)
    for _ in range(5):  # a slewing clock, 0.05 ms in 100 ms, is followed
        now[0] += SAMPLE_NS
        wall[0] += 50_000
        clock.sample()
    assert clock.jumps == []
    before = now[0]
    now[0] += SAMPLE_NS // 2
    wall[0] += 300_000
    now[0] += SAMPLE_NS // 2
    clock.sample()
    ((begin, end),) = clock.jumps
    assert begin <= before <= end - 2 * SAMPLE_NS
    exchange = Exchange(
        Request(0, "r", b"", b"", None, None), Replica("a", "http://a"), True, sent_ns=1, end_ns=end
    )
    exchange.stamps.extend([begin - 2_000_000, begin + 1_000_000])
    exchange.lags_ns.extend([1_000_000, 1_000_000])
    clock.repair(exchange)
    assert list(exchange.lags_ns) == [1_000_000, -1]
    assert list(exchange.stamps) == [begin - 2_000_000, begin + 2_000_000]
    assert clock.fallbacks == 1
