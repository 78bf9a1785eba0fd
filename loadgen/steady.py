"""Whether a series of batches is steady: trend, equivalence of its halves, truncation. Rule S5 (a) and (b).

Belongs here: Kendall's trend test, Holm's adjustment, the interval of the halves' ratio, MSER-5, and the verdict over
several series; in pure Python, because the generator ends its warm-up by it. Does not belong here: where the batches
come from (``steps`` while the load runs, ``accelbench_assets.bench.steadiness`` from samples), S5 (c) and (d).

Not rejecting a trend is no evidence of steadiness, so a series passes only when in addition the 95 % interval of the
ratio of its second half to its first lies inside a limit. Values closer to each other than a thousandth of the series'
mean are ties: the grain of a clock is no trend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALPHA = 0.05
LIMITS: dict[str, float | None] = {"in_flight": 1.10, "token_rate": 1.10, "ttft": 1.20, "backlog": None}
"""The named series and the largest ratio between the halves (S5 (b)); ``None``: only the trend is tested."""
MIN_BATCHES = 10
_RESOLUTION = 1e-3
_EXACT = 50  # up to here the null distribution is counted out
_Z = 1.959963984540054
_NAMES = {
    "in_flight": "number of requests in flight",
    "token_rate": "output-token rate",
    "ttft": "median TTFT",
    "backlog": "backlog",
}


@dataclass(frozen=True, slots=True)
class Steadiness:
    """A verdict with its numbers.

    ``reason`` is one sentence. ``figures`` holds ``verdict`` (``steady``, ``trend``, ``shift`` or ``not_shown``) and
    for every series ``n``, ``tau``, ``p``, ``p_holm``, ``ratio_low`` and ``ratio_high`` (null where undefined).
    """

    steady: bool
    reason: str
    figures: dict[str, Any]


def kendall(values: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b of *values* against their order, and its two-sided p value.

    Without ties and up to 50 values p is exact, from the numbers of permutations by inversions (Kendall, *A new
    measure of rank correlation*, 1938). Otherwise it is the normal approximation with the tie-corrected variance of S
    and a continuity correction of one (Kendall and Gibbons, *Rank Correlation Methods*, 1990, ch. 4). ``(0.0, 1.0)``
    for fewer than three values or when all are tied.
    """
    n = len(values)
    score = sum((b > a) - (b < a) for i, a in enumerate(values) for b in values[i + 1 :])
    pairs = n * (n - 1) // 2
    ties = _tie_sizes(values)
    untied = pairs - sum(t * (t - 1) // 2 for t in ties)
    if n < 3 or untied == 0:
        return 0.0, 1.0
    tau = score / math.sqrt(pairs * untied)
    if not ties and n <= _EXACT:
        return tau, _exact_p(n, abs(score))
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18.0
    z = max(0, abs(score) - 1) / math.sqrt(variance)
    return tau, math.erfc(z / math.sqrt(2.0))


def _tie_sizes(values: Sequence[float]) -> list[int]:
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [count for count in counts.values() if count > 1]


def _exact_p(n: int, score: int) -> float:
    """Share of the permutations of *n* whose score is at least as far from 0; score = pairs - 2 inversions."""
    ways = [1]
    for size in range(2, n + 1):
        # The new largest value adds 0 … size - 1 inversions.
        ways = [sum(ways[max(0, k - size + 1) : k + 1]) for k in range(len(ways) + size - 1)]
    most = (n * (n - 1) // 2 - score) // 2  # inversions of the mirrored tail, which is as probable
    return min(1.0, 2 * sum(ways[: most + 1]) / math.factorial(n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm, 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def half_ratio(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of log(mean of the second half / mean of the first): Welch's t on the batches, delta method.

    The middle value of an odd number is left out. ``(0, 0)`` when both halves are the same constant; ``(-inf, inf)``
    when a half has fewer than two values or no positive mean.
    """
    size = len(values) // 2
    if size < 2:
        return -math.inf, math.inf
    halves = values[:size], values[-size:]
    means = [math.fsum(half) / size for half in halves]
    if means == [0.0, 0.0]:
        return 0.0, 0.0
    if min(means) <= 0.0:
        return -math.inf, math.inf
    parts = [  # squared relative standard errors
        math.fsum((value - mean) ** 2 for value in half) / (size - 1) / size / mean**2
        for half, mean in zip(halves, means, strict=True)
    ]
    centre, variance = math.log(means[1] / means[0]), sum(parts)
    if variance <= 0.0:
        return centre, centre
    freedom = variance**2 * (size - 1) / sum(part**2 for part in parts)
    half_width = _t975(freedom) * math.sqrt(variance)
    return centre - half_width, centre + half_width


def _t975(freedom: float) -> float:
    """The 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5; within 0.002 from 4 degrees of freedom)."""
    x, v = _Z, max(1.0, freedom)
    g1 = (x**3 + x) / 4
    g2 = (5 * x**5 + 16 * x**3 + 3 * x) / 96
    g3 = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
    g4 = (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160
    return x + g1 / v + g2 / v**2 + g3 / v**3 + g4 / v**4


def judge(series: Mapping[str, Sequence[float]]) -> Steadiness:
    """S5 (a) and (b) over the named *series* (keys of ``LIMITS``), one value a batch, in order of time.

    NaN marks a batch without a value (no first token in it). A series of fewer than 10 values shows nothing. Raises
    ``KeyError`` for an unknown name and ``ValueError`` when there is no series.
    """
    if not series:
        raise ValueError("there is no series to judge")
    known = {name: _snapped([v for v in values if not math.isnan(v)]) for name, values in series.items()}
    trends = {name: kendall(values) for name, values in known.items()}
    adjusted = dict(zip(trends, holm([p for _, p in trends.values()]), strict=True))
    figures: dict[str, Any] = {}
    faults: list[tuple[str, str]] = []
    for name, values in known.items():
        limit, what = LIMITS[name], _NAMES[name]
        (tau, p), (low, high) = trends[name], half_ratio(values)
        figures[name] = {
            "n": len(values),
            "tau": tau,
            "p": p,
            "p_holm": adjusted[name],
            "ratio_low": math.exp(low) if math.isfinite(low) else None,
            "ratio_high": math.exp(high) if math.isfinite(high) else None,
        }
        if len(values) < MIN_BATCHES:
            faults.append(("not_shown", f"The {what} is known in {len(values)} batches only."))
            continue
        if adjusted[name] < ALPHA:
            way = "rises" if tau > 0 else "falls"
            faults.append(
                ("trend", f"The {what} {way} (Kendall tau {tau:+.2f}, adjusted p {adjusted[name]:.2g}).")
            )
        if limit is not None and not (-math.log(limit) < low and high < math.log(limit)):
            shifted = low >= math.log(limit) or high <= -math.log(limit)
            between = f"{_percent(low)} and {_percent(high)}"
            text = (
                f"From the first half to the second the {what} changed by between {between}; the limit is "
                f"{limit - 1:.0%}."
            )
            faults.append(("shift" if shifted else "not_shown", text))
    verdict, reason = min(
        faults,
        key=lambda fault: ("trend", "shift", "not_shown").index(fault[0]),
        default=("steady", "No series has a trend, and the halves of each agree."),
    )
    return Steadiness(not faults, reason, {"verdict": verdict, **figures})


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):+.0%}" if math.isfinite(log_ratio) else "any"


def _snapped(values: list[float]) -> list[float]:
    """*values* on a grid of a thousandth of their mean, so that what is practically equal is tied."""
    grain = _RESOLUTION * abs(math.fsum(values)) / len(values) if values else 0.0
    return [round(value / grain) * grain for value in values] if grain > 0.0 else values


def mser5(values: Sequence[float]) -> int:
    """How many leading *values* to leave out: the truncation that minimises the marginal standard error of the mean.

    Means of five, ``sum((x - mean)^2) / n^2`` over what remains, at most half left out (White, 1997). A result of
    half or nearly half of the series says that it has not settled. 0 for fewer than 10 values.
    """
    means = [math.fsum(values[i : i + 5]) / 5 for i in range(0, len(values) - 4, 5)]
    if len(means) < 2:
        return 0
    best, cut = math.inf, 0
    total = squares = 0.0
    count = 0
    for index in range(len(means) - 1, -1, -1):  # from the end, so that sums grow by one value
        offset = means[index] - means[-1]
        total, squares, count = total + offset, squares + offset * offset, count + 1
        if index <= len(means) // 2:
            error = max(0.0, squares - total * total / count) / count**2
            if error <= best * (1 + 1e-12):
                best, cut = error, index
    return 5 * cut
