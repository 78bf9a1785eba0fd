"""Service-level objectives: attainment with an interval, goodput, and pass, fail or undecided.

Belongs here: rule S4 and the goodput rows of the metric dictionary. Does not belong here: which SLO a
workload has (``loadgen.workloads``), estimators (``quantiles``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from accelbench_assets.bench.frame import Frame
from accelbench_assets.bench.quantiles import autocorrelation_time, tau_max

CLAUSES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}
_Z = 1.959963984540054  # two-sided 95 %


def slo_id(slo: Mapping[str, Any]) -> str:
    """A stable name of an objective: ``ttft<=1000,tpot<=50@0.95``."""
    clauses = ",".join(
        f"{name}<={slo[column]:g}" for name, column in CLAUSES.items() if slo.get(column) is not None
    )
    return f"{clauses}@{slo['quantile']:g}"


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """The 95 % Wilson interval of a share on *n* (effective) samples (S4)."""
    z2 = _Z * _Z
    centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n)
    half = _Z * math.sqrt(share * (1.0 - share) / n + z2 / (4.0 * n * n)) / (1.0 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def decide(low: float, high: float, target: float) -> str:
    """``pass`` when even the lower bound reaches *target*, ``fail`` when even the upper one does not (S4)."""
    return "pass" if low >= target else "fail" if high < target else "undecided"


def slo_row(
    frame: Frame, slo: Mapping[str, Any], percentiles: Iterable[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The ``slo_results`` row of one step, without run columns; ``None`` when nothing was scheduled or
    demanded.

    A failed, timed out or cancelled request misses, and so does one that lacks a demanded metric. The
    effective size is the smallest of the verdict series' own and those of the demanded metrics (*percentiles*
    of the same step), so a window that happens to hold no congestion claims no certainty.
    """
    limits = {name: float(slo[column]) for name, column in CLAUSES.items() if slo.get(column) is not None}
    n = int(frame.arrived.sum())
    missing = max(0, frame.window.requests_scheduled - n)
    if not limits or n == 0:
        return None
    good = frame.ok & frame.arrived
    for name, limit in limits.items():
        good = good & (frame.numbers(CLAUSES[name]) <= limit)  # NaN is not within any limit
    taus = [row["n"] / row["n_eff"] for row in percentiles if row["metric"] in limits and row["n_eff"]]
    tau = tau_max([autocorrelation_time(good[frame.arrived]), *taus])
    attainment = int(good.sum()) / (n + missing)
    low, high = wilson_interval(attainment, (n + missing) / tau)
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
        "decision": decide(low, high, float(slo["quantile"])),
    }
