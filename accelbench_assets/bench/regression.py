"""Is B slower than A? Rule S7: the trial is the unit, a verdict needs significance and size.

Belongs here: permutation and sign-flip tests on trial values, the ratio's interval, equivalence, the verdicts of the
table ``regressions``. Does not belong here: one run's metrics (``metrics``), ranking of many cells (``ranking``).

Requests of one run share its server, its machine and its hour; thousands of them are still one observation of the
configuration. Tests that pool requests cry wolf in 40 to 80 % of comparisons of a thing with itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.steady import holm

Array = NDArray[Any]
ALPHA = 0.05
POWER = 0.80
_EXACT = 20_000  # more arrangements than this are sampled
_SEED = 20_231_101


@dataclass(frozen=True, slots=True)
class Metric:
    """A primary metric: *delta* is the change that matters, relative, or absolute where *additive* (error rates)."""

    name: str
    delta: float
    lower_is_better: bool = True
    additive: bool = False


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("output_tokens_per_s", 0.03, lower_is_better=False),
        Metric("requests_per_s", 0.03, lower_is_better=False),
        *(Metric(f"{name}_p50", 0.05) for name in ("ttft", "tpot", "e2e")),
        *(Metric(f"{name}_{q}", 0.10) for name in ("ttft", "tpot", "e2e") for q in ("p95", "p99")),
        Metric("error_rate", 0.005, additive=True),
    )
}
PRIMARY = ("output_tokens_per_s", "ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95", "error_rate")
"""What is compared unless a profile declares otherwise. Six: five trials a side can give p = 0.0079, and Holm's factor
of six leaves it below 0.05; with more metrics five trials could never signal."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of cell B against cell A; the fields of the table ``regressions``.

    ``ratio`` is B / A (``additive`` metrics: the difference B - A) with its 95 % interval, null when a side has fewer
    than two trials or no positive value. ``verdict``: ``regression``, ``improvement``, ``no_change`` (shown, not
    assumed), ``suspicious`` (the interval excludes no change, or the change is beyond delta, but not both with
    significance) or ``insufficient_data``. ``trials_needed`` is a side's trials for a change of delta to be found.
    """

    metric: str
    trials_a: int
    trials_b: int
    ratio: float | None
    ci_low: float | None
    ci_high: float | None
    p: float
    p_adjusted: float
    verdict: str
    trials_needed: int | None


def permutation_p(a: Array, b: Array) -> float:
    """Two-sided exact permutation p of the difference of means; sampled (seeded) above 20,000 arrangements."""
    values = np.concatenate([a, b])
    centred = values - values.mean()
    limit = abs(centred[: a.size].sum()) - _slack(centred)
    if math.comb(values.size, a.size) <= _EXACT:
        chosen = np.array(list(combinations(range(values.size), a.size)))
        return float(np.mean(np.abs(centred[chosen].sum(axis=1)) >= limit))
    rng = np.random.default_rng(_SEED)
    sums = np.abs([rng.permutation(centred)[: a.size].sum() for _ in range(_EXACT)])
    return float((1 + np.sum(sums >= limit)) / (1 + _EXACT))


def sign_flip_p(differences: Array) -> float:
    """Two-sided sign-flip p of the mean of paired *differences*; sampled (seeded) above 14 pairs."""
    limit = abs(differences.sum()) - _slack(differences)
    if 2**differences.size <= _EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=differences.size)))
        return float(np.mean(np.abs(signs @ differences) >= limit))
    signs = np.random.default_rng(_SEED).choice((1.0, -1.0), size=(_EXACT, differences.size))
    return float((1 + np.sum(np.abs(signs @ differences) >= limit)) / (1 + _EXACT))


def _slack(values: Array) -> float:
    """Sums in another order may differ by rounding; equal arrangements must count as equal."""
    return 1e-9 * float(np.abs(values).sum())


def smallest_p(trials_a: int, trials_b: int, *, paired: bool) -> float:
    """The least p that so many trials can give: 2 / C(2R, R), blocked pairs 2 / 2^R."""
    return min(1.0, 2.0 / (2**trials_a if paired else math.comb(trials_a + trials_b, trials_a)))


def trials_needed(spread: float, delta: float) -> int:
    """Trials a side that find a shift of *delta* at 5 % with 80 % power: ``2 (z_a/2 + z_b)^2 (spread/delta)^2``.

    *spread* is the standard deviation of trial values, in delta's unit; at least 5, because fewer exact permutations
    barely reach significance.
    """
    from scipy.special import ndtri

    z = float(ndtri(1 - ALPHA / 2) + ndtri(POWER))
    return max(5, math.ceil(2.0 * (z * spread / delta) ** 2))


def compare(
    a: Mapping[str, Sequence[float]],
    b: Mapping[str, Sequence[float]],
    *,
    paired: bool = False,
    metrics: Sequence[str] = PRIMARY,
) -> list[Comparison]:
    """Every one of *metrics* (of ``METRICS``) that both sides have: trial values of A (before) and B (after).

    *paired*: the i-th trials of both sides ran in one block (M29). Non-finite values (a quantile that fell on a
    failure) leave a metric with too little data. p values are Holm-adjusted over the metrics compared. Raises
    ``ValueError`` when paired sides differ in their number of trials.
    """
    names = [name for name in metrics if name in a and name in b]
    sides = {name: tuple(np.asarray(side[name], dtype=np.float64) for side in (a, b)) for name in names}
    if paired and any(x.size != y.size for x, y in sides.values()):
        raise ValueError("paired trials need as many of A as of B")
    tests = [_Test(METRICS[name], *sides[name], paired=paired) for name in names]
    usable = [test for test in tests if test.usable]
    adjusted = dict(zip((id(test) for test in usable), holm([test.p for test in usable]), strict=True))
    return [test.comparison(adjusted.get(id(test), 1.0)) for test in tests]


class _Test:
    """One metric: values on the scale where effects add up (logs; errors as they are)."""

    def __init__(self, metric: Metric, a: Array, b: Array, *, paired: bool) -> None:
        self.metric, self.paired, self.sizes = metric, paired, (int(a.size), int(b.size))
        finite = bool(np.all(np.isfinite(a)) and np.all(np.isfinite(b)))
        positive = metric.additive or (finite and min(a.min(initial=1.0), b.min(initial=1.0)) > 0.0)
        self.usable = finite and positive and min(self.sizes) >= 2
        if not self.usable:
            return
        self.a, self.b = (a, b) if metric.additive else (np.log(a), np.log(b))
        self.p = sign_flip_p(self.b - self.a) if paired else permutation_p(self.a, self.b)
        self.margin = metric.delta if metric.additive else math.log1p(metric.delta)
        self.effect = float(self.b.mean() - self.a.mean())

    def interval(self, confidence: float) -> tuple[float, float]:
        """Welch's t interval of the effect (paired: Student's, of the differences)."""
        from scipy.special import stdtrit

        if self.paired:
            parts = [float((self.b - self.a).var(ddof=1)) / self.sizes[0]]
        else:
            parts = [float(side.var(ddof=1)) / side.size for side in (self.a, self.b)]
        variance = sum(parts)
        sizes = self.sizes[: len(parts)]
        below = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
        freedom = variance**2 / below if below > 0.0 else float(sum(sizes) - len(parts))
        half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(variance)
        return self.effect - half, self.effect + half

    def comparison(self, p_adjusted: float) -> Comparison:
        """The verdict, with its numbers."""
        name, (trials_a, trials_b) = self.metric.name, self.sizes
        if not self.usable:
            return Comparison(name, trials_a, trials_b, None, None, None, 1.0, 1.0, "insufficient_data", None)
        low, high = self.interval(0.95)
        spread = math.sqrt((float(self.a.var(ddof=1)) + float(self.b.var(ddof=1))) / 2.0)
        effect, least, most = (x if self.metric.additive else math.exp(x) for x in (self.effect, low, high))
        verdict, needed = self._verdict(p_adjusted, low, high), trials_needed(spread, self.margin)
        return Comparison(name, trials_a, trials_b, effect, least, most, self.p, p_adjusted, verdict, needed)

    def _verdict(self, p_adjusted: float, low: float, high: float) -> str:
        excludes, large = low > 0.0 or high < 0.0, abs(self.effect) > self.margin
        if p_adjusted < ALPHA and excludes and large:
            return "regression" if (self.effect > 0) == self.metric.lower_is_better else "improvement"
        inner = self.interval(0.90)  # two one-sided tests at 5 %
        if -self.margin < inner[0] and inner[1] < self.margin:
            return "no_change"
        if excludes or large:
            return "suspicious"
        return "insufficient_data"
