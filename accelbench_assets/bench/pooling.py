"""Several trials of one cell as one distribution: rule S2 across trials.

Belongs here: pooled quantiles, autocorrelation times averaged over trials, the between-trial check. Does not belong
here: one run's quantiles (``quantiles``), comparing two cells (``regression``), rates (``rates``).

The published value is the quantile of the pooled sample, never that of the best trial (M33). What differs between
trials (start-up state, placement, neighbours) is invisible within them: when the trials' quantiles disagree by more
than their own intervals allow, the interval of the trial level stands if it is the wider one, and is marked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelbench_assets.bench.quantiles import (
    BASE_LEVELS,
    CONFIDENCE,
    LEVELS,
    QUANTILES,
    Distribution,
    Ecdf,
    QuantileEstimate,
    describe_ecdf,
    level_tau,
    rank_interval,
    tau_max,
)

Array = NDArray[Any]
_DISAGREE_P = 0.05
_Z = 1.959963984540054


def pooled(trials: Sequence[Array], *, intervals: bool = True) -> Distribution | None:
    """The distribution of all *trials* together; ``None`` when they hold no sample.

    Each trial is one value a request (a latency; failures ``+inf``), in arrival order. The effective size is
    ``n / tau``, tau averaged over trials at each of S2's levels and the largest taken; a trial without samples is left
    out. An estimate whose interval is that of the trial level has ``between_trials`` set.
    """
    known = [trial for trial in trials if trial.size]
    if not known:
        return None
    values = np.concatenate(known)
    ecdf = Ecdf(values)
    taus: dict[float, float] = {}

    def taus_at(limits: Sequence[float]) -> list[float]:
        found = [float(np.mean([level_tau(trial, limit) for trial in known])) for limit in limits]
        taus.update(zip(LEVELS, found, strict=True))
        return found

    found = describe_ecdf(ecdf, values.size, taus_at, intervals=intervals)
    if found is None or not intervals or len(known) < 2:
        return found
    base = tau_max(taus[level] for level in BASE_LEVELS)
    sorted_trials = [Ecdf(trial) for trial in known]
    quantiles = {
        name: _checked(estimate, sorted_trials, QUANTILES[name], tau_max((base, taus[QUANTILES[name]])))
        for name, estimate in found.quantiles.items()
    }
    return replace(found, quantiles=quantiles)


def _checked(estimate: QuantileEstimate, trials: Sequence[Ecdf], q: float, tau: float) -> QuantileEstimate:
    """S2.5 for one quantile."""
    if estimate.value is None or estimate.ci_low is None:
        return estimate
    points = np.array([trial.quantile(q) for trial in trials])
    if np.any(np.isinf(points)):  # some trials end in failures where the pool does not
        return replace(estimate, ci_high=None, between_trials=True)
    if np.any(points <= 0.0):
        return estimate
    logs = np.log(points)
    errors = [_log_error(trial, q, tau) for trial in trials]
    if None in errors or not disagree(logs, np.array(errors, dtype=np.float64)):
        return estimate
    low, high = log_t_interval(logs)
    if estimate.ci_high is not None and high / low <= estimate.ci_high / estimate.ci_low:
        return estimate
    return replace(
        estimate, ci_low=low, ci_high=None if estimate.ci_high is None else high, between_trials=True
    )


def disagree(logs: Array, errors: Array) -> bool:
    """Cochran's Q: whether trial values vary more than their standard *errors* allow (p < 0.05), on the log scale."""
    from scipy.special import chdtrc

    if np.any(errors <= 0.0):
        return bool(np.ptp(logs) > 0.0)
    weights = 1.0 / errors**2
    q = float(weights @ (logs - weights @ logs / weights.sum()) ** 2)
    return float(chdtrc(logs.size - 1, q)) < _DISAGREE_P


def log_t_interval(logs: Array) -> tuple[float, float]:
    """The 95 % t interval of the mean of *logs* (at least two), exponentiated."""
    from scipy.special import stdtrit

    half = (
        float(stdtrit(logs.size - 1, 0.5 + CONFIDENCE / 2)) * float(logs.std(ddof=1)) / math.sqrt(logs.size)
    )
    middle = float(logs.mean())
    return math.exp(middle - half), math.exp(middle + half)


def _log_error(trial: Ecdf, q: float, tau: float) -> float | None:
    """Standard error of the log of one trial's quantile, from its own interval; ``None`` when it has none."""
    ranks = rank_interval(q, trial.n, trial.n / tau)
    if ranks is None:
        return None
    low, high = trial.at_rank(ranks[0]), trial.at_rank(ranks[1])
    if low <= 0.0 or not math.isfinite(high):
        return None
    return math.log(high / low) / (2.0 * _Z)
