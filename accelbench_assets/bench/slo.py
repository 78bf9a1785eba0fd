"""Service-level objectives: attainment with an interval, goodput, and pass, fail or undecided.

Belongs here: rule S4 and the goodput rows of the metric dictionary. Does not belong here: which SLO a
workload has (``loadgen.workloads``), estimators (``quantiles``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any

from accelbench_assets.bench.frame import Frame
from accelbench_assets.bench.quantiles import autocorrelation_time, tau_max

CLAUSES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}
FEW_MISSES, FEW_MISSES_CONFIDENCE = 10, 0.99


def slo_id(slo: Mapping[str, Any]) -> str:
    """A stable name of an objective: ``ttft<=1000,tpot<=50@0.95``."""
    clauses = ",".join(
        f"{name}<={slo[column]:g}" for name, column in CLAUSES.items() if slo.get(column) is not None
    )
    return f"{clauses}@{slo['quantile']:g}"


def wilson_interval(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Wilson interval of a share on *n* (effective) samples (S4)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    centre = (share + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n)) / (1.0 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def requests_for_misses(target: float, misses: int, confidence: float = FEW_MISSES_CONFIDENCE) -> int:
    """The least number of independent requests of which *misses* may miss, so that attainment reaches *target* with
    one-sided *confidence*: the exact binomial bound (S4's table, and LoadGen's early stopping without tolerance)."""
    from scipy.special import bdtr

    low, high = misses, misses + 1
    while bdtr(misses, high, 1.0 - target) > 1.0 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bdtr(misses, middle, 1.0 - target) > 1.0 - confidence else (low, middle)
    return high


def enough_for_misses(target: float, misses: int, n: int, tau: float) -> bool:
    """Whether *n* requests of autocorrelation time *tau* carry a ``pass`` with so few *misses*: near 1 the Wilson bound
    is too sure of itself, so up to ten effective misses must also satisfy the exact count, times *tau*."""
    effective = math.ceil(misses / tau - 1e-9)
    return effective > FEW_MISSES or n >= tau * requests_for_misses(target, effective)


def decide(low: float, high: float, target: float) -> str:
    """``pass`` when even the lower bound reaches *target*, ``fail`` when even the upper one does not (S4)."""
    return "pass" if low >= target else "fail" if high < target else "undecided"


def slo_row(
    frame: Frame,
    slo: Mapping[str, Any],
    percentiles: Iterable[Mapping[str, Any]],
    *,
    confidence: float = 0.95,
) -> dict[str, Any] | None:
    """The ``slo_results`` row of one step, without run columns; ``None`` when nothing was scheduled or
    demanded.

    A failed, timed out or cut request misses, and so does one that lacks a demanded metric; one that the workload
    cancelled itself is not asked. *confidence* is that of the interval (``looks`` has its own). The effective size is
    the smallest of the verdict series' own and those of the demanded metrics (*percentiles* of the same step), so a
    window that happens to hold no congestion claims no certainty.
    """
    limits = {name: float(slo[column]) for name, column in CLAUSES.items() if slo.get(column) is not None}
    n = int(frame.judged.sum())
    missing = max(0, frame.window.requests_scheduled - int(frame.arrived.sum()))
    if not limits or n == 0:
        return None
    good = frame.ok & frame.arrived
    for name, limit in limits.items():
        good = good & (frame.numbers(CLAUSES[name]) <= limit)  # NaN is not within any limit
    taus = [row["n"] / row["n_eff"] for row in percentiles if row["metric"] in limits and row["n_eff"]]
    tau = tau_max([autocorrelation_time(good[frame.judged]), *taus])
    attainment = int(good.sum()) / (n + missing)
    scheduled, target = n + missing, float(slo["quantile"])
    low, high = wilson_interval(attainment, scheduled / tau, confidence)
    decision = decide(low, high, target)
    if decision == "pass" and not enough_for_misses(target, scheduled - int(good.sum()), scheduled, tau):
        decision = "undecided"
    seconds = frame.window.seconds
    return {
        "step_index": frame.window.step_index,
        "slo_id": slo_id(slo),
        **{column: slo.get(column) for column in CLAUSES.values()},
        "attainment": attainment,
        "attainment_low": low,
        "attainment_high": high,
        "goodput_rps": int(good.sum()) / seconds,
        "goodput_output_tokens_per_s": float(frame.numbers("output_tokens")[good].sum()) / seconds,
        "decision": decision,
    }
