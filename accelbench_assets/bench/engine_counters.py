"""The engine's own ``/metrics`` before and after the load: kept as rows, and compared with what we counted.

Belongs here: whole pages as ``engine_metrics`` rows, restart detection, reconciliation of requests, tokens and mean
latencies. Does not belong here: fetching the text (``launch``), the names (``telemetry.names``), readings during the
load (``telemetry.sampler``).

The pages frame everything the generator sends: readiness probes precede *before*, and calibration, warm-up, tail and
canary requests lie between the two and are rows like any other. So on an engine known to count exactly (vLLM,
llama.cpp) requests and tokens must be equal, not close. Requests that never finished are the exception: the engine may
or may not have finished or counted them, which gives a bound instead of a number, and the sentence says so. vLLM also
counts the tokens of finished requests apart from all others; where it does, cut requests spoil nothing. Engines count
prompt tokens with those found in the prefix cache (vLLM) or without (llama.cpp): ours are taken the way that is
nearer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from accelbench_assets.bench.engine_agreement import (
    Growth,
    chunks_of,
    latency_agrees,
    our_counts,
    requests_agree,
    tokens_agree,
)
from accelbench_assets.bench.rules.outcome import Rules, verdict
from accelbench_assets.telemetry.names import EngineNames, chosen, engine_of
from accelbench_assets.telemetry.prometheus import labels_json

START_TIME = "process_start_time_seconds"
NOT_FINISHED = ("abort", "error")
_LOST = " (not finished)"

Totals = dict[str, float]


def metric_rows(run_id: str, at: datetime, texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """``engine_metrics`` rows of one reading under the engine's own names; *texts* maps replica to exposition text.

    Lines that do not parse are left out: a foreign server's page must not fail a run.
    """
    from prometheus_client.parser import text_string_to_metric_families

    rows: list[dict[str, Any]] = []
    for replica, text in texts.items():
        try:
            for family in text_string_to_metric_families(text):
                rows += [
                    {
                        "run_id": run_id,
                        "at": at,
                        "source": replica,
                        "name": sample.name,
                        "labels": labels_json(sample.labels),
                        "value": float(sample.value),
                    }
                    for sample in family.samples
                ]
        except ValueError:
            continue
    return rows


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Totals]:
    """Sums over labels by source and metric name; requests the engine aborted or failed are left out of their sum."""
    found: dict[str, Totals] = {}
    for row in rows:
        of_source = found.setdefault(row["source"], {})
        name = row["name"]
        if any(f'"finished_reason": "{reason}"' in row["labels"] for reason in NOT_FINISHED):
            name += _LOST
        of_source[name] = of_source.get(name, 0.0) + row["value"]
    return found


def reconcile(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    samples: pa.Table,
) -> Rules:
    """Rules ``engine_restart`` (S5(d)), ``engine_counters`` (tokens), ``engine_requests`` and ``engine_latency``.

    A page of no known engine makes no rule. What a known engine does not count is said with the value ``unknown``.
    Disagreement warns: another user of the server, a router or a page of one process among several explains it, and no
    latency depends on it. Only when we claim over a quarter more output tokens than the engine made is the run void.
    """
    first, last = totals(before), totals(after)
    shared = sorted(set(first) & set(last))
    engine = engine_of(name for source in shared for name in last[source])
    rules: Rules = {}
    restarted = [s for s in shared if _restarted(first[s], last[s], engine)]
    if any(START_TIME in first[s] for s in shared) or engine is not None:
        text = f"Restarted during the load: {', '.join(restarted)}." if restarted else "No engine restarted."
        rules["engine_restart"] = verdict("void" if restarted else "pass", len(restarted), 0, text)
    if engine is None:
        return rules
    grown = _growth(first, last, shared, engine)
    chunks = chunks_of(samples)
    ours = our_counts(samples, chunks.received)
    missing = sorted(set(first) ^ set(last))
    aside = f" {', '.join(missing)} was read only once and is left out." if missing else ""
    rules["engine_counters"] = tokens_agree(engine, grown, ours, aside)
    rules["engine_requests"] = requests_agree(engine, grown, ours, aside)
    rules["engine_latency"] = latency_agrees(engine, grown, samples, chunks)
    return rules


def _restarted(first: Totals, last: Totals, engine: EngineNames | None) -> bool:
    if START_TIME in first and START_TIME in last:
        return first[START_TIME] != last[START_TIME]
    if engine is None:
        return False
    names = chosen(engine, last).get("generation_tokens_total", ())
    return any(last[name] < first.get(name, 0.0) for name in names)


def _growth(
    first: Mapping[str, Totals], last: Mapping[str, Totals], shared: Sequence[str], engine: EngineNames
) -> Growth:
    """What every counter the engine has grew by, over all replicas."""
    grown = Growth()
    for source in shared:
        for canonical, parts in chosen(engine, last[source]).items():
            for part in parts:
                before, after = first[source].get(part, 0.0), last[source][part]
                lost = last[source].get(part + _LOST, 0.0) - first[source].get(part + _LOST, 0.0)
                grown.add(canonical, after - before, engine.rounding(before) + engine.rounding(after), lost)
    return grown
