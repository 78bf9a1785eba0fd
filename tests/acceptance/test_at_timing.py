"""AT-1, 2, 20, 28: durations against the server's own log, a frozen server, a wall clock that is set, and what
the client costs beside a bare socket loop.

The server's log says what it really did, so a machine that makes the server late does not make the client
wrong. The long variants are the methodology's own sizes.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import struct
import subprocess
import sys
import time
from array import array
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
from tests.loadgen.conftest import Result, Truth, make_plan, run, truth

__all__ = ["run", "truth"]

Start = Callable[..., Truth]
Run = Callable[..., Result]


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[max(0, ceil(q * len(values)) - 1)]


@pytest.mark.parametrize("requests", [96, pytest.param(2_000, marks=pytest.mark.long)])
def test_at1_constant_times_come_out_as_they_went_in(truth: Start, run: Run, requests: int) -> None:
    server = truth("--ttft", "100", "--gap", "10")
    duration = requests / 8 * 0.73 * 2 + 10
    workload = workloads.custom(
        concurrency=8, isl=32, osl=64, duration_s=duration, warmup_s=0.3, requests=requests
    )
    result = run(make_plan(server.url, workload, null_server=False, deadline_s=600.0))
    assert result.code == 0, result.error
    rows, log = result.measured(), server.log()
    assert len(rows) >= requests
    wrong: dict[str, list[float]] = {"ttft_ms": [], "e2e_ms": [], "tpot_ms": []}
    late: dict[str, list[float]] = {
        name: [] for name in wrong
    }  # the server itself against what was asked of it
    gaps: list[float] = []
    for row in rows:
        assert (row["status"], row["chunk_tokens"]) == ("ok", [1] * 64)
        entry = log[row["request_id"]]
        sends = [(at - entry["kernel_received_ns"]) / 1e6 for at in entry["sends_ns"]]
        true = {"ttft_ms": sends[0], "e2e_ms": sends[-1], "tpot_ms": (sends[-1] - sends[0]) / 63}
        for name, nominal in (("ttft_ms", 100.0), ("e2e_ms", 730.0), ("tpot_ms", 10.0)):
            wrong[name].append(abs(row[name] - true[name]))
            late[name].append(true[name] - nominal)
        offsets = row["chunk_offset_us"]
        gaps += [(b - a) / 1000 for a, b in pairwise(offsets)]
    for name, errors in wrong.items():
        assert quantile(errors, 0.5) <= 1.0, name
        assert quantile(errors, 0.99 if requests >= 1_000 else 0.95) <= 3.0, (
            name
        )  # p99 of 96 is the worst but none
    assert quantile(gaps, 0.5) == pytest.approx(10.0, abs=1.0)
    assert 1000 / quantile([row["tpot_ms"] for row in rows], 0.5) == pytest.approx(100.0, rel=0.02)
    for name, nominal in (("ttft_ms", 100.0), ("e2e_ms", 730.0)):
        seen = quantile([row[name] for row in rows], 0.5) - quantile(late[name], 0.5)
        assert seen == pytest.approx(nominal, abs=1.0)


@pytest.mark.parametrize(
    ("window_s", "freeze_s"), [(12.0, 1.0), pytest.param(60.0, 5.0, marks=pytest.mark.long)]
)
def test_at2_a_stall_shows_in_full(truth: Start, run: Run, window_s: float, freeze_s: float) -> None:
    """One request in twelve is due during the freeze and waits for its end, uniformly up to its length."""
    server = truth("--ttft", "10", "--gap", "0", "--freeze", f"{window_s / 3:g}:{freeze_s:g}")
    workload = workloads.custom(
        rate=50.0, isl=32, osl=1, duration_s=window_s, warmup_s=0.2, arrival="constant"
    )
    result = run(make_plan(server.url, workload, null_server=False, deadline_s=180.0))
    assert result.code == 0, result.error
    e2e = [row["e2e_ms"] for row in result.measured()]
    assert len(e2e) == pytest.approx(50 * window_s, abs=1)
    delayed = 50 * freeze_s / len(e2e)
    for q in (0.95, 0.99):
        expected = 10 + 1000 * freeze_s * (delayed - (1 - q)) / delayed  # 2.01 s and 4.41 s for 5 s
        assert quantile(e2e, q) == pytest.approx(expected, rel=0.05)
    assert quantile(e2e, 0.5) == pytest.approx(10, abs=3)
    closed = truth("--ttft", "10", "--gap", "0", "--freeze", f"2:{freeze_s:g}")
    alone = workloads.custom(concurrency=1, isl=32, osl=1, duration_s=freeze_s + 4.0, warmup_s=0.2)
    result = run(make_plan(closed.url, alone, null_server=False, deadline_s=60.0))
    from_send = [row["e2e_from_send_ms"] for row in result.measured()]
    assert max(from_send) > 900 * freeze_s  # one request met the freeze,
    assert quantile(from_send, 0.99) < 100 * freeze_s  # and a closed loop's p99 does not know


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
            (self.replica,), api="chat", headers={}, request_timeout_s=60, idle_timeout_s=60, clock=clock
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
        for read, true in (
            (answer.chunk_reads[0], entry["sends_ns"][0]),
            (answer.chunk_reads[-1], entry["sends_ns"][-1]),
        ):
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


def bare_loop(url: str, users: int, total: int, tokens: int) -> tuple[int, float]:
    """Reads and CPU seconds of the least that can be called a client: ``recv``, a stamp, the end of an answer."""
    host, _, port = url.partition("://")[2].rpartition(":")
    body = BODY % tokens
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    epoll, socks = select.epoll(), {}
    for _ in range(users):
        sock = socket.create_connection((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        epoll.register(sock.fileno(), select.EPOLLIN)
        socks[sock.fileno()] = (sock, array("q"), [])
    reads, ended, left = 0, 0, total - users
    began = time.process_time()
    for sock, _, _ in socks.values():
        sock.send(request)
    while ended < total:
        for descriptor, _ in epoll.poll(1):
            sock, stamps, kept = socks[descriptor]
            data = sock.recv(65_536)
            stamps.append(time.perf_counter_ns())
            kept.append(data)
            reads += 1
            if data.endswith(b"0\r\n\r\n"):
                ended += 1
                kept.clear()
                if left:
                    left -= 1
                    sock.send(request)
    took = time.process_time() - began
    for sock, _, _ in socks.values():
        sock.close()
    epoll.close()
    return reads, took


def test_at28_a_token_costs_little_more_than_a_bare_socket_read(truth: Start) -> None:
    """CPU of one read, ours against a bare loop's in turn: a share of the same machine's speed, so that its other
    work mostly cancels out. Measured 1.1 on a quiet machine and 1.2 to 1.5 on a busy one."""
    users, total, tokens = 64, 128, 64
    server = truth("--ttft", "20", "--gap", "10")
    load = Load(server.url, users, tokens)
    ratios, figures = [], []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            reads, took = bare_loop(server.url, users, total, tokens)
            before, began = load.client.counters.reads, time.process_time()
            wall = time.perf_counter()
            found = load.run(total)
            ours, wall = time.process_time() - began, time.perf_counter() - wall
            events = load.client.counters.reads - before
            ratios.append(ours / events / (took / reads))
            lags = [lag / 1e6 for exchange in found for lag in exchange.lags_ns]
            lag = quantile(lags, 0.99)
            figures.append(
                f"{events / wall:.0f} reads/s, {total / wall:.0f} sends/s, own latency p99 {lag:.2f} ms"
            )
    finally:
        gc.enable()
    print(f"\nCPU of a read over a bare loop's: {[round(one, 2) for one in ratios]}; {figures}")
    assert sorted(ratios)[1] < 2, ratios
    load.client.close()


@pytest.mark.long
def test_tokens_keep_their_stamps_beside_four_busy_processes(truth: Start) -> None:
    """Kernel stamps do not wait for this process: within 0.05 ms p99 of the server's send."""
    server = truth("--ttft", "50", "--gap", "10")
    load = Load(server.url, 32, 64)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        found = load.run(320)
    finally:
        for other in others:
            other.kill()
            other.wait()
    log = server.log()
    late = []
    for exchange in found:
        answer = decode(exchange)
        sends = log[exchange.request.request_id]["sends_ns"]
        late += [
            (exchange.stamps[read] - at) / 1e6 for read, at in zip(answer.chunk_reads, sends, strict=True)
        ]
    print(f"\nstamp - send: p50 {quantile(late, 0.5):.4f} p99 {quantile(late, 0.99):.4f} ms")
    assert quantile(late, 0.99) <= 0.05
    load.client.close()
