"""``guidellm run`` with ``--output kind=json``: a report with one or more benchmarks (read in guidellm 0.8.1).

Belongs here: recognising that report and mapping its figures. Does not belong here: our own log under
guidellm's formulas (``bench.compat``).

What is ours: TTFT, from the send to the first content. Not ours: its TPOT holds TTFT, its ITL is a mean of
each request weighted by tokens, its request latency ends with the stream and not with the last token.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from accelbench_assets.importers.document import Fields, ImportRefused, Source
from accelbench_assets.importers.model import (
    LEVELS,
    SUCCESSES,
    WHOLE_RUN,
    Figure,
    ImportedRun,
    Load,
    closed_too,
    ordered,
)

KIND, TOOL = "guidellm", "guidellm"
SCHEMA = 2
"""The report schema that is understood (``metadata.version``)."""
_METRICS = {
    "time_to_first_token_ms": "ms",
    "time_per_output_token_ms": "ms",
    "inter_token_latency_ms": "ms",
    "request_latency": "s",
}
_REASONS = {
    "time_per_output_token_ms": "includes TTFT and is weighted by tokens: (last - start) / N",
    "inter_token_latency_ms": "the mean of each request weighted by its tokens, not the gaps between tokens",
    "request_latency": "ends with the stream: the usage chunk after the last token is in it",
    "clock": "the tool stamps with the wall clock, which may step",
    "rates": WHOLE_RUN,
    "percentiles": SUCCESSES,
}


def matches(document: Any) -> bool:
    """Whether *document* is a report: a list of benchmarks with the tool's metadata."""
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        return False
    metadata = document.get("metadata")
    return isinstance(metadata, dict) and "guidellm_version" in metadata


def read(source: Source) -> list[ImportedRun]:
    """One run for each benchmark of the report. Raises ``ImportRefused`` naming the field."""
    report = Fields(source.name, source.documents[0])
    metadata = report.child("metadata")
    if (schema := metadata.count("version")) != SCHEMA:
        raise ImportRefused(
            f"{source.name}: metadata.version is {schema}; reports of version {SCHEMA} are understood.",
            hint="Run it again with guidellm 0.8 or import another tool's result.",
        )
    version = metadata.maybe_text("guidellm_version")
    return [_benchmark(one, version) for one in report.children("benchmarks")]


def _benchmark(fields: Fields, version: str | None) -> ImportedRun:
    config, metrics = fields.child("config"), fields.child("metrics")
    totals = metrics.child("request_totals")
    ok = totals.count("successful")
    load = _load(config.child("strategy"))
    backend = config.maybe_child("backend")
    figures = {name: _figure(metrics, name, unit) for name, unit in _METRICS.items()} if ok else {}
    own = {"ttft_from_send": figures["time_to_first_token_ms"]} if ok else {}
    reasons = dict(_REASONS)
    if incomplete := totals.count("incomplete"):
        reasons["incomplete"] = f"{incomplete} requests were cut off at the end and are counted neither way"
    return ImportedRun(
        kind=KIND,
        tool=TOOL,
        tool_version=version,
        model=backend.maybe_text("model") if backend else None,
        load=load,
        ok=ok,
        errors=totals.count("errored"),
        duration_s=fields.number("duration"),
        started_at=datetime.fromtimestamp(fields.number("start_time"), UTC),
        endpoint=backend.maybe_text("target") if backend else None,
        rates={
            "requests_per_s": _mean(metrics, "requests_per_second"),
            "output_tokens_per_s": _mean(metrics, "output_tokens_per_second"),
            "input_tokens_per_s": _mean(metrics, "prompt_tokens_per_second"),
            "total_tokens_per_s": _mean(metrics, "tokens_per_second"),
            "concurrency_mean": _mean(metrics, "request_concurrency"),
        },
        input_tokens_mean=_mean(metrics, "prompt_token_count") if ok else None,
        output_tokens_mean=_mean(metrics, "output_token_count") if ok else None,
        own=closed_too(own, load),
        verbatim=tuple(figures.values()),
        reasons=reasons,
    )


def _mean(metrics: Fields, name: str) -> float:
    return metrics.child(name).child("successful").number("mean")


def _figure(metrics: Fields, name: str, unit: str) -> Figure:
    fields = metrics.child(name).child("successful")
    percentiles = fields.child("percentiles")
    return ordered(
        Figure(
            metric=name,
            unit=unit,
            n=fields.count("count"),  # of a weighted metric: the sum of its weights
            levels={level: percentiles.number(level) for level in LEVELS},
            mean=fields.number("mean"),
            std=fields.number("std_dev"),
            low=fields.number("min"),
            high=fields.number("max"),
            method="inverse_ecdf",
        ),
        fields,
    )


def _load(strategy: Fields) -> Load:
    kind = strategy.text("type_")
    if kind == "synchronous":
        return Load("closed", 1.0)
    if kind == "concurrent":
        return Load("closed", strategy.number("streams", low=1))
    if kind == "throughput":
        return Load("closed", strategy.number("max_concurrency", low=1), "at_once")
    if kind in ("constant", "async", "poisson"):
        return Load("open", strategy.number("rate", low=1e-9), "poisson" if kind == "poisson" else "constant")
    raise ImportRefused(
        f"{strategy.file}: {strategy.place}.type_ is {kind!r}, a load that one number does not describe.",
        hint="Importable are synchronous, concurrent, throughput, constant and poisson.",
    )
