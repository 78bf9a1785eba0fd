"""Was the generator the bottleneck: rule M7 on the figures it reports about itself.

Belongs here: verdicts on the client's loop, CPU, ceiling and clock. Does not belong here: how late requests were sent
(``load``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelbench_assets.bench.rules.outcome import Rules, Verdict, verdict

LOOP_LAG_P99_MS, LOOP_LAG_MAX_MS, CPU_SHARE = 5.0, 50.0, 0.70
CEILING_FACTOR, OWN_LATENCY_P99_MS = 3.0, 1.0  # the null-server calibration
THROTTLED_S = 0.1  # one period of the quota's accounting
STAMP_LAG_P99_MS = 5.0  # as the loop's lag: what a user-space stamp would have been wrong by


def client(shards: Sequence[Mapping[str, Any]], *, demo: bool) -> Rules:
    """M7: loop lag at p99 and its largest, and the share of one core; the worst of all shards."""
    limits = (
        (
            "loop_lag_p99",
            "loop_lag_p99_ms",
            LOOP_LAG_P99_MS,
            "The client's event loop was late by {:.1f} ms at p99",
        ),
        (
            "loop_lag_max",
            "loop_lag_max_ms",
            LOOP_LAG_MAX_MS,
            "The client's event loop was once late by {:.1f} ms",
        ),
        ("client_cpu", "cpu_share_max", CPU_SHARE, "The client used up to {:.0%} of one core"),
    )
    rules: Rules = {}
    for rule, key, limit, text in limits:
        values = [float(s["client"][key]) for s in shards if s.get("client", {}).get(key) is not None]
        if not values:
            rules[rule] = verdict("warn", None, limit, f"The load generator did not report {key}.")
            continue
        value = max(values)
        outcome = "pass" if value <= limit else "warn" if demo else "void"
        rules[rule] = verdict(outcome, value, limit, f"{text.format(value)}; the limit is {limit:g}.")
    return rules


def ceiling(shards: Sequence[Mapping[str, Any]], *, demo: bool) -> Verdict:
    """The same client against a server that answers at once must manage three times the run's event rate."""
    figures = [s["client"] for s in shards if s.get("client", {}).get("null_server")]
    if not figures:
        why = next((s["client"].get("null_server_reason") for s in shards if s.get("client")), None)
        text = f"The client was not calibrated against a null server{f': {why}' if why else ''}."
        return verdict("pass" if demo else "warn", None, CEILING_FACTOR, text)
    worst_of = min(
        figures, key=lambda c: c["null_server"]["events_per_s"] / max(1e-9, c["events_per_s_max"] or 0)
    )
    reached, own = worst_of["null_server"]["events_per_s"], worst_of["null_server"]["own_latency_p99_ms"]
    needed = float(worst_of["events_per_s_max"] or 0.0)
    factor = reached / needed if needed else float("inf")
    latency = "its own latency unknown" if own is None else f"its own latency {own:.2f} ms at p99"
    text = (
        f"Against a null server this client took {reached:,.0f} events/s, {latency}; "
        f"the run's busiest second had {needed:,.0f}."
    )
    if factor >= CEILING_FACTOR and (own is None or own <= OWN_LATENCY_P99_MS):
        return verdict("pass", min(factor, 1e6), CEILING_FACTOR, text)
    failed_rate = factor < CEILING_FACTOR
    outcome = "void" if failed_rate and not demo else "warn"
    limit = (
        f"at least {CEILING_FACTOR:g} times as many" if failed_rate else f"at most {OWN_LATENCY_P99_MS:g} ms"
    )
    return verdict(outcome, min(factor, 1e6), CEILING_FACTOR, f"{text} It needs {limit}.")


def stamps(shards: Sequence[Mapping[str, Any]]) -> Verdict:
    """How far user-space stamps lay behind the kernel's: what a client without kernel stamps would be wrong by."""
    lags = [s["client"].get("stamp_lag_p99_ms") for s in shards if s.get("client")]
    known = [float(lag) for lag in lags if lag is not None]
    if not known:
        text = "Receive stamps are the client's own (TLS, or no kernel stamps): their lag is unknown."
        return verdict("pass", None, STAMP_LAG_P99_MS, text)
    lag = max(known)
    text = f"The client read {lag:.2f} ms after the kernel's stamp at p99; the kernel's stamp is what counts."
    return verdict("warn" if lag > STAMP_LAG_P99_MS else "pass", lag, STAMP_LAG_P99_MS, text)


def clock_steps(shards: Sequence[Mapping[str, Any]]) -> Verdict:
    """A wall clock that jumped spoils kernel stamps for a moment; user stamps stand in, and that is said."""
    jumps = sum(int(s["client"].get("clock_jumps") or 0) for s in shards if s.get("client"))
    fallbacks = sum(int(s["client"].get("clock_fallbacks") or 0) for s in shards if s.get("client"))
    text = f"The wall clock jumped {jumps} times; {fallbacks} reads have user-space stamps instead of the kernel's."
    # A read or two without a stamp of the kernel is no step of the clock.
    return verdict("warn" if jumps and fallbacks else "pass", fallbacks, 0, text)


def throttled(shards: Sequence[Mapping[str, Any]], *, demo: bool) -> Rules:
    """A container held back for its processor quota sends and reads late in bursts that no average shows. No verdict
    outside of containers with a quota.
    """
    held = [s["client"].get("cpu_throttled_s") for s in shards if s.get("client")]
    known = [float(seconds) for seconds in held if seconds is not None]
    if not known:
        return {}
    worst_of = max(known)
    text = f"The generator's container was held back for {worst_of:.2f} s of its windows for want of processor time."
    outcome = "pass" if worst_of <= THROTTLED_S else "warn" if demo else "void"
    return {"client_throttled": verdict(outcome, worst_of, THROTTLED_S, text)}
