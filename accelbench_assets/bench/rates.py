"""Rates with intervals: batch means within a run, the log scale across trials. Rule S6.

Belongs here: intervals of tokens/s and requests/s. Does not belong here: the counts (``chunks``, ``frame``), quantiles.

A rate of one run is a mean over time of a correlated series, so its interval comes from the means of 20 equal-time
batches, neighbours merged in pairs while their lag-1 correlation is 0.3 or more. Trials tell more: their spread is
what a repetition would show. Of both intervals the wider is published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelbench_assets.bench.frame import Frame

Array = NDArray[Any]
LAG1_LIMIT = 0.3
MIN_BATCHES = 5
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """A mean with its 95 % interval (``None`` when there is too little to have one).

    ``batches`` is the number of batch means left after merging, ``lag1`` their lag-1 correlation.
    """

    mean: float
    low: float | None
    high: float | None
    batches: int
    lag1: float


def completions_by_batch(frame: Frame) -> Array:
    """Answers that completed, by the batch of W that holds their last token, int64."""
    return frame.by_batch(frame.finished_ns()[frame.ok])


def lag1_correlation(values: Array) -> float:
    """Lag-1 autocorrelation of a series; 0 for a constant one."""
    centred = values - values.mean()
    power = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / power if power > 1e-24 * values.size else 0.0


def batch_means(batches: Sequence[float] | Array) -> Rate:
    """The mean of equal-time *batches* of one run and its t interval.

    Pairs are merged while neighbours correlate by 0.3 or more and five would remain; what is still correlated then has
    its error widened by the first-order factor ``(1 + r) / (1 - r)``.
    """
    values = np.asarray(batches, dtype=np.float64)
    mean = float(values.mean()) if values.size else math.nan
    while values.size // 2 >= MIN_BATCHES and lag1_correlation(values) >= LAG1_LIMIT:
        values = values[values.size % 2 :].reshape(-1, 2).mean(axis=1)
    if values.size < 2:
        return Rate(mean, None, None, int(values.size), 0.0)
    lag1 = lag1_correlation(values)
    error = _standard_error(values, lag1)
    half = _t(values.size - 1) * error
    return Rate(mean, max(0.0, mean - half), mean + half, int(values.size), lag1)


def across_trials(trials: Sequence[Sequence[float] | Array]) -> Rate:
    """The rate of several runs of equal length, each given by its batches.

    The wider of: the t interval of the trial means' logs, and the interval that the batches of all trials give. The
    value is the mean over trials. Without a positive rate in every trial only the second is defined. Raises
    ``ValueError`` for no trial.
    """
    if not trials:
        raise ValueError("there is no trial")
    within = [batch_means(trial) for trial in trials]
    if len(within) == 1:
        return within[0]
    means = np.array([rate.mean for rate in within])
    centre, count = float(means.mean()), len(within)
    batches, lag1 = sum(rate.batches for rate in within), max(rate.lag1 for rate in within)
    candidates = []
    if all(rate.high is not None for rate in within):
        errors = [((rate.high or 0.0) - rate.mean) / _t(rate.batches - 1) for rate in within]
        half = _t(batches - count) * math.hypot(*errors) / count
        candidates.append((max(0.0, centre - half), centre + half))
    if means.min() > 0.0:
        logs = np.log(means)
        half = _t(count - 1) * float(logs.std(ddof=1)) / math.sqrt(count)
        middle = float(logs.mean())
        candidates.append((math.exp(middle - half), math.exp(middle + half)))
    if not candidates:
        return Rate(centre, None, None, batches, lag1)
    low, high = max(candidates, key=lambda pair: pair[1] - pair[0])
    return Rate(centre, low, high, batches, lag1)


def _standard_error(values: Array, lag1: float) -> float:
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    return error * math.sqrt((1 + lag1) / (1 - lag1)) if lag1 >= LAG1_LIMIT else error


def _t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))
