"""How near a run comes to the times that were asked for: server, client and machine together, on a machine that does
nothing else. That the client agrees with the server's log whatever the machine does is in ``tests/acceptance`` (AT-1,
2, 6, 23, 27); here the same runs are held against the nominal values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from tests.acceptance.test_at_load import SERVICE_MS, admission, cycle_ms, reduced, served, slots_run
from tests.acceptance.test_at_timing import TIMES, alone, constant_times, quantile, stalled
from tests.loadgen.against_log import median
from tests.loadgen.conftest import Result, Truth, run, truth

__all__ = ["run", "truth"]

Start = Callable[..., Truth]
Run = Callable[..., Result]
pytestmark = pytest.mark.long


@pytest.mark.parametrize("requests", [96, 2_000])
def test_at1_constant_times(truth: Start, run: Run, requests: int) -> None:
    pairs = constant_times(truth, run, requests)
    for name, (true, _) in TIMES.items():
        errors = [abs(row[name] - true(entry)) for row, entry in pairs]
        print(f"\n{name}: p50 {quantile(errors, 0.5):.3f} p99 {quantile(errors, 0.99):.3f} ms off the log")
        assert quantile(errors, 0.5) <= 1.0, name
        assert quantile(errors, 0.99 if requests >= 1_000 else 0.95) <= 3.0, name
    for name, nominal in (("ttft_ms", 100.0), ("e2e_ms", 730.0)):
        assert median([row[name] for row, _ in pairs]) == pytest.approx(nominal, abs=1.0)
    assert 1000 / median([row["tpot_ms"] for row, _ in pairs]) == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize(("window_s", "freeze_s"), [(12.0, 1.0), (60.0, 5.0)])
def test_at2_a_stall_in_quantiles(truth: Start, run: Run, window_s: float, freeze_s: float) -> None:
    e2e = [row["e2e_ms"] for row, _ in stalled(truth, run, window_s, freeze_s)]
    delayed = 50 * freeze_s / len(e2e)
    for q in (0.95, 0.99):
        expected = 10 + 1000 * freeze_s * (delayed - (1 - q)) / delayed  # 2.01 s and 4.41 s for 5 s
        assert quantile(e2e, q) == pytest.approx(expected, rel=0.05)
    assert quantile(e2e, 0.5) == pytest.approx(10, abs=3)
    from_send = alone(truth, run, freeze_s)
    assert max(from_send) > 900 * freeze_s  # one request met the freeze,
    assert quantile(from_send, 0.99) < 100 * freeze_s  # and a closed loop's p99 does not know


@pytest.mark.parametrize(("slots", "users"), [(4, 2), (4, 4), (4, 8)])
def test_at6_slots_in_a_closed_loop(truth: Start, run: Run, slots: int, users: int) -> None:
    """X = min(C, K)/S and R = S max(1, C/K)."""
    rows = [row for row, _ in slots_run(truth, run, slots, users)]
    residence_ms = SERVICE_MS * max(1.0, users / slots)
    assert median([row["e2e_ms"] for row in rows]) == pytest.approx(residence_ms, rel=0.01)
    ends = [row["sent_at"] + int(row["e2e_from_send_ms"] * 1e6) for row in rows]
    assert cycle_ms(ends, min(users, slots)) == pytest.approx(SERVICE_MS, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "tokens", "warmup_s", "window_s"), [(10.0, 100, 1.5, 3.0), (0.5, 2000, 21.0, 20.0)]
)
def test_at23_exactly_a_thousand_tokens_a_second(
    truth: Start, tmp_path: Path, rate: float, tokens: int, warmup_s: float, window_s: float
) -> None:
    """The long one has 20 s of ramp and of drain."""
    in_window, _, whole_run = served(truth, tmp_path, rate, tokens, warmup_s, window_s)
    assert in_window == pytest.approx(1000, rel=0.005)
    assert whole_run < 950


def test_at27_means_of_an_admission_limited_ladder(truth: Start, tmp_path: Path) -> None:
    server = truth("--slots", "4", "--ttft", "10", "--gap", "10")
    result = admission(server.url, tmp_path / "run", list(range(1, 10)), 10.0, 16, rounds=7)
    got = reduced(result, server.log())
    for users in range(1, 10):
        assert got.mean(users - 1, "itl") == pytest.approx(10.0, rel=0.1)
        waiting = max(0, users - 4) / 4 * 160.0
        assert got.mean(users - 1, "ttft") == pytest.approx(10.0 + waiting, abs=20)


def test_an_answers_first_events_and_lateness(truth: Start, run: Run) -> None:
    """Of the shapes of answers in AT-8 to 14: nobody is later than a few ms, and an open loop sends on time."""
    pairs = stalled(truth, run, 6.0, 0.5)
    lags = [row["send_lag_ms"] for row, _ in pairs]
    print(f"\nsend lag: mean {fmean(lags):.3f} p99 {quantile(lags, 0.99):.3f} ms")
    assert median(lags) < 2
    received = sorted((row["seq"], entry["kernel_received_ns"]) for row, entry in pairs)
    line = [(at - received[0][1]) / 1e6 - 20 * (seq - received[0][0]) for seq, at in received]
    assert median([abs(at - median(line)) for at in line]) < 3
