"""Quantiles, effective sizes and gates against the methodology's figures and laws with known answers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.bench import quantiles as qs

LEVELS = st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.99, 0.999])


@pytest.mark.parametrize(
    ("n", "q", "rank"),
    [(1000, 0.99, 990), (100, 0.07, 7), (12, 0.95, 12), (1, 0.5, 1), (10**8, 0.999, 99_900_000)],
)
def test_rank_is_exact_for_decimal_levels(n: int, q: float, rank: int) -> None:
    assert qs.quantile_rank(n, q) == rank


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=60), LEVELS)
def test_quantile_is_the_smallest_observation_that_enough_samples_reach(
    values: list[float], q: float
) -> None:
    found = qs.Ecdf(np.array(values)).quantile(q)
    enough = [v for v in values if sum(w <= v for w in values) >= q * len(values) - 1e-9]
    assert found == min(enough)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5)), min_size=1, max_size=40), LEVELS)
def test_weights_are_repetitions(pairs: list[tuple[int, int]], q: float) -> None:
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    repeated = qs.Ecdf(np.repeat(values, weights))
    weighted = qs.Ecdf(values, weights)
    assert (weighted.n, weighted.quantile(q)) == (repeated.n, repeated.quantile(q))


def test_rank_intervals_of_the_methodology() -> None:
    assert qs.rank_interval(0.99, 1000, 1000.0) == (983, 997)
    assert qs.rank_interval(0.99, 10_000, 10_000.0) == (9880, 9920)


@pytest.mark.parametrize(("q", "floor"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)])
def test_floors_of_a_two_sided_interval(q: float, floor: int) -> None:
    assert qs.rank_interval(q, floor, floor) is not None
    assert qs.rank_interval(q, floor - 1, floor - 1) is None


@pytest.mark.parametrize(("q", "floor"), [(0.95, 104), (0.99, 528), (0.999, 5296)])
def test_floors_at_99_percent(q: float, floor: int) -> None:
    assert qs.rank_interval(q, floor, floor, 0.99) is not None
    assert qs.rank_interval(q, floor - 1, floor - 1, 0.99) is None


@settings(deadline=None)
@given(LEVELS, st.integers(1, 50_000), st.floats(1.0, 50.0))
def test_correlation_only_widens_the_interval(q: float, n: int, tau: float) -> None:
    independent, correlated = qs.rank_interval(q, n, n), qs.rank_interval(q, n, n / tau)
    if correlated is not None:
        assert independent is not None
        assert 1 <= correlated[0] <= independent[0] + 1
        assert independent[1] - 1 <= correlated[1] <= n


@pytest.mark.parametrize(
    ("q", "n_eff", "expected"),
    [
        (0.99, 2000, "published"),
        (0.99, 1999, "wide"),
        (0.99, 1000, "wide"),
        (0.99, 999, "needs_n"),
        (0.9, 200, "published"),
        (0.5, 19, "needs_n"),
    ],
)
def test_gates(q: float, n_eff: float, expected: str) -> None:
    assert qs.gate(q, n_eff) == expected


def test_needed_requests() -> None:
    assert qs.requests_needed(0.99, 1.0) == 2000
    assert qs.requests_needed(0.999, 1.0) == 20_000
    assert qs.requests_needed(0.99, 33.0) == 66_000
    assert qs.requests_needed(0.9, 1.0) == 200


def ar1(rng: np.random.Generator, phi: float, n: int) -> np.ndarray:
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], [1.0, -phi], rng.normal(size=n)))


def test_autocorrelation_time_of_an_autoregression() -> None:
    rng = np.random.default_rng(7)
    for phi in (0.0, 0.5, 0.8, 0.9):
        times = [qs.autocorrelation_time(ar1(rng, phi, 20_000)) for _ in range(10)]
        assert np.mean(times) == pytest.approx((1 + phi) / (1 - phi), rel=0.12)


def test_independent_samples_keep_their_number() -> None:
    rng = np.random.default_rng(8)
    found = [qs.describe(rng.exponential(size=5000)) for _ in range(20)]
    assert all(d is not None and 1.0 <= d.tau < 1.35 for d in found)
    assert qs.autocorrelation_time(np.ones(100)) == 1.0


def test_intervals_cover_under_correlation_where_plain_ones_do_not() -> None:
    """AR(1) with phi 0.9 has a normal law: 95 % intervals must hold its quantiles about that often."""
    rng = np.random.default_rng(9)
    truth = {"p50": 0.0, "p95": 1.6448536 / math.sqrt(1 - 0.81)}
    hits = dict.fromkeys(truth, 0)
    plain = 0
    runs = 120
    for _ in range(runs):
        values = ar1(rng, 0.9, 8000)[500:]
        found = qs.describe(values)
        assert found is not None
        for name, value in truth.items():
            low, high = found.quantiles[name].ci_low, found.quantiles[name].ci_high
            assert low is not None
            assert high is not None
            hits[name] += low <= value <= high
        ecdf = qs.Ecdf(values)
        ranks = qs.rank_interval(0.5, ecdf.n, ecdf.n)
        assert ranks is not None
        plain += ecdf.at_rank(ranks[0]) <= truth["p50"] <= ecdf.at_rank(ranks[1])
    assert hits["p50"] >= 0.90 * runs
    assert hits["p95"] >= 0.88 * runs
    assert plain < 0.6 * runs


def test_gaps_of_one_request_are_not_independent_evidence() -> None:
    """Each request has its own pace: 100 gaps a request tell no more about the pace than one."""
    rng = np.random.default_rng(10)
    requests, gaps = 400, 100
    pace = np.repeat(rng.exponential(size=requests), gaps)
    sizes = np.full(requests, gaps)
    same = qs.describe(pace, sizes=sizes)
    free = qs.describe(rng.exponential(size=requests * gaps), sizes=sizes)
    assert same is not None
    assert free is not None
    assert 0.7 * requests < same.n_eff < 1.2 * requests
    assert free.n_eff > 0.6 * requests * gaps


def test_few_requests_never_claim_more_than_their_number() -> None:
    rng = np.random.default_rng(11)
    for requests in (1, 2, 5, 19):
        found = qs.describe(rng.exponential(size=requests * 50), sizes=np.full(requests, 50))
        assert found is not None
        assert found.n_eff <= requests + 1e-9


def test_cluster_form_with_one_sample_a_request_is_the_plain_form() -> None:
    values = ar1(np.random.default_rng(12), 0.7, 3000)
    plain, clustered = qs.describe(values), qs.describe(values, sizes=np.ones(3000, dtype=int))
    assert plain is not None
    assert clustered is not None
    assert clustered.tau == pytest.approx(plain.tau, rel=1e-3)


def test_long_series_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    series = ar1(np.random.default_rng(13), 0.5, 40_000)
    whole = qs.autocorrelation_time(series)
    monkeypatch.setattr(qs, "_BLOCK", 1 << 13)
    assert qs.autocorrelation_time(series) == pytest.approx(whole, rel=0.1)


def test_failures_are_the_slowest() -> None:
    values = np.concatenate([np.arange(1.0, 941.0), np.full(60, np.inf)])
    np.random.default_rng(1).shuffle(values)
    found = qs.describe(values)
    assert found is not None
    p50, p95 = found.quantiles["p50"], found.quantiles["p95"]
    assert (p50.gate, p50.value) == ("published", 500.0)
    assert (p95.gate, p95.value, p95.ci_low) == ("beyond_timeout", None, None)


def test_an_upper_bound_among_failures_is_open() -> None:
    values = np.concatenate([np.arange(1.0, 956.0), np.full(45, np.inf)])
    np.random.default_rng(2).shuffle(values)
    found = qs.describe(values)
    assert found is not None
    p95 = found.quantiles["p95"]
    assert p95.value == 950.0
    assert p95.ci_low is not None
    assert p95.ci_high is None


def test_thin_evidence_prints_a_number_of_requests_and_no_quantile() -> None:
    found = qs.describe(np.random.default_rng(3).exponential(size=60))
    assert found is not None
    p99 = found.quantiles["p99"]
    assert (p99.gate, p99.value, p99.ci_low) == ("needs_n", None, None)
    assert p99.needs_n is not None
    assert p99.needs_n >= 2000
    assert found.quantiles["p50"].value is not None


def test_no_samples_and_no_interval() -> None:
    assert qs.describe(np.array([])) is None
    found = qs.describe(np.random.default_rng(4).permutation(np.arange(1000.0)), intervals=False)
    assert found is not None
    assert all(e.ci_low is None and e.ci_high is None for e in found.quantiles.values())
    assert found.quantiles["p50"].value == 499.0


def test_only_a_demos_median_is_let_through_and_only_from_twenty_requests() -> None:
    drifting = np.concatenate([np.full(26, 320.0), np.full(26, 540.0)]) + np.arange(52) / 100
    strict, demo = qs.describe(drifting), qs.describe(drifting, window_median=True)
    assert strict is not None
    assert demo is not None
    assert (strict.quantiles["p50"].gate, strict.quantiles["p50"].value) == ("needs_n", None)
    assert (demo.quantiles["p50"].gate, demo.quantiles["p50"].value) == ("wide", drifting[25])
    assert {demo.quantiles[name].gate for name in ("p90", "p95", "p99", "p999")} == {"needs_n"}
    few = qs.describe(drifting[16:35], window_median=True)
    assert few is not None
    assert few.quantiles["p50"].value is None
