"""The tests of ``loadgen.steady`` against scipy and by hand, and the series that ``bench.steadiness`` judges."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from accelbench_assets.bench.frame import Frame, StepWindow
from accelbench_assets.bench.metrics import step_row
from accelbench_assets.bench.steadiness import (
    backlog,
    backlog_by_edge,
    in_flight_by_batch,
    series,
    steadiness,
)
from loadgen.steady import LIMITS, half_ratio, holm, judge, kendall, mser5
from tests.unit.bench_samples import SECOND, T0, row, table


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=45, unique=True))
def test_kendall_without_ties_is_exact(values: list[float]) -> None:
    tau, p = kendall(values)
    expected = stats.kendalltau(range(len(values)), values, method="exact")
    assert tau == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=20, max_size=60))
def test_kendall_with_ties_is_near_the_normal_one(values: list[int]) -> None:
    tau, p = kendall(values)
    if len(set(values)) == 1:
        assert (tau, p) == (0.0, 1.0)
        return
    expected = stats.kendalltau(range(len(values)), values, method="asymptotic")
    assert tau == pytest.approx(expected.statistic)
    # ours has the continuity correction, so it is a little larger
    assert expected.pvalue - 1e-9 <= p <= expected.pvalue + 0.2


def test_holm_by_hand_and_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_half_ratio_is_welch_on_the_log_scale() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(100, 2, 10), rng.normal(110, 5, 10)])
    low, high = half_ratio(values.tolist())
    first, second = values[:10], values[10:]
    welch = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert low == pytest.approx(math.log1p(welch.low / first.mean()), abs=0.01)
    assert high == pytest.approx(math.log1p(welch.high / first.mean()), abs=0.01)
    assert half_ratio([5.0] * 20) == (0.0, 0.0)
    assert half_ratio([0.0] * 20) == (0.0, 0.0)
    assert half_ratio([0.0] * 10 + [1.0] * 10) == (-math.inf, math.inf)
    assert half_ratio([1.0, 2.0, 3.0]) == (-math.inf, math.inf)
    assert half_ratio([1.0] * 10 + [2.0] * 10) == pytest.approx((math.log(2), math.log(2)))


def noise(seed: int, level: float = 10.0, spread: float = 0.1) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(level, spread) for _ in range(20)]


def test_the_verdict_names_what_is_wrong() -> None:
    steady = judge({name: noise(100 + i) for i, name in enumerate(LIMITS)})
    assert (steady.steady, steady.figures["verdict"]) == (True, "steady")
    rising = judge({"in_flight": [10 + 0.1 * i for i in range(20)], "token_rate": noise(1)})
    assert rising.figures["verdict"] == "trend"
    assert "in flight rises" in rising.reason
    wide = judge({"token_rate": [2.0, 18.0] * 10})
    assert wide.figures["verdict"] == "not_shown"
    assert "the limit is 10%" in wide.reason
    sparse = judge({"ttft": [math.nan] * 15 + [1.0] * 5})
    assert (sparse.steady, sparse.figures["ttft"]["n"]) == (False, 5)
    zigzag = [9.0, 12.0] * 5 + [12.0, 15.0] * 5
    assert not judge({"in_flight": zigzag}).steady
    with pytest.raises(ValueError, match="no series"):
        judge({})
    with pytest.raises(KeyError):
        judge({"unknown": noise(1)})


def test_a_trend_within_the_grain_is_none() -> None:
    assert judge({"in_flight": [8.0 + 1e-6 * i for i in range(20)]}).steady


def test_false_alarms_of_independent_noise() -> None:
    alarms = sum(
        not judge({name: noise(40 * run + i) for i, name in enumerate(LIMITS)}).steady for run in range(200)
    )
    assert alarms <= 14  # 7 %


def test_mser5_cuts_the_start() -> None:
    rng = random.Random(3)
    settled = [rng.gauss(1.0, 0.1) for _ in range(200)]
    assert mser5([*(5.0 - 0.1 * i for i in range(40)), *settled]) in range(30, 81)
    assert mser5([1.0] * 50) == 0
    assert mser5([1.0] * 9) == 0
    assert mser5([float(i) for i in range(100)]) >= 45  # never settles


def test_the_generator_may_use_it_without_numpy() -> None:
    code = (
        "import sys, loadgen.steady; sys.exit(any(m in sys.modules for m in ('numpy', 'pyarrow', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=180).returncode == 0


# ------------------------------------------------------------------------------------------ from samples


def frame(
    rows: list[dict[str, Any]], kind: str = "closed", load: float = 4.0, seconds: float = 20.0
) -> Frame:
    return Frame(table(rows), StepWindow(0, kind, load, "none", T0, T0 + round(seconds * SECOND), 0))


def back_to_back(
    users: int = 4, stay_s: float = 0.5, seconds: float = 24.0, **other: Any
) -> list[dict[str, Any]]:
    return [
        row(
            at_s=-1 + stay_s * (turn + user / users),
            seq=turn * users + user,
            chunks_ms=(10.0, stay_s * 1000),
            phase="measure" if 0 <= -1 + stay_s * (turn + user / users) < 20 else "warmup",
            **other,
        )
        for turn in range(int(seconds / stay_s))
        for user in range(users)
    ]


def test_in_flight_is_a_time_average_by_batch() -> None:
    found = in_flight_by_batch(frame(back_to_back()))
    assert found == pytest.approx([4.0] * 20)
    alone = in_flight_by_batch(frame([row(at_s=0.5, chunks_ms=(2000.0,))]))
    assert alone[:4] == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_a_request_that_hung_counts_until_it_ended() -> None:
    hung = row(at_s=2.0, chunks_ms=(), status="timeout", error_class="timeout", ended_ms=10_000.0)
    assert in_flight_by_batch(frame([hung])).sum() == pytest.approx(10.0)
    assert step_row(frame([hung]))["concurrency_mean"] == pytest.approx(0.5)


def test_a_steady_closed_loop_passes_and_a_half_empty_one_does_not() -> None:
    found = steadiness(frame(back_to_back()))
    assert found.steady, found.reason
    assert found.figures["load_share"] == pytest.approx(1.0)
    starved = steadiness(frame(back_to_back(users=3)))
    assert (starved.steady, starved.figures["verdict"]) == (False, "disturbed")
    assert "75.0%" in starved.reason
    assert steadiness(frame(back_to_back(users=3)), thinks=True).steady


def test_outside_disturbances_speak_first() -> None:
    good = frame(back_to_back())
    assert "restarted" in steadiness(good, restarted=True).reason
    assert "preempted 9" in steadiness(good, preemptions=9).reason
    assert steadiness(good, preemptions=1).steady
    assert "throttled" in steadiness(good, throttled_s=2.0).reason


def test_an_error_burst_is_one_batch_with_many_failures() -> None:
    rows = back_to_back()
    for made in rows:
        if 10.0 <= (made["scheduled_at"] - T0) / SECOND < 10.9:
            made |= {"status": "error", "error_class": "5xx"}
    found = steadiness(frame(rows))
    assert not found.steady
    assert found.figures["error_share_max"] == pytest.approx(1.0)
    lone = back_to_back()
    lone[60] |= {"status": "error", "error_class": "5xx"}
    assert steadiness(frame(lone)).steady


def test_backlog_counts_what_was_due_and_had_not_ended() -> None:
    rows = [row(at_s=float(i), seq=i, chunks_ms=(5000.0,)) for i in range(20)]
    rows.append(row(at_s=3.0, seq=20, chunks_ms=(), status="error", sent_at=None, error_class="client"))
    found = frame(rows, "open", 1.0)
    assert backlog_by_edge(found).tolist()[:7] == [0, 1, 2, 3, 4, 5, 5]
    assert set(series(found)) == {"in_flight", "token_rate", "ttft", "backlog"}
    grown = backlog(found)
    assert grown is not None
    assert (grown.growth, grown.unstable) == (5, False)
    assert backlog(frame(rows)) is None
    never = frame([row(at_s=0.1 * i, seq=i, chunks_ms=(90_000.0,)) for i in range(200)], "open", 10.0)
    hopeless = backlog(never)
    assert hopeless is not None
    assert hopeless.unstable
    assert hopeless.growth_per_s == pytest.approx(10.0, rel=0.05)
    assert step_row(never)["saturation_label"] == "unstable"
