"""What an hour, a month and a fleet cost: terms of payment, losses, replicas, the benchmark itself.

Belongs here: pure formulas over prices and capacities. Does not belong here: what a token costs of an hour (``cost``),
which prices there are (``snapshot``). The views ``monthly_projection``, ``reserved_break_even`` and
``spot_interruptions`` and the mart ``run_costs`` have the same formulas over tables; a test holds both to the same
golden figures.

Prices are USD an hour of everything that serves, times are seconds unless they say hours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

HOURS_PER_MONTH = 730.0
HEADROOM = 0.75  # h: replicas are planned to carry this share of the capacity at the peak
MINIMUM_BILLED_S = 60.0
NODE_IDLE_S = 600.0  # a node of a cluster stays this long after its last pod

# Requests of each hour as a share of the peak hour's, midnight first: an assumption, to be replaced by one's own.
CURVES: dict[str, tuple[float, ...]] = {
    "flat": (1.0,) * 24,
    "office": (0.1,) * 7 + (0.3, 0.7, 1.0, 1.0, 0.9, 0.7, 0.9, 1.0, 1.0, 0.9, 0.6, 0.3) + (0.1,) * 5,
    "consumer": (
        *(0.4, 0.3, 0.2, 0.2, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.7),
        *(0.7, 0.7, 0.7, 0.7, 0.8, 0.8, 0.9, 1.0, 1.0, 1.0, 0.8, 0.6),
    ),
}


def effective_usd_per_hour(
    usd_per_hour: float, upfront_usd: float = 0.0, term_hours: float | None = None
) -> float:
    """``P_eff = upfront / H + hourly``; a capacity block has no hourly price, and its hours are the block's."""
    _not_negative(usd_per_hour=usd_per_hour, upfront_usd=upfront_usd)
    if not upfront_usd:
        return usd_per_hour
    if term_hours is None or not term_hours > 0:
        raise ValueError("an upfront payment is for a term of hours")
    return upfront_usd / term_hours + usd_per_hour


def time_valued_usd_per_hour(
    usd_per_hour: float, upfront_usd: float, months: int, yearly_rate: float
) -> float:
    """``[upfront + sum_m 730 hourly (1 + i)^(-m/12)] / sum_m 730 (1 + i)^(-m/12)`` over months 1..*months*.

    With *yearly_rate* 0 it is :func:`effective_usd_per_hour`.
    """
    _not_negative(usd_per_hour=usd_per_hour, upfront_usd=upfront_usd)
    if months < 1 or not yearly_rate > -1:
        raise ValueError("a term has months, and a rate of interest is above -100 %")
    worth = math.fsum(HOURS_PER_MONTH * (1 + yearly_rate) ** (-m / 12) for m in range(1, months + 1))
    return upfront_usd / worth + usd_per_hour


def break_even_utilisation(effective: float, on_demand: float) -> float:
    """``u* = P_eff / P_on-demand``: used for a smaller share of the term, on-demand is cheaper."""
    _not_negative(effective=effective)
    if not on_demand > 0:
        raise ValueError(f"on_demand: {on_demand!r} is not a positive price")
    return effective / on_demand


def used_hour_usd(usd_per_hour: float, used_share: float) -> float:
    """``P_eff / u_r``: what an hour that is used costs when the rest of the term lies idle."""
    if not 0 < used_share <= 1:
        raise ValueError(f"used_share: {used_share!r} is not above 0 and at most 1")
    return usd_per_hour / used_share


def spot_usd_per_hour(spot: float, interruptions_per_hour: float, lost_hours: float) -> float | None:
    """``P_spot / (1 - nu (t_notice_loss + t_ready))``; ``None`` if the losses reach the whole hour."""
    _not_negative(spot=spot, interruptions_per_hour=interruptions_per_hour, lost_hours=lost_hours)
    useful = 1 - interruptions_per_hour * lost_hours
    return spot / useful if useful > 0 else None


def replicas(
    peak_requests_per_s: float,
    capacity_requests_per_s: float,
    *,
    headroom: float = HEADROOM,
    at_least: int = 1,
) -> int:
    """``n = max(n_min, ceil(lambda_peak / (h X_slo)))``.

    The capacity is one that an open-loop step has confirmed within the latency target, never that of saturation.
    """
    if not capacity_requests_per_s > 0 or not 0 < headroom <= 1 or peak_requests_per_s < 0:
        raise ValueError("replicas need a capacity, a headroom above 0 and at most 1, and a rate")
    needed = peak_requests_per_s / (headroom * capacity_requests_per_s)
    return max(at_least, math.ceil(needed - 1e-9))  # 3.0000000000000004 replicas are three


def monthly_usd(usd_per_hour: float, count: int) -> float:
    """``730 P n``: all *count* replicas, all hours of the month."""
    return HOURS_PER_MONTH * usd_per_hour * count


def autoscaled_monthly_usd(
    usd_per_hour: float,
    peak_requests_per_s: float,
    capacity_requests_per_s: float,
    ready_s: float,
    *,
    curve: Sequence[float] = CURVES["office"],
    headroom: float = HEADROOM,
    at_least: int = 1,
) -> tuple[float, int]:
    """``P sum_hours n_h + P n_events t_ready / 3600`` over a month of equal days; and the replicas of the peak hour.

    *curve* gives each hour's rate as a share of the peak. A scale-out is every replica an hour has more than the one
    before it (the first follows the last).
    """
    if not curve or max(curve) <= 0 or min(curve) < 0:
        raise ValueError("a curve has hours, none below zero and one above it")
    counts = [
        replicas(peak_requests_per_s * share, capacity_requests_per_s, headroom=headroom, at_least=at_least)
        for share in curve
    ]
    events = sum(max(0, now - before) for before, now in zip([counts[-1], *counts[:-1]], counts, strict=True))
    days = HOURS_PER_MONTH / len(curve)
    return days * (usd_per_hour * sum(counts) + events * cold_start_usd(usd_per_hour, ready_s)), max(counts)


def cold_start_usd(usd_per_hour: float, ready_s: float) -> float:
    """``P t_ready / 3600``: paid at every scale-out, before the first token."""
    _not_negative(usd_per_hour=usd_per_hour, ready_s=ready_s)
    return usd_per_hour * ready_s / 3600


def benchmark_usd(
    usd_per_hour: float, seconds: float, *, instances: int = 1, node_idle_s: float = 0.0
) -> float:
    """``P (t_prov + t_pull + t_load + T_run + t_down) / 3600`` for *instances*, at least a minute each.

    *node_idle_s* is how long the nodes stay afterwards (a cluster's :data:`NODE_IDLE_S`).
    """
    if instances < 1:
        raise ValueError(f"instances: {instances!r} is no number of machines")
    _not_negative(usd_per_hour=usd_per_hour, seconds=seconds, node_idle_s=node_idle_s)
    return usd_per_hour * instances * (max(seconds, MINIMUM_BILLED_S) + node_idle_s) / 3600


def gateway_usd_per_request(
    usd_per_request: float, memory_gb: float, e2e_s: float, usd_per_gb_s: float, usd_per_streamed: float = 0.0
) -> float:
    """``p_req + GB x E2E x p_GBs + p_stream``: a function that streams is billed until the last token."""
    _not_negative(
        usd_per_request=usd_per_request, memory_gb=memory_gb, e2e_s=e2e_s, usd_per_gb_s=usd_per_gb_s
    )
    return usd_per_request + memory_gb * e2e_s * usd_per_gb_s + usd_per_streamed


def _not_negative(**amounts: float) -> None:
    for name, amount in amounts.items():
        if not (amount >= 0 and math.isfinite(amount)):
            raise ValueError(f"{name}: {amount!r} is not an amount")
