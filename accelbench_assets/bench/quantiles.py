"""Quantiles that are observations, intervals that know about autocorrelation, gates that refuse thin
evidence.

Belongs here: rules S1 (inverse ECDF), S2.2-S2.4 (effective sample size, rank intervals) and S3 (publication
gates) of ``docs/methodology.md``, on plain numpy arrays. Does not belong here: what the values mean
(``metrics``), tables, files.

Pooled token gaps come as clusters: all gaps of one request. Requests, not gaps, are the unit that can be
independent, so the effective size comes from the variance of the ECDF by request totals: with ``a_i`` of
request *i*'s ``w_i`` samples at or below a level's value and ``p = sum(a)/sum(w)``, the residuals ``e_i = a_i
- p*w_i`` (in arrival order) give ``Var(p) = tau(e) * sum(e^2) / sum(w)^2``, and the binomial size with the
same variance is ``p*(1-p)/Var(p)``. With one sample a request (``w_i = 1``) this is exactly S2. It takes
linear time and one FFT over requests, whatever the number of gaps, and with fewer than 20 requests the
effective size never exceeds the number of requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES: dict[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
BASE_LEVELS = (0.5, 0.75, 0.9, 0.95)
CONFIDENCE = 0.95
MIN_REQUESTS_FOR_WINDOW_MEDIAN = 20
"""S3's ten exceedances of a median, if the requests were independent."""
METHOD = "inverse_ecdf"
LEVELS = tuple(dict.fromkeys((*BASE_LEVELS, *QUANTILES.values())))
"""The levels whose autocorrelation times are taken (S2.2)."""

_BLOCK = 1 << 18
"""Longer series are cut into blocks of about this length whose autocorrelation times are averaged."""
_DIRECT_LAGS = 64
_FEW_REQUESTS = 20
"""Below this a between-request variance is too uncertain to claim more than one sample a request."""
_TOLERANCE = 1e-9  # 200 * (1 - 0.9) is 19.999999999999996 in binary; the rule means 20

Array = NDArray[Any]


def quantile_rank(n: int, q: float) -> int:
    """The 1-based rank ``ceil(q*n)`` of S1, exact for decimal *q* (``0.07 * 100`` is 7, not 8)."""
    return max(1, math.ceil(Fraction(str(q)) * n))


class Ecdf:
    """The empirical distribution of *values*, each counted ``weights`` times (once if ``None``); ``+inf`` is
    allowed.

    ``n`` is the number of samples with their weights. Sorting is the only super-linear work.
    """

    def __init__(self, values: Array, weights: Array | None = None) -> None:
        self._cumulative: Array | None = None
        if weights is None:
            self._sorted = np.sort(values)
            self.n = int(values.size)
            return
        order = np.argsort(values)
        self._sorted = values[order]
        self._cumulative = np.cumsum(weights[order], dtype=np.int64)
        self.n = int(self._cumulative[-1]) if values.size else 0

    def at_rank(self, rank: int) -> float:
        """The *rank*-th smallest sample, 1-based."""
        index = rank - 1 if self._cumulative is None else int(np.searchsorted(self._cumulative, rank))
        return float(self._sorted[index])

    def quantile(self, q: float) -> float:
        """S1: ``x_(ceil(q*n))``; ``+inf`` when the rank falls on a failure. Needs at least one sample."""
        return self.at_rank(quantile_rank(self.n, q))


def autocorrelation_time(series: Array) -> float:
    """Integrated autocorrelation time by Geyer's initial positive monotone sequence (S2.2); 1 for a constant
    series.

    May be below 1 for a negatively correlated series; ``tau_max`` never is.
    """
    blocks = np.array_split(series, -(-series.size // _BLOCK)) if series.size > _BLOCK else [series]
    return float(np.mean([_block_time(block) for block in blocks]))


def _block_time(series: Array) -> float:
    n = series.size
    if n < 4:
        return 1.0
    centred = np.asarray(series, dtype=np.float64) - np.mean(series)
    power = _product(centred, 0)
    if power <= 1e-12 * n:
        return 1.0
    pairs = np.empty(0)
    if n > 4 * _DIRECT_LAGS:  # weak correlation ends within a few lags: cheaper than a transform of the whole
        for lag in range(0, _DIRECT_LAGS, 2):
            pair = (_product(centred, lag) + _product(centred, lag + 1)) / power
            pairs = np.append(pairs, pair)
            if pair < 0:
                return _geyer(pairs)
    size = 1 << (2 * n - 1).bit_length()  # zero padding keeps the circular correlation from wrapping
    spectrum = np.fft.rfft(centred, size)
    rho = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size)[: n - n % 2] / power
    return _geyer(rho[0::2] + rho[1::2])


def _product(series: Array, lag: int) -> float:
    """Sum of the products of values *lag* apart, without BLAS, whose threads wait for each other on a busy machine."""
    return float(np.einsum("i,i->", series[: series.size - lag], series[lag:]))


def _geyer(pairs: Array) -> float:
    """The autocorrelation time from sums of neighbouring autocorrelations, up to the first negative one."""
    negative = np.flatnonzero(pairs < 0)
    positive = pairs[: negative[0]] if negative.size else pairs
    return 2.0 * float(np.minimum.accumulate(positive).sum()) - 1.0 if positive.size else 1.0


def level_tau(
    values: Array, threshold: float, weights: Array | None = None, sizes: Array | None = None
) -> float:
    """``n / n_eff`` of the share of samples at or below *threshold*, values in arrival order of their
    requests.

    *sizes* (values per request, every entry > 0) turns on the cluster form of the module's docstring. A
    threshold of ``+inf`` splits completed samples from failed ones.
    """
    below = values <= threshold if math.isfinite(threshold) else np.isfinite(values)
    if sizes is None and weights is None:
        return autocorrelation_time(below)
    per_request = np.ones(values.size, dtype=np.int64) if sizes is None else sizes
    starts = np.cumsum(per_request) - per_request
    mass = per_request if weights is None else np.add.reduceat(weights, starts, dtype=np.int64)
    hits = np.add.reduceat(below if weights is None else below * weights, starts, dtype=np.int64)
    return cluster_tau(hits, mass)


def cluster_tau(hits: Array, mass: Array) -> float:
    """``n / n_eff`` where request *i*, in arrival order, has *mass[i]* > 0 samples, *hits[i]* of them below a level
    (the cluster form of the module's docstring)."""
    total, requests = float(mass.sum()), int(mass.size)
    share = float(hits.sum()) / total
    if requests < 2 or not 0.0 < share < 1.0:
        return total / requests if requests < _FEW_REQUESTS else 1.0
    residuals = hits - share * mass
    variance = _product(residuals, 0) * requests / (requests - 1)
    tau = autocorrelation_time(residuals) * variance / (share * (1.0 - share) * total)
    return max(tau, total / requests) if requests < _FEW_REQUESTS else tau


def tau_max(taus: Iterable[float]) -> float:
    """The largest autocorrelation time over levels, at least 1 (S2.2)."""
    return max(1.0, *taus)


def rank_interval(q: float, n: int, n_eff: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """S2.4: the exact binomial order-statistic interval of quantile *q* on *n_eff* samples, as 1-based ranks
    into *n*.

    With ``m = floor(n_eff)`` the ranks are the binomial quantiles ``(l, u + 1)`` of ``B(m, q)`` (scipy's
    incomplete beta underneath), stretched by ``n/m``: 1,000 independent samples give [x_983, x_997] for p99.
    ``None`` when no sample can bound the quantile on one side, which is S3's floor: 6 samples for p50, 368
    for p99, 3,688 for p99.9.
    """
    from scipy.special import bdtrik

    m = math.floor(n_eff + _TOLERANCE)
    alpha = 1.0 - confidence
    if m < 1:
        return None
    low, high = (float(bdtrik(level, m, q)) for level in (alpha / 2.0, 1.0 - alpha / 2.0))
    if not (low > 0.0 and high <= m - 1):
        return None
    return math.floor(math.ceil(low) * n / m), min(n, math.ceil((math.ceil(high) + 1) * n / m))


def requests_needed(q: float, tau: float) -> int:
    """S3: how many samples make ``n_eff * (1 - q)`` reach 20."""
    return math.ceil(20.0 * tau / (1.0 - q) - 1e-6)


def gate(q: float, n_eff: float) -> str:
    """S3 on ``m = n_eff*(1-q)`` exceedances: ``published`` (m >= 20), ``wide`` (>= 10) or ``needs_n``."""
    exceedances = n_eff * (1.0 - q) + _TOLERANCE
    return "published" if exceedances >= 20 else "wide" if exceedances >= 10 else "needs_n"


@dataclass(frozen=True, slots=True)
class QuantileEstimate:
    """One quantile as it may be shown.

    ``value`` is ``None`` unless the gate is ``published`` or ``wide``. ``ci_high`` is ``None`` beside a
    ``ci_low`` when the upper bound falls on a failure (no upper bound below the timeout). ``between_trials`` marks an
    interval that comes from the spread between trials (``pooling``), not from the pooled ranks.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    gate: str
    needs_n: int | None
    between_trials: bool = False


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles of one population; ``n_eff`` is that of levels .5 .75 .9 .95 (p99, p99.9 add their own)."""

    n: int
    n_eff: float
    tau: float
    quantiles: dict[str, QuantileEstimate]


def describe(
    values: Array,
    *,
    weights: Array | None = None,
    sizes: Array | None = None,
    intervals: bool = True,
    window_median: bool = False,
) -> Distribution | None:
    """Quantiles, gates and (if *intervals*) confidence intervals of *values*; ``None`` when there are none.

    *values* are in arrival order of their requests, failures ``+inf``; *weights* count a value more than
    once; *sizes* (values per request, zeros allowed) mark values that belong to the same request. With
    *window_median* (level demo) a median of at least 20 requests is given, marked ``wide``, however correlated
    they are: it describes its window and estimates nothing beyond it.
    """
    clusters = None if sizes is None else sizes[sizes > 0]
    return describe_ecdf(
        Ecdf(values, weights),
        values.size if clusters is None else clusters.size,
        lambda limits: [level_tau(values, limit, weights, clusters) for limit in limits],
        intervals=intervals,
        window_median=window_median,
    )


def describe_ecdf(
    ecdf: Ecdf,
    requests: int,
    taus_at: Callable[[Sequence[float]], Sequence[float]],
    *,
    intervals: bool = True,
    window_median: bool = False,
) -> Distribution | None:
    """``describe`` of samples that are known by their counts: *ecdf*, of *requests* requests.

    *taus_at* gives ``n / n_eff`` at each of the values that are the quantiles ``LEVELS``, in that order.
    """
    if ecdf.n == 0:
        return None
    taus = dict(zip(LEVELS, taus_at([ecdf.quantile(q) for q in LEVELS]), strict=True))
    base = tau_max(taus[level] for level in BASE_LEVELS)
    quantiles = {
        name: _estimate(ecdf, q, tau_max((base, taus[q])), intervals=intervals)
        for name, q in QUANTILES.items()
    }
    if window_median and quantiles["p50"].gate == "needs_n" and requests >= MIN_REQUESTS_FOR_WINDOW_MEDIAN:
        quantiles["p50"] = QuantileEstimate(ecdf.quantile(0.5), None, None, "wide", None)
    return Distribution(ecdf.n, ecdf.n / base, base, quantiles)


def _estimate(ecdf: Ecdf, q: float, tau: float, *, intervals: bool) -> QuantileEstimate:
    n_eff = ecdf.n / tau
    value, verdict = ecdf.quantile(q), gate(q, n_eff)
    needs = requests_needed(q, tau) if verdict == "needs_n" else None
    if math.isinf(value):  # a failure at this rank is known however few samples there are
        return QuantileEstimate(None, None, None, "beyond_timeout", needs)
    if verdict == "needs_n":
        return QuantileEstimate(None, None, None, verdict, needs)
    ranks = rank_interval(q, ecdf.n, n_eff) if intervals else None
    if ranks is None:
        return QuantileEstimate(value, None, None, verdict, None)
    low, high = ecdf.at_rank(ranks[0]), ecdf.at_rank(ranks[1])
    return QuantileEstimate(value, low, high if math.isfinite(high) else None, verdict, None)
