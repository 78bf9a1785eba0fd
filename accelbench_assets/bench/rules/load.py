"""Was the load that was asked for really offered: rules M7 (open loop), M9, and the share of each replica.

Belongs here: verdicts on schedule, sends, replicas and the manifest. Does not belong here: the generator's own
innocence (``client``), what came back (``answers``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from accelbench_assets.bench.frame import Frame
from accelbench_assets.bench.quantiles import Ecdf
from accelbench_assets.bench.rules.outcome import Verdict, verdict

ACHIEVED_SHARE = 0.99
DRIFT_MS_PER_MIN = 1.0
REPLICA_SKEW_WARN, REPLICA_SKEW_VOID = 1.10, 1.25
DEMO_DISPATCH_FACTOR = 10.0


def manifest(frames: Sequence[Frame], shards: Sequence[Mapping[str, Any]], planned_steps: int) -> Verdict:
    """M9: the generator finished, no step is missing, every scheduled request left a sample."""
    broken = next((s for s in shards if not s["complete"]), None)
    if broken is not None or not shards:
        reason = (broken or {}).get("reason") or "it ended before the ladder did"
        return verdict("void", 0, 1, f"The load generator did not finish: {reason}.")
    if len(frames) < planned_steps:
        return verdict(
            "void", len(frames), planned_steps, f"Only {len(frames)} of {planned_steps} steps were measured."
        )
    missing = sum(max(0, f.window.requests_scheduled - int(f.arrived.sum())) for f in frames)
    if missing:
        return verdict("void", missing, 0, f"{missing} requests scheduled in the window left no sample.")
    return verdict(
        "pass", len(frames), planned_steps, "All steps were measured and every request left a sample."
    )


def dispatch_rule(demo: bool) -> Callable[[Frame], Verdict]:
    """M7, open loop: the rule on how late requests were sent, p99 over max(1 ms, 1 % of the TTFT p50)."""

    def rule(frame: Frame) -> Verdict:
        lag = frame.numbers("send_lag_ms")[frame.arrived]
        lag = lag[~np.isnan(lag)]
        ttft = frame.numbers("ttft_ms")[frame.arrived & frame.ok]
        ttft = ttft[~np.isnan(ttft)]
        limit = max(1.0, 0.01 * Ecdf(ttft).quantile(0.5)) if ttft.size else 1.0
        if not lag.size:
            return verdict("void", None, limit, f"No request of step {frame.window.label} was sent.")
        p99 = Ecdf(lag).quantile(0.99)
        text = f"Requests of step {frame.window.label} were sent {p99:.2f} ms late at p99."
        if p99 <= limit:
            return verdict("pass", p99, limit, text)
        lenient = demo and p99 <= DEMO_DISPATCH_FACTOR * limit
        return verdict("warn" if lenient else "void", p99, limit, f"{text} The limit is {limit:.2f} ms.")

    return rule


def achieved(frame: Frame) -> Verdict:
    """Sends in W against arrivals in W. One request may cross an edge, so a shortfall of one never voids."""
    offered = max(frame.window.requests_scheduled, int(frame.arrived.sum()))
    sent = int(frame.holds(frame.sent_ns).sum())
    share = sent / offered if offered else 0.0
    limited = share < ACHIEVED_SHARE and offered - sent > 1
    # The worst step has the smallest share, and _worst looks for the largest number.
    text = f"Step {frame.window.label} sent {share:.1%} of its scheduled requests inside the window."
    return verdict("void" if limited else "pass", 1.0 - min(share, 1.0), 1.0 - ACHIEVED_SHARE, text)


def drift(shards: Sequence[Mapping[str, Any]]) -> Verdict:
    """§1.1: how far the wall clock moved against the monotonic one."""
    drifts = [abs(float(s["drift_ms_per_min"])) for s in shards if s.get("drift_ms_per_min") is not None]
    if not drifts:
        return verdict("warn", None, DRIFT_MS_PER_MIN, "The wall clock's drift was not measured.")
    drift = max(drifts)
    text = f"The wall clock moved {drift:.2f} ms a minute against the monotonic one; latencies do not use it."
    return verdict("warn" if drift > DRIFT_MS_PER_MIN else "pass", drift, DRIFT_MS_PER_MIN, text)


def replica_skew(frames: Sequence[Frame], *, router: str = "none") -> Verdict | None:
    """Requests are dealt round robin over the replicas' own addresses, so a skew is a fault of the measurement,
    unless a *router* is under test and the spread is its doing. ``None`` with fewer than two replicas."""
    counts: dict[str | None, int] = {}
    for frame in frames:
        for replica, counted in zip(frame.words("replica_id"), frame.arrived, strict=True):
            if counted and replica is not None:
                counts[replica] = counts.get(replica, 0) + 1
    if len(counts) < 2:
        return None
    skew = max(counts.values()) * len(counts) / sum(counts.values())
    text = f"The busiest of {len(counts)} replicas answered {skew:.2f} times its share."
    if router not in ("", "none"):
        return verdict("pass", skew, REPLICA_SKEW_WARN, f"{text} The router {router} spreads them.")
    outcome = "void" if skew > REPLICA_SKEW_VOID else "warn" if skew > REPLICA_SKEW_WARN else "pass"
    return verdict(outcome, skew, REPLICA_SKEW_VOID if outcome == "void" else REPLICA_SKEW_WARN, text)
