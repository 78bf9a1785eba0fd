"""Several trials: pooled quantiles, rates, regression verdicts, ranking, looks, and counts for few misses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from accelbench_assets.bench import regression
from accelbench_assets.bench.looks import LOOK_ALPHAS, after_look, looks
from accelbench_assets.bench.pooling import disagree, pooled
from accelbench_assets.bench.quantiles import describe
from accelbench_assets.bench.ranking import benjamini_hochberg, best_set
from accelbench_assets.bench.rates import across_trials, batch_means, lag1_correlation
from accelbench_assets.bench.regression import compare, permutation_p, sign_flip_p, smallest_p, trials_needed
from accelbench_assets.bench.slo import enough_for_misses, requests_for_misses

# ------------------------------------------------------------------------------------------ pooling


def test_one_trial_pools_to_itself() -> None:
    values = np.random.default_rng(1).exponential(size=3000)
    assert pooled([values]) == describe(values)
    assert pooled([]) is None
    assert pooled([np.array([]), values]) == describe(values)


def test_pooled_quantiles_are_those_of_all_samples() -> None:
    rng = np.random.default_rng(2)
    trials = [rng.exponential(size=2000) for _ in range(5)]
    found = pooled(trials)
    assert found is not None
    assert found.n == 10_000
    p95 = found.quantiles["p95"]
    assert p95.value == np.sort(np.concatenate(trials))[9499]
    assert (p95.gate, p95.between_trials) == ("published", False)
    assert p95.ci_low is not None
    assert p95.ci_high is not None
    assert p95.ci_low < -math.log(0.05) < p95.ci_high


def test_trials_that_disagree_widen_the_interval_and_are_marked() -> None:
    rng = np.random.default_rng(3)
    trials = [level * rng.lognormal(0.0, 0.2, size=2000) for level in (1.0, 1.3, 0.8, 1.1, 1.25)]
    found = pooled(trials)
    assert found is not None
    p50 = found.quantiles["p50"]
    assert p50.between_trials
    logs = np.log([np.sort(t)[999] for t in trials])
    low, high = stats.t.interval(0.95, 4, loc=logs.mean(), scale=logs.std(ddof=1) / math.sqrt(5))
    assert (p50.ci_low, p50.ci_high) == pytest.approx((math.exp(low), math.exp(high)))
    plain = pooled(trials, intervals=False)
    assert plain is not None
    assert plain.quantiles["p50"].ci_low is None


def test_a_trial_that_ends_in_failures_opens_the_upper_bound() -> None:
    rng = np.random.default_rng(4)
    trials = [rng.exponential(size=1000) for _ in range(5)]
    trials[0][rng.permutation(1000)[:150]] = np.inf
    found = pooled(trials)
    assert found is not None
    p90 = found.quantiles["p90"]
    assert p90.value is not None
    assert (p90.between_trials, p90.ci_high) == (True, None)


def test_cochran_finds_differences_at_its_level() -> None:
    rng = np.random.default_rng(5)
    errors = np.full(5, 0.1)
    alarms = sum(disagree(rng.normal(0, 0.1, 5), errors) for _ in range(2000))
    assert alarms / 2000 == pytest.approx(0.05, abs=0.015)
    assert disagree(np.array([0.0, 1.0]), np.array([0.1, 0.1]))
    assert not disagree(np.zeros(3), np.zeros(3))
    assert disagree(np.array([0.0, 0.1]), np.zeros(2))


# ------------------------------------------------------------------------------------------ rates


def test_batch_means_of_noise_are_students() -> None:
    values = np.random.default_rng(6).normal(100, 5, 20)
    assert lag1_correlation(values) < 0.3
    found = batch_means(values)
    low, high = stats.t.interval(0.95, 19, loc=values.mean(), scale=values.std(ddof=1) / math.sqrt(20))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.batches == 20


def test_correlated_batches_are_merged_and_widen() -> None:
    rng = np.random.default_rng(7)
    walk = 100 + np.repeat(rng.normal(0, 5, 5), 4)
    found = batch_means(walk)
    assert found.batches < 20
    assert found.low is not None
    assert found.high is not None
    naive = stats.t.interval(0.95, 19, loc=walk.mean(), scale=walk.std(ddof=1) / math.sqrt(20))
    assert found.high - found.low > naive[1] - naive[0]
    assert found.mean == pytest.approx(walk.mean())
    assert batch_means([3.0]).low is None
    constant = batch_means([7.0] * 20)
    assert (constant.low, constant.high) == (7.0, 7.0)


def test_rates_across_trials_take_the_wider_interval() -> None:
    rng = np.random.default_rng(8)
    apart = [rng.normal(level, 0.5, 20) for level in (90, 100, 110, 95, 105)]
    found = across_trials(apart)
    logs = np.log([t.mean() for t in apart])
    low, high = stats.t.interval(0.95, 4, loc=logs.mean(), scale=logs.std(ddof=1) / math.sqrt(5))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    noisy = [trial - trial.mean() + 100 for trial in (rng.normal(100, 30, 20) for _ in range(3))]
    wide = across_trials(noisy)
    assert wide.low is not None
    assert wide.high is not None
    assert wide.high - wide.low > 5
    assert across_trials(apart[:1]) == batch_means(apart[0])
    nothing = across_trials([np.zeros(20), np.zeros(20)])
    assert (nothing.mean, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="no trial"):
        across_trials([])


# ------------------------------------------------------------------------------------------ regression


@pytest.mark.parametrize(("trials", "p"), [(3, 0.10), (4, 2 / 70), (5, 2 / 252), (6, 2 / 924)])
def test_the_smallest_permutation_p(trials: int, p: float) -> None:
    a, b = np.arange(trials) * 0.001, 1 + np.arange(trials) * 0.001
    assert permutation_p(a, b) == pytest.approx(p)
    assert smallest_p(trials, trials, paired=False) == pytest.approx(p)


@pytest.mark.parametrize(("pairs", "p"), [(5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_the_smallest_sign_flip_p(pairs: int, p: float) -> None:
    assert sign_flip_p(0.1 + np.arange(pairs) * 0.01) == pytest.approx(p)
    assert smallest_p(pairs, pairs, paired=True) == pytest.approx(p)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(-5000, 5000), min_size=2, max_size=5),
    st.lists(st.integers(-5000, 5000), min_size=2, max_size=5),
)
def test_permutation_p_agrees_with_scipy(a: list[int], b: list[int]) -> None:
    def difference(x: Any, y: Any) -> float:
        return float(np.mean(x) - np.mean(y))

    x, y = np.array(a) / 1000, np.array(b) / 1000
    expected = stats.permutation_test((x, y), difference, n_resamples=np.inf, alternative="two-sided")
    share = np.mean(np.abs(expected.null_distribution) >= abs(difference(x, y)) - 1e-9)
    assert permutation_p(x, y) == pytest.approx(share)


def test_many_trials_are_sampled_and_repeat() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=15), rng.normal(size=15)
    assert permutation_p(a, b) == permutation_p(a, b)
    assert permutation_p(a, b + 10) < 1e-3
    assert permutation_p(a, b) == pytest.approx(stats.ttest_ind(a, b).pvalue, abs=0.05)
    assert sign_flip_p(rng.normal(size=20) + 10) < 1e-3


@pytest.mark.parametrize(("cv", "trials"), [(0.01, 5), (0.02, 7), (0.03, 16)])
def test_trials_needed_for_three_percent(cv: float, trials: int) -> None:
    assert trials_needed(cv, 0.03) == trials


def test_five_trials_can_signal_on_all_primary_metrics() -> None:
    assert len(regression.PRIMARY) * smallest_p(5, 5, paired=False) < 0.05
    assert set(regression.PRIMARY) <= set(regression.METRICS)


def values(level: float, cv: float, seed: int, n: int = 6) -> list[float]:
    return [float(v) for v in level * np.exp(np.random.default_rng(seed).normal(0, cv, n))]


def verdict(a: list[float], b: list[float], metric: str = "tpot_p50", **how: Any) -> regression.Comparison:
    (found,) = compare({metric: a}, {metric: b}, **how)
    return found


def test_verdicts() -> None:
    base = values(10.0, 0.005, 1)
    slow = verdict(base, values(11.0, 0.005, 2))
    assert slow.verdict == "regression"
    assert slow.ratio == pytest.approx(1.1, rel=0.01)
    assert slow.ci_low is not None
    assert slow.ci_high is not None
    assert slow.ci_low < 1.1 < slow.ci_high
    assert verdict(base, values(9.0, 0.005, 2)).verdict == "improvement"
    assert verdict(base, values(9.0, 0.005, 2), "output_tokens_per_s").verdict == "regression"
    assert verdict(base, values(10.02, 0.005, 3)).verdict == "no_change"
    assert (
        verdict(base, values(10.3, 0.002, 4)).verdict == "no_change"
    )  # there, and within the 5 % that matter
    assert verdict(values(10.0, 0.005, 1, 3), values(10.8, 0.005, 4, 3)).verdict == "suspicious"
    assert verdict(values(10.0, 0.05, 5), values(10.0, 0.05, 6)).verdict == "insufficient_data"
    few = verdict(values(10, 0.002, 7, 3), values(12, 0.002, 8, 3))
    assert few.verdict == "suspicious"
    assert few.p == pytest.approx(0.1)
    assert verdict([10.0], [12.0]).verdict == "insufficient_data"
    lost = verdict(base, [math.inf] * 6)
    assert (lost.verdict, lost.ratio) == ("insufficient_data", None)


def test_error_rates_are_compared_by_points() -> None:
    none = verdict([0.0] * 5, [0.0] * 5, "error_rate")
    assert (none.verdict, none.ratio, none.p) == ("no_change", 0.0, 1.0)
    worse = verdict([0.0, 0.001, 0.0, 0.002, 0.001], [0.02, 0.021, 0.019, 0.02, 0.022], "error_rate")
    assert worse.verdict == "regression"
    assert worse.ratio == pytest.approx(0.0196)


def test_pairs_take_out_what_both_share() -> None:
    drift = np.linspace(1.0, 1.5, 8)
    a = 10 * drift * np.exp(np.random.default_rng(1).normal(0, 0.002, 8))
    b = 1.08 * 10 * drift * np.exp(np.random.default_rng(2).normal(0, 0.002, 8))
    assert verdict(a.tolist(), b.tolist(), paired=True).verdict == "regression"
    assert verdict(a.tolist(), b.tolist()).verdict != "regression"
    with pytest.raises(ValueError, match="as many"):
        verdict([1.0, 2.0], [1.0, 2.0, 3.0], paired=True)


def test_p_values_are_adjusted_over_the_metrics_compared() -> None:
    names = regression.PRIMARY[:5]
    a = {name: values(10.0, 0.01, i) for i, name in enumerate(names)}
    b = {name: values(12.0, 0.01, 50 + i) for i, name in enumerate(names)}
    found = compare(a, b)
    assert [c.metric for c in found] == list(names)
    assert all(c.p_adjusted == pytest.approx(5 * c.p) for c in found)


# ------------------------------------------------------------------------------- ranking, looks, few misses


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 1), max_size=20))
def test_benjamini_hochberg_agrees_with_scipy(p_values: list[float]) -> None:
    expected = stats.false_discovery_control(p_values) if p_values else []
    assert benjamini_hochberg(p_values) == pytest.approx(list(expected))


def test_the_best_is_a_set() -> None:
    intervals = {"a": (9.0, 11.0), "b": (10.5, 12.5), "c": (7.0, 8.0), "d": None, "e": (12.5, 12.6)}
    assert best_set(intervals) == ["e", "b"]
    assert best_set(intervals, lower_is_better=True) == ["c"]
    assert best_set({"x": None}) == []


def test_looks_share_one_error_level() -> None:
    assert sum(LOOK_ALPHAS) == pytest.approx(0.05)
    assert [(look.window_s, look.confidence) for look in looks(300.0)] == [
        (300.0, 0.975),
        (600.0, 0.9875),
        (1200.0, 0.9875),
    ]
    assert [after_look(i, "undecided") for i in range(3)] == ["extend", "extend", "stop"]
    assert after_look(0, "pass") == after_look(1, "fail") == "stop"


@pytest.mark.parametrize(
    ("target", "confidence", "counts"),
    [
        (0.90, 0.99, (44, 64, 81, 127, 197, 325, 681)),
        (0.95, 0.99, (90, 130, 165, 259, 398, 656, 1372)),
        (0.99, 0.99, (459, 662, 838, 1307, 2010, 3304, 6898)),
        (0.999, 0.99, (4603, 6636, 8403, 13105, 20140, 33097, 69058)),
        (0.95, 0.95, (59, 93, 124, 208, 336)),
        (0.99, 0.95, (299, 473, 628, 1049, 1693)),
    ],
)
def test_requests_for_few_misses_are_the_methodologys(target: float, confidence: float, counts: Any) -> None:
    for misses, expected in zip((0, 1, 2, 5, 10, 20, 50), counts, strict=False):
        assert requests_for_misses(target, misses, confidence) == expected


def test_few_misses_need_their_count_times_tau() -> None:
    assert enough_for_misses(0.99, 0, 459, 1.0)
    assert not enough_for_misses(0.99, 0, 458, 1.0)
    assert not enough_for_misses(0.99, 0, 459, 2.0)
    assert enough_for_misses(0.99, 0, 918, 2.0)
    assert enough_for_misses(0.99, 500, 100, 1.0)  # many misses: the Wilson interval speaks
