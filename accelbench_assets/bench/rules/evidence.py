"""Is it enough, and was it steady: rules M6, M11, S2 and S5.

Belongs here: verdicts on windows, sample counts and steadiness. Does not belong here: estimators (``quantiles``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accelbench_assets.bench.frame import Frame, load_label
from accelbench_assets.bench.metrics import Row
from accelbench_assets.bench.quantiles import describe
from accelbench_assets.bench.rules.outcome import Verdict, verdict
from accelbench_assets.bench.steadiness import backlog

MIN_SAMPLES_FOR_MEDIAN = 20  # S3: ten effective exceedances


def evidence(frame: Frame, level: str, required_s: float) -> Verdict:
    """M11: the window is as long as its level demands, and something was sent in it."""
    index, seconds = frame.window.label, frame.window.seconds
    if seconds < required_s * 0.999:
        text = (
            f"The window of step {index} is {seconds:.0f} s; evidence level {level} needs {required_s:.0f} s."
        )
        return verdict("void", seconds, required_s, text)
    if not frame.arrived.any():
        text = f"No request was sent in the window of step {index}: there is nothing to measure."
        return verdict("void", 0, MIN_SAMPLES_FOR_MEDIAN, text)
    n = int((frame.arrived & frame.ok).sum())
    if n < MIN_SAMPLES_FOR_MEDIAN:
        text = f"Step {index} has {n} completed requests; even a median needs {MIN_SAMPLES_FOR_MEDIAN}."
        return verdict("warn", n, MIN_SAMPLES_FOR_MEDIAN, text)
    return verdict("pass", seconds, required_s, f"Windows and samples are enough for evidence level {level}.")


def independence(frame: Frame) -> Verdict:
    """S2: correlated requests say less than their number; a machine whose speed drifts shows here first."""
    values = frame.numbers("e2e_ms")[frame.arrived & frame.ok]
    found = describe(values[~np.isnan(values)], intervals=False)
    if found is None:
        return verdict("pass", None, MIN_SAMPLES_FOR_MEDIAN, "There is no completed request to judge.")
    text = f"The {found.n} completed requests of step {frame.window.label} count as {found.n_eff:.0f} independent"
    if found.n >= MIN_SAMPLES_FOR_MEDIAN > found.n_eff:
        why = "the speed of the server or its machine drifted, and quantiles describe this window only"
        return verdict("warn", found.n_eff, MIN_SAMPLES_FOR_MEDIAN, f"{text} ones: {why}.")
    return verdict("pass", found.n_eff, MIN_SAMPLES_FOR_MEDIAN, f"{text} ones.")


def cold_steps(shards: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Seconds of warm-up of the steps whose server never settled, by step index."""
    return {
        int(step["step_index"]): float(step["warmup"]["seconds"])
        for shard in shards
        for step in shard["steps"]
        if step.get("warmup") and step["warmup"]["status"] == "not_warm"
    }


def warm_up(shards: Sequence[Mapping[str, Any]], steps: Sequence[Row], level: str) -> Verdict:
    """M6: a warm-up by state that never settled voids what claims to be more than a smoke test.

    Not where the load was more than the server carries (such a step has no steady state, and is labelled), nor in a
    capacity search, which goes beyond the knee on purpose: there the step is marked unsteady, and the run stands.
    """
    cold = cold_steps(shards)
    if not cold:
        return verdict("pass", 0, 0, "Every warm-up ended as planned.")
    searched = any(shard.get("capacity") for shard in shards)
    rows = [step for step in steps if step["step_index"] in cold]
    carried = [step for step in rows if step["saturation_label"] not in ("unstable", "overloaded")]
    step = (carried or rows)[0]
    label, seconds = load_label(step["load_kind"], step["load_value"]), cold[step["step_index"]]
    text = (
        f"Step {label} was not warm after {seconds:.0f} s: its figures had not settled when the window began."
    )
    voids = carried and not searched and level in ("standard", "publication")
    return verdict("void" if voids else "warn", len(cold), 0, text)


def steady(steps: Sequence[Row], level: str) -> Verdict:
    """S5: a step whose window was not steady describes the drift as much as the server. It cannot rank; where the
    level claims more than a smoke test it is a warning (ADR 0014)."""
    unsteady = [step for step in steps if step.get("steady") is False]
    if not unsteady:
        return verdict("pass", 0, 0, "Every window was steady.")
    step = unsteady[0]
    label = load_label(step["load_kind"], step["load_value"])
    text = f"{len(unsteady)} of {len(steps)} windows were not steady; {label}: {step['steady_reason']}"
    return verdict("warn" if level in ("standard", "publication") else "pass", len(unsteady), 0, text)


def stable(frames: Sequence[Frame]) -> Verdict | None:
    """M24: an open load that the server cannot carry has no steady state. ``None`` without an open step."""
    grown = [(frame, found) for frame in frames if (found := backlog(frame)) is not None]
    if not grown:
        return None
    frame, worst = max(grown, key=lambda pair: (pair[1].unstable, pair[1].growth_per_s))
    text = f"The backlog of step {frame.window.label} grew by {max(0.0, worst.growth_per_s):.2f} requests a second"
    if worst.unstable:
        return verdict(
            "warn", worst.growth, worst.limit, f"{text}: its latencies describe the test's length."
        )
    return verdict("pass", worst.growth, worst.limit, f"{text}.")
