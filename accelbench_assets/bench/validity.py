"""Validity of a run: every rule of ``rules`` that applies to it, in one mapping.

Belongs here: which rules a run is judged by, and the windows that evidence levels demand. Does not belong here: the
rules themselves (``rules``), computing metrics (``metrics``), what follows (``run``).

A void run is kept and never published. At evidence level ``demo`` the limits on the client's own timing warn
instead: a demonstration may run on a busy laptop, is marked as one and never ranks; a p99 dispatch delay
above ten times its limit voids even there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelbench_assets.bench.frame import Frame
from accelbench_assets.bench.metrics import Row
from accelbench_assets.bench.rules import answers, client, evidence, load
from accelbench_assets.bench.rules.outcome import Rules, first_void, overall, verdict, worst
from loadgen.workloads import names

__all__ = ["Rules", "first_void", "judge", "overall", "required_window_s", "verdict"]

WINDOW_S = {"demo": 0.0, "smoke": 120.0, "standard": 300.0, "publication": 600.0}  # M11


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
    cache_share: float | None = None,
    router: str = "none",
    canary_reference: Mapping[str, Any] | None = None,
) -> Rules:
    """All rules that need only samples and ``shard.json`` documents, in order of severity of what they catch.

    *frames* and *steps* (``metrics.step_row``) belong together; *planned_steps* is the length of the ladder.
    *cache_share* is the profile's designed share of cached prompt tokens (0: cold), *canary_reference* what the
    reference run's canaries said.
    """
    demo = evidence_level == "demo"
    rules: Rules = {"manifest": load.manifest(frames, shards, planned_steps)}
    rules["error_rate"] = answers.errors(steps)
    opened = [frame for frame in frames if frame.window.load_kind == "open"]
    if opened:
        rules["dispatch_delay"] = worst(map(load.dispatch_rule(demo), opened))
        rules["achieved_rate"] = worst(map(load.achieved, opened))
    rules |= client.client(shards, demo=demo) | client.throttled(shards, demo=demo)
    rules["client_ceiling"] = client.ceiling(shards, demo=demo)
    rules["stamp_lag"] = client.stamps(shards)
    if fixed_output_length and frames:
        rules["length_fidelity"] = worst(map(answers.length_fidelity, frames))
    rules["token_count"] = answers.token_count(steps)
    if frames:
        rules["warm_up"] = evidence.warm_up(shards, steps, evidence_level)
        rules["transport_buffering"] = worst(map(answers.buffering, frames))
        rules["evidence"] = worst(evidence.evidence(f, evidence_level, window_required_s) for f in frames)
        rules["independence"] = worst(map(evidence.independence, frames))
        rules["steadiness"] = evidence.steady(steps, evidence_level)
        if (backlog := evidence.stable(frames)) is not None:
            rules["stability"] = backlog
        cache = answers.prefix_cache(frames, cache_share, _template_tokens(shards), demo=demo)
        if cache is not None:
            rules["prefix_cache"] = cache
    rules["clock_drift"] = load.drift(shards)
    rules["clock_steps"] = client.clock_steps(shards)
    if (skew := load.replica_skew(frames, router=router)) is not None:
        rules["replica_skew"] = skew
    found = next((shard["canary"] for shard in shards if shard.get("canary")), None)
    if (answered := answers.canary(found, canary_reference)) is not None:
        rules["canary"] = answered
    return rules


def _template_tokens(shards: Sequence[Mapping[str, Any]]) -> float:
    return max(
        (float((s.get("calibration") or {}).get("template_tokens") or 0.0) for s in shards), default=0.0
    )
