"""Verdicts on what side channels showed: was the hardware itself, and is what they say whole.

Belongs here: rules S5(d) on preemptions, M28 on throttling and hardware errors, coverage of energy and of readings.
Does not belong here: the engine's counters against ours (``bench.engine_counters``), steadiness of the load.

None of them voids: they say under which conditions the figures stand. A rule is absent where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelbench_assets.bench.rules.outcome import Rules, verdict
from accelbench_assets.telemetry.reduce import MIN_COVERAGE, Hardware

PREEMPTION_SHARE = 0.01  # S5(d)
GAP_SHARE = 0.10


def side_rules(
    steps: Sequence[Mapping[str, Any]],
    hardware: Sequence[Hardware] = (),
    *,
    readings: int = 0,
    gaps: Mapping[str, int] | None = None,
) -> Rules:
    """Rules ``preemptions``, ``throttling``, ``hardware_errors``, ``energy`` and ``telemetry``.

    *steps* are ``run_steps`` rows with their side-channel columns, *hardware* their ``SideChannels.hardware``;
    *readings* and *gaps* are the sampler's.
    """
    rules: Rules = {}
    storms = [
        (step["preemptions"] / max(1, step["requests_scheduled"]), step["preemptions"])
        for step in steps
        if step.get("preemptions") is not None
    ]
    if storms:
        share, count = max(storms)
        text = f"The engine preempted {count} requests in its worst window, {share:.1%} of those scheduled."
        outcome = "warn" if share > PREEMPTION_SHARE else "pass"
        rules["preemptions"] = verdict(outcome, share, PREEMPTION_SHARE, text)
    throttled = [found for found in hardware if found.throttle_s is not None]
    if throttled:
        seconds = max(found.throttle_s or 0.0 for found in throttled)
        reasons = sorted({reason for found in throttled for reason in found.throttle_reasons})
        why = f" ({', '.join(reasons)})" if reasons else ""
        text = f"An accelerator's clock was throttled for {seconds:.0f} s of a window at most{why}."
        rules["throttling"] = verdict("warn" if seconds > 0 else "pass", seconds, 0, text)
    xids = sorted({xid for found in hardware for xid in found.xid_errors})
    ecc = [found.ecc_uncorrected for found in hardware if found.ecc_uncorrected is not None]
    if xids or ecc:
        count = len(xids) + sum(ecc)
        named = f"XID {', '.join(map(str, xids))}" if xids else "no XID"
        text = f"The accelerators reported {named} and {sum(ecc)} uncorrected memory errors in the windows."
        rules["hardware_errors"] = verdict("warn" if count else "pass", count, 0, text)
    if any(step.get("energy_valid") is not None for step in steps):
        bad = sum(step.get("energy_valid") is False for step in steps)
        text = (
            f"In {bad} of {len(steps)} steps power readings cover less than {MIN_COVERAGE:.0%} of the window."
        )
        rules["energy"] = verdict("warn" if bad else "pass", bad, 0, text)
    if readings:
        missed = sum((gaps or {}).values())
        share = missed / (missed + readings)
        worst = max(gaps, key=lambda reason: gaps[reason]) if gaps else ""
        text = f"{missed} of {missed + readings} readings beside the load are missing"
        text += f", mostly because {worst}." if worst else "."
        rules["telemetry"] = verdict("warn" if share > GAP_SHARE else "pass", share, GAP_SHARE, text)
    return rules
