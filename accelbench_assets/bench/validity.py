"""Validity rules: what makes a run's numbers untrustworthy, decided by stated limits and not by looking at
results.

Belongs here: rules M7, M9-M11, M13, M15, M22 and S5(d) of ``docs/methodology.md`` as pass, warn or void, each
with its number, its limit and a sentence. Does not belong here: computing metrics (``metrics``), what follows
(``run``).

A void run is kept and never published. At evidence level ``demo`` the limits on the client's own timing warn
instead: a demonstration may run on a busy laptop, is marked as one and never ranks; a p99 dispatch delay
above ten times its limit voids even there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from accelbench_assets.bench.frame import Frame, load_label
from accelbench_assets.bench.metrics import ERROR_SHARE_OVERLOADED, Row
from accelbench_assets.bench.quantiles import Ecdf, describe
from loadgen.workloads import names

ORDER = ("pass", "warn", "void")
WINDOW_S = {"demo": 0.0, "smoke": 120.0, "standard": 300.0, "publication": 600.0}  # M11
LOOP_LAG_P99_MS, LOOP_LAG_MAX_MS, CPU_SHARE = 5.0, 50.0, 0.70  # M7
ACHIEVED_SHARE = 0.99
ERROR_SHARE_NOT_ELIGIBLE = 0.01
LENGTH_TOLERANCE, LENGTH_SHARE, MISMATCH_SHARE = 0.01, 0.01, 0.01  # M15, §1.1
SHARED_CHUNK_SHARE = 0.20  # M22
DRIFT_MS_PER_MIN = 1.0
REPLICA_SKEW = 1.25
MIN_SAMPLES_FOR_MEDIAN = 20  # S3: ten effective exceedances
DEMO_DISPATCH_FACTOR = 10.0

Verdict = dict[str, Any]
Rules = dict[str, Verdict]


def verdict(
    outcome: str, value: float | int | str | None, limit: float | int | str | None, text: str
) -> Verdict:
    """One rule's entry in ``runs.validity``."""
    return {"verdict": outcome, "value": value, "limit": limit, "text": text}


def overall(rules: Mapping[str, Mapping[str, Any]]) -> str:
    """The worst verdict of *rules*; ``pass`` for none."""
    return max((str(rule["verdict"]) for rule in rules.values()), key=ORDER.index, default="pass")


def first_void(rules: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first rule that voids, which names the run's failure."""
    return next((name for name, rule in rules.items() if rule["verdict"] == "void"), None)


def required_window_s(evidence_level: str, workload_id: str, window_s: float) -> float:
    """The shortest W a level allows (M11); a packaged profile's own, shorter W is enough for ``standard``."""
    limit = WINDOW_S[evidence_level]
    if evidence_level == "standard" and workload_id in names():
        return min(limit, window_s)
    return limit


def judge(
    frames: Sequence[Frame],
    steps: Sequence[Row],
    shards: Sequence[Mapping[str, Any]],
    *,
    evidence_level: str,
    planned_steps: int,
    fixed_output_length: bool,
    window_required_s: float,
) -> Rules:
    """All rules that need only samples and ``shard.json`` documents, in order of severity of what they catch.

    *frames* and *steps* (``metrics.step_row``) belong together; *planned_steps* is the length of the ladder.
    """
    demo = evidence_level == "demo"
    rules: Rules = {"manifest": _manifest(frames, shards, planned_steps)}
    rules["error_rate"] = _errors(steps)
    if any(frame.window.load_kind == "open" for frame in frames):
        rules["dispatch_delay"] = _worst(map(_dispatch_rule(demo), filter(_is_open, frames)))
        rules["achieved_rate"] = _worst(map(_achieved, filter(_is_open, frames)))
    rules |= _client(shards, demo=demo)
    if fixed_output_length and frames:
        rules["length_fidelity"] = _worst(map(_length_fidelity, frames))
    rules["token_count"] = _token_count(steps)
    if frames:
        rules["transport_buffering"] = _worst(map(_buffering, frames))
        rules["evidence"] = _worst(_evidence(f, evidence_level, window_required_s) for f in frames)
        rules["independence"] = _worst(map(_independence, frames))
    rules["clock_drift"] = _drift(shards)
    if (skew := _replica_skew(frames)) is not None:
        rules["replica_skew"] = skew
    return rules


def _is_open(frame: Frame) -> bool:
    return frame.window.load_kind == "open"


def _worst(verdicts: Iterator[Verdict]) -> Verdict:
    """The worst verdict of several steps; among equals the one with the largest number."""
    return max(
        verdicts, key=lambda v: (ORDER.index(v["verdict"]), v["value"] if v["value"] is not None else -1.0)
    )


def _manifest(frames: Sequence[Frame], shards: Sequence[Mapping[str, Any]], planned_steps: int) -> Verdict:
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


def _errors(steps: Sequence[Row]) -> Verdict:
    if not steps or all(step["ok"] == 0 for step in steps):
        return verdict("void", 1.0, ERROR_SHARE_NOT_ELIGIBLE, "No request of any window succeeded.")
    worst = max(steps, key=lambda step: step["error_rate"] or 0.0)
    share = worst["error_rate"] or 0.0
    label = load_label(worst["load_kind"], worst["load_value"])
    where = f"{share:.1%} of the requests of step {label} failed"
    if worst["ok"] == 0:
        return verdict("void", share, ERROR_SHARE_NOT_ELIGIBLE, f"No request of step {label} succeeded.")
    if share > ERROR_SHARE_OVERLOADED:
        return verdict("warn", share, ERROR_SHARE_OVERLOADED, f"{where}: the server was overloaded.")
    if share > ERROR_SHARE_NOT_ELIGIBLE:
        return verdict(
            "warn", share, ERROR_SHARE_NOT_ELIGIBLE, f"{where}: the step is not eligible for best."
        )
    return verdict("pass", share, ERROR_SHARE_NOT_ELIGIBLE, f"{where}.")


def _dispatch_rule(demo: bool) -> Callable[[Frame], Verdict]:
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


def _achieved(frame: Frame) -> Verdict:
    """Sends in W against arrivals in W. One request may cross an edge, so a shortfall of one never voids."""
    offered = max(frame.window.requests_scheduled, int(frame.arrived.sum()))
    sent = int(frame.holds(frame.sent_ns).sum())
    share = sent / offered if offered else 0.0
    limited = share < ACHIEVED_SHARE and offered - sent > 1
    # The worst step has the smallest share, and _worst looks for the largest number.
    text = f"Step {frame.window.label} sent {share:.1%} of its scheduled requests inside the window."
    return verdict("void" if limited else "pass", 1.0 - min(share, 1.0), 1.0 - ACHIEVED_SHARE, text)


def _client(shards: Sequence[Mapping[str, Any]], *, demo: bool) -> Rules:
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


def _length_fidelity(frame: Frame) -> Verdict:
    asked, got = frame.numbers("output_tokens_requested"), frame.numbers("output_tokens")
    answered = frame.ok | frame.says(
        "error_class", "wrong_length"
    )  # the generator fails an answer of another length
    known = frame.arrived & answered & (asked > 0) & ~np.isnan(got)
    index = frame.window.label
    if not known.any():
        return verdict("warn", None, LENGTH_SHARE, f"Output lengths of step {index} are unknown.")
    share = float((np.abs(got[known] / asked[known] - 1.0) > LENGTH_TOLERANCE).mean())
    text = f"{share:.1%} of the answers of step {index} differ from the asked length by more than 1 %."
    return verdict("void" if share > LENGTH_SHARE else "pass", share, LENGTH_SHARE, text)


def _token_count(steps: Sequence[Row]) -> Verdict:
    shares = [step["token_mismatch_share"] for step in steps if step["token_mismatch_share"] is not None]
    if not shares:
        return verdict(
            "warn", None, MISMATCH_SHARE, "No answer carries both streamed tokens and a server count."
        )
    share = max(shares)
    text = (
        f"In {share:.1%} of the answers the streamed tokens and the server's count differ by more than 2 %."
    )
    return verdict("warn" if share > MISMATCH_SHARE else "pass", share, MISMATCH_SHARE, text)


def _buffering(frame: Frame) -> Verdict:
    shared = frame.numbers("shared_chunks")[frame.arrived]
    chunks = int(frame.chunk_counts[frame.arrived].sum())
    share = float(np.nansum(shared)) / chunks if chunks else 0.0
    text = f"{share:.1%} of the token chunks of step {frame.window.label} shared a read with another"
    if share > SHARED_CHUNK_SHARE:
        return verdict(
            "warn",
            share,
            SHARED_CHUNK_SHARE,
            f"{text}: transport-buffered, the ITL tail is not the engine's.",
        )
    return verdict("pass", share, SHARED_CHUNK_SHARE, f"{text}.")


def _evidence(frame: Frame, level: str, required_s: float) -> Verdict:
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


def _independence(frame: Frame) -> Verdict:
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


def _drift(shards: Sequence[Mapping[str, Any]]) -> Verdict:
    drifts = [abs(float(s["drift_ms_per_min"])) for s in shards if s.get("drift_ms_per_min") is not None]
    if not drifts:
        return verdict("warn", None, DRIFT_MS_PER_MIN, "The wall clock's drift was not measured.")
    drift = max(drifts)
    text = f"The wall clock moved {drift:.2f} ms a minute against the monotonic one; latencies do not use it."
    return verdict("warn" if drift > DRIFT_MS_PER_MIN else "pass", drift, DRIFT_MS_PER_MIN, text)


def _replica_skew(frames: Sequence[Frame]) -> Verdict | None:
    counts: dict[str | None, int] = {}
    for frame in frames:
        for replica, counted in zip(frame.words("replica_id"), frame.arrived, strict=True):
            if counted and replica is not None:
                counts[replica] = counts.get(replica, 0) + 1
    if len(counts) < 2:
        return None
    skew = max(counts.values()) * len(counts) / sum(counts.values())
    text = f"The busiest of {len(counts)} replicas answered {skew:.2f} times its share."
    return verdict("warn" if skew > REPLICA_SKEW else "pass", skew, REPLICA_SKEW, text)
