"""The engine's own ``/metrics`` before and after the load: kept as rows, and compared with what we counted.

Belongs here: parsing Prometheus text, ``engine_metrics`` rows, restart detection, reconciliation of tokens.
Does not belong here: fetching the text (``launch``), names of metrics other than the token counters compared
here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from accelbench_assets.bench.validity import Rules, verdict

PROMPT_TOKENS = ("vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total")
OUTPUT_TOKENS = ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total")
START_TIME = "process_start_time_seconds"
TOLERANCE = 0.01

Totals = dict[str, float]


def metric_rows(run_id: str, at: datetime, texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """``engine_metrics`` rows of one reading; *texts* maps replica to exposition text. Lines that do not
    parse are
    left out: a foreign server's page must not fail a run."""
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
                        "labels": json.dumps(sample.labels, sort_keys=True),
                        "value": float(sample.value),
                    }
                    for sample in family.samples
                ]
        except ValueError:
            continue
    return rows


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Totals]:
    """Sums over labels by source and metric name."""
    found: dict[str, Totals] = {}
    for row in rows:
        of_source = found.setdefault(row["source"], {})
        of_source[row["name"]] = of_source.get(row["name"], 0.0) + row["value"]
    return found


def reconcile(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    samples: pa.Table,
) -> Rules:
    """Rules ``engine_restart`` (S5(d)) and ``engine_counters``, each only where the engine's page allows it.

    Ours are sums over every sample of the run, calibration included; readiness probes precede *before*. An
    engine may count prompt tokens with or without those it found in its cache. Requests without a token count
    (failed or cut) cost the engine tokens nobody reported, so with any of them only an engine that counts
    less than we do is a mismatch.
    """
    prompt_tokens, cached_tokens, output_tokens = (
        int(pc.sum(samples[name]).as_py() or 0)
        for name in ("input_tokens", "cached_input_tokens", "output_tokens")
    )
    unfinished = samples["output_tokens"].null_count
    rules: Rules = {}
    first, last = totals(before), totals(after)
    shared = sorted(set(first) & set(last))
    if any(START_TIME in first[s] or _known(first[s], OUTPUT_TOKENS) for s in shared):
        restarted = [s for s in shared if _restarted(first[s], last[s])]
        text = f"Restarted during the load: {', '.join(restarted)}." if restarted else "No engine restarted."
        rules["engine_restart"] = verdict("void" if restarted else "pass", len(restarted), 0, text)
    counted = [_difference(first, last, shared, names) for names in (PROMPT_TOKENS, OUTPUT_TOKENS)]
    if counted[0] is None and counted[1] is None:
        return rules
    gaps: list[tuple[float, str]] = []
    if counted[0] is not None:
        candidates = (prompt_tokens, prompt_tokens - cached_tokens)
        ours = min(candidates, key=lambda tokens: abs((counted[0] or 0.0) - tokens))
        gaps.append(
            (_gap(counted[0], ours, unfinished), f"prompt tokens {counted[0]:.0f} against our {ours}")
        )
    if counted[1] is not None:
        gaps.append(
            (
                _gap(counted[1], output_tokens, unfinished),
                f"output tokens {counted[1]:.0f} against our {output_tokens}",
            )
        )
    worst = max(gap for gap, _ in gaps)
    text = f"The engine counted {' and '.join(words for _, words in gaps)}."
    rules["engine_counters"] = verdict("warn" if worst > TOLERANCE else "pass", worst, TOLERANCE, text)
    return rules


def _known(metrics: Totals, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in metrics), None)


def _restarted(first: Totals, last: Totals) -> bool:
    if START_TIME in first and START_TIME in last:
        return first[START_TIME] != last[START_TIME]
    name = _known(first, OUTPUT_TOKENS)
    return name is not None and last.get(name, 0.0) < first[name]


def _difference(
    first: Mapping[str, Totals], last: Mapping[str, Totals], sources: Sequence[str], names: tuple[str, ...]
) -> float | None:
    known = [(s, name) for s in sources if (name := _known(last[s], names)) is not None]
    return sum(last[s][name] - first[s].get(name, 0.0) for s, name in known) if known else None


def _gap(theirs: float, ours: int, unfinished: int) -> float:
    gap = (theirs - ours) / max(ours, 1)
    return abs(gap) if unfinished == 0 else max(0.0, -gap)
